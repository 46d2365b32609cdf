"""The HTTP server of a process, and its graceful stop (docs/decisions/0050)."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Final

import structlog
import uvicorn
from litestar.types import ASGIApp

from segmentd.api.http.edge.connection import LimitedProtocol
from segmentd.serve.connection_queue import taken_from

# For how long an idle connection stays open after the stop begins: a request may be on its way.
LINGER_S: Final = 0.5
# For how long the process waits until the refusals of cut-off requests are sent.
_CUT_OFF_S: Final = 0.5
_LOOK_EVERY_S: Final = 0.02
# How many connections begin before requests get their turn.
_AT_A_TIME: Final = 32

_log = structlog.get_logger(__name__)


class Server(uvicorn.Server):
    """uvicorn on connections from a queue, without its signal handlers, whose stop loses no request.

    `cut_off` answers the requests that still have no answer `seconds` after the stop began.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        queue: socket.socket,
        report_ready: Callable[[], None],
        cut_off: Callable[[], Awaitable[None]] | None = None,
        seconds: float = 0,
    ) -> None:
        super().__init__(config)
        self._queue = queue
        self._beginning: set[asyncio.Task[None]] = set()
        self._report_ready = report_ready
        self._cut_off = cut_off
        self._seconds = seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes connections from now on, and reports that."""
        del sockets  # the supervisor has the only one
        await super().startup([])
        asyncio.get_running_loop().add_reader(self._queue, self._take, _AT_A_TIME)
        self._report_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Installs no signal handlers: the supervisor's protocol says when to stop."""
        yield

    async def exit_after(self, stop: asyncio.Event) -> None:
        """Begins the graceful stop once `stop` is set."""
        await stop.wait()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes the last connections, waits a while for running requests, and answers those that are left."""
        del sockets
        self._protocol.leaving = True
        await self._take_the_last()
        for connection in self._connections():
            connection.leave()
        linger = min(LINGER_S, self._seconds)
        await self._is_empty_within(linger)
        for connection in self._connections():
            connection.shutdown()
        if not await self._is_empty_within(self._seconds - linger):
            await self._end_the_rest()

    def _take(self, most: int | None) -> None:
        try:
            self._take_some(most)
        except EOFError:  # the supervisor was killed: the stop follows, and begins by itself
            asyncio.get_running_loop().remove_reader(self._queue)

    def _take_some(self, most: int | None) -> None:
        loop = asyncio.get_running_loop()
        for taken in islice(taken_from(self._queue), most):
            if taken.connection is not None:
                taken.connection.settimeout(0)
                task = loop.create_task(self._begin(taken.connection))
                self._beginning.add(task)
                task.add_done_callback(self._beginning.discard)
            elif taken.is_lost:
                _log.warning("a connection was reset: no descriptor is free")
                self._protocol.ended()

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._new_protocol, connection)
        except OSError:  # it has gone meanwhile
            connection.close()
            self._protocol.ended()

    async def _take_the_last(self) -> None:
        """The supervisor has closed the port, and gives no more."""
        asyncio.get_running_loop().remove_reader(self._queue)
        self._take(None)
        await asyncio.gather(*self._beginning)

    async def _end_the_rest(self) -> None:
        _log.warning("requests were cut off by the stop", connections=len(self.server_state.connections))
        if self._cut_off is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._cut_off(), _CUT_OFF_S)
        for connection in self._connections():
            connection.cut_off()
        for task in list(self.server_state.tasks):
            task.cancel()
        await self._is_empty_within(_CUT_OFF_S)
        for connection in self._connections():
            connection.transport.abort()

    async def _is_empty_within(self, seconds: float) -> bool:
        """Waits until there is no connection and no request; returns whether that happened in time."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + seconds
        while self.server_state.connections or self.server_state.tasks:
            if loop.time() >= give_up:
                return False
            await asyncio.sleep(_LOOK_EVERY_S)
        return True

    @property
    def _protocol(self) -> type[LimitedProtocol]:
        protocol = self.config.http_protocol_class
        if not issubclass(protocol, LimitedProtocol):
            raise TypeError("the server's protocol is ours")
        return protocol

    def _new_protocol(self) -> LimitedProtocol:
        return self._protocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def _connections(self) -> list[LimitedProtocol]:
        return [each for each in self.server_state.connections if isinstance(each, LimitedProtocol)]


def uvicorn_config(app: ASGIApp, protocol: type[LimitedProtocol]) -> uvicorn.Config:
    """Uvicorn's settings."""
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # api/http/edge/addresses.py reads them where they matter
    )
