"""Requests directly to an ASGI application, with the body in as many messages as a test wants."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, cast
from urllib.parse import unquote

from litestar.types import ASGIApp, Receive, Scope, Send

Headers = Sequence[tuple[str, str]]

JSON: Headers = [("content-type", "application/json")]


class Request(NamedTuple):
    """A request as a client sends it; `path` is still escaped."""

    method: str
    path: str
    headers: Headers = ()
    body: Sequence[bytes] = (b"",)
    whole: bool = True
    """Whether the body ends with its last part; else the client goes away."""
    stays: bool = False
    """Whether the client stays until it is answered; else it goes away after the body."""


class Answer(NamedTuple):
    """An answer as a client sees it."""

    status: int
    headers: dict[str, str]
    body: bytes


class Counted:
    """An application, and how often it was asked."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.asked = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        await self._app(scope, receive, send)


async def ask(app: ASGIApp, request: Request) -> Answer:
    """Sends a request as uvicorn does."""
    path, _, query = request.path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"segmentd.test"), *((n.encode(), v.encode()) for n, v in request.headers)],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    unheard = [
        {"type": "http.request", "body": part, "more_body": not request.whole or index < len(request.body)}
        for index, part in enumerate(request.body, 1)
    ]
    answered: list[dict[str, Any]] = []
    is_answered = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if unheard:
            return unheard.pop(0)
        if request.stays:
            await is_answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        answered.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            is_answered.set()

    await app(cast("Any", scope), cast("Any", receive), cast("Any", send))
    begin, *rest = answered
    headers = {name.decode().lower(): value.decode() for name, value in begin["headers"]}
    return Answer(begin["status"], headers, b"".join(part.get("body", b"") for part in rest))
