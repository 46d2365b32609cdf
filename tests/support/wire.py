"""The protocol of one connection, fed piece by piece without a network."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import uvicorn
from uvicorn.server import ServerState

from segmentd.api.http.edge.connection import LimitedProtocol

_SOCKET: Final = socket.socket()


class Transport(asyncio.Transport):
    """Accepts everything that is written at once, and passes on what it is fed unless reading is paused."""

    def __init__(self) -> None:
        super().__init__({"socket": _SOCKET})
        self.written = bytearray()
        self.closing = False
        self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keeps it."""
        self.written += data

    def write_eof(self) -> None:
        """Nothing is written any more."""

    def close(self) -> None:
        """Nothing is read any more."""
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.closing

    def pause_reading(self) -> None:
        """Until it is resumed."""
        self.paused = True

    def resume_reading(self) -> None:
        """Goes on."""
        self.paused = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing waits."""

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0


class Wire:
    """A server's end of connections."""

    def __init__(
        self, protocol: type[LimitedProtocol], app: Callable[[Any, Any, Any], Awaitable[None]]
    ) -> None:
        self._protocol = protocol
        self._config = uvicorn.Config(
            app, http=protocol, ws="none", lifespan="off", log_config=None, server_header=False
        )
        self._config.load()

    def connect(self) -> tuple[LimitedProtocol, Transport, ServerState]:
        """A new connection."""
        state, transport = ServerState(), Transport()
        protocol = self._protocol(self._config, state, {})
        protocol.connection_made(transport)
        return protocol, transport, state

    async def say(self, pieces: Iterable[bytes], *, apart: bool = False) -> bytes:
        """What is answered to the pieces; `apart`: the application runs between two of them."""
        protocol, transport, state = self.connect()
        for piece in pieces:
            while transport.paused and state.tasks:  # noqa: ASYNC110 - uvicorn sets no event
                await asyncio.sleep(0)
            if transport.closing:
                break
            protocol.data_received(piece)
            for _ in range(4 if apart else 0):
                await asyncio.sleep(0)
        for _ in range(12):
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        await asyncio.gather(*state.tasks)
        return bytes(transport.written)


class Seen:
    """An application that remembers each request that it received whole."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - of two libraries
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        headers = b"\n".join(b": ".join(header) for header in scope["headers"])
        self.requests.append((scope["method"], scope["path"], headers, body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
