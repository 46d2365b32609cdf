"""How fast a client reads its answers, and how many of their bytes the process holds meanwhile."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar, Final, cast

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from segmentd.api.http.edge.broken_off import ending_visibly
from segmentd.api.http.edge.send_buffer import Room, SharedBytes

# The send buffer of the kernel. By default it takes megabytes, and the progress of a slow client shows only
# after a third of them: for half a minute a client that reads 30 kB/s would seem to read nothing.
UNSENT_BYTES: Final = 2**16


class ReadingFlow(FlowControl):
    """uvicorn's flow control, which remembers when a paused client could go on."""

    resumed_at = 0.0

    def __init__(self, transport: asyncio.Transport, now: Callable[[], float]) -> None:
        super().__init__(transport)
        self._now = now

    def resume_reading(self) -> None:
        if self.read_paused:
            self.resumed_at = self._now()
        super().resume_reading()


class MeasuredProtocol(HttpToolsProtocol):
    """uvicorn's protocol for one connection, which counts the bytes of answers."""

    room: ClassVar[Room] = Room()

    # Bytes of answers that were written, without heads, except on the hot path.
    _written = 0
    # At the last check: the bytes that the client had not read yet. And since when it has read how many
    # of the written bytes; this begins again whenever that is enough.
    _unsent = 0
    _counted_from = 0.0
    _taken = 0
    # How many of these bytes take memory of the process, and whether the present ones take none.
    _held = 0
    _sharing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            with suppress(OSError):  # the client has gone meanwhile
                transport.get_extra_info("socket").setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES
                )

    def connection_lost(self, exc: Exception | None) -> None:
        self._hold(0)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The send buffer is above its high-water mark: from here on the client is behind."""
        if not self._sharing:
            self._hold(self.transport.get_write_buffer_size())
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client has read nearly all of it."""
        self._hold(0)
        super().resume_writing()

    def _hold(self, size: int) -> None:
        if size != self._held:
            self.room.unsent.change(size - self._held)
            self._held = size

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        super()._start_asgi_task(cycle, self._counting(ending_visibly(app, cycle)))

    def _counting(self, app: ASGI3Application) -> ASGI3Application:
        """The application, with the bytes that it sends counted."""

        async def counting(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            async def counted(message: ASGISendEvent) -> None:
                body = message["body"] if message["type"] == "http.response.body" else b""
                self._sharing = isinstance(body, SharedBytes)
                try:
                    await send(message)
                finally:
                    self._sharing = False
                self._written += len(body)

            await app(scope, receive, counted)

        return counting

    def _takes_too_little(self, now: float, rate: float, seconds: float) -> bool:
        """Whether the client has read fewer bytes a second than that, over so many seconds until now."""
        unsent = self.transport.get_write_buffer_size()
        taken = self._written - unsent
        enough = unsent > 0 and taken - self._taken >= rate * seconds
        if enough or (unsent > 0) != (self._unsent > 0):
            self._counted_from, self._taken = now, taken
        self._unsent = unsent
        if self._held:
            self._hold(unsent)
        return unsent > 0 and now - self._counted_from >= seconds
