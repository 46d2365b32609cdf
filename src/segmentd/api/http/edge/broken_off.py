"""Answers that do not come to their end: the client sees it, whichever way they are framed.

A chunked answer has an end of its own. HTTP/1.0 has no chunks, so the end of the connection is that of the
answer. Until the answer is complete, the kernel would end such a connection with a reset, even if the process
is killed.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Final

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_RESET: Final = struct.pack("ii", 1, 0)
_CLOSE: Final = struct.pack("ii", 0, 0)


def reset(transport: asyncio.Transport) -> None:
    """Ends a connection so that the client cannot take what it has for everything."""
    _end_by(_RESET, transport)
    transport.abort()


def ending_visibly(app: ASGI3Application, cycle: RequestResponseCycle) -> ASGI3Application:
    """The application; if it returns before the end of its answer, the connection is reset."""

    async def ending(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        framed = scope["type"] != "http" or scope["http_version"] != "1.0"

        async def sending(message: ASGISendEvent) -> None:
            if not framed:
                _unframe(message, cycle)
            await send(message)

        await app(scope, receive, sending)
        if cycle.response_started and not cycle.response_complete and not cycle.disconnected:
            cycle.disconnected = True
            reset(cycle.transport)

    return ending


def _unframe(message: ASGISendEvent, cycle: RequestResponseCycle) -> None:
    """Sends the answer as it is, where uvicorn would make chunks of it."""
    if message["type"] == "http.response.start":
        if not any(name.lower() == b"content-length" for name, _ in message.get("headers", ())):
            cycle.chunked_encoding = cycle.keep_alive = False
            _end_by(_RESET, cycle.transport)
    elif message["type"] == "http.response.body" and not cycle.expected_content_length:
        cycle.expected_content_length = len(message.get("body", b""))
        if not message.get("more_body", False):
            _end_by(_CLOSE, cycle.transport)


def _end_by(linger: bytes, transport: asyncio.Transport) -> None:
    with suppress(OSError):  # the client has gone meanwhile
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
