"""The hot calls straight on ASGI: `GET /users/{id}/segments` without a query, and `POST /lookup`."""

import re
import time
from typing import Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send
from litestar.types.asgi_types import ReceiveMessage

from segmentd.api.http.hot.calls import (
    AFTER_ID,
    BEFORE_ID,
    LOOKUP,
    USER_SEGMENTS,
    Answer,
    HotCalls,
    is_plain_json,
)
from segmentd.domain.identifiers import USER_ID_DIGITS, UserId

# The framework checks everything else about ids.
_PLAIN_ID: Final = re.compile(USER_ID_DIGITS)


class HotPath:
    """An ASGI application in front of the framework's, to which all falls through that is not plain."""

    def __init__(self, app: ASGIApp, calls: HotCalls) -> None:
        self._app = app
        self.calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["query_string"] or b"%" in scope["raw_path"]:
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if scope["method"] == "GET" and path.endswith(AFTER_ID) and path.startswith(BEFORE_ID):
            await self._read(scope, receive, send, path[len(BEFORE_ID) : -len(AFTER_ID)])
        elif scope["method"] == "POST" and path == LOOKUP:
            await self._look_up(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _read(self, scope: HTTPScope, receive: Receive, send: Send, text: str) -> None:
        begun = time.perf_counter_ns()
        answer = None
        if _PLAIN_ID.fullmatch(text):
            question = self.calls.read_question(UserId(int(text)), scope["headers"])
            answer = None if question is None else self.calls.read(question)
        if answer is None:
            await self._app(scope, receive, send)
            return
        scope["path_template"] = USER_SEGMENTS  # as the framework names the route
        await _send(send, answer)
        if self.calls.reads is not None:
            self.calls.reads.add(time.perf_counter_ns() - begun)

    async def _look_up(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter_ns()
        noted = self.calls.noted(scope["headers"])
        if noted is None or not is_plain_json(noted):
            await self._app(scope, receive, send)
            return
        message = await receive()
        answer = None
        if (
            message["type"] == "http.request"
            and not message["more_body"]
            and (question := self.calls.lookup_question(noted, message["body"]))
        ):
            answer = await self.calls.look_up(question)
        if answer is not None:
            scope["path_template"] = LOOKUP
            await _send(send, answer)
            if self.calls.lookups is not None:
                self.calls.lookups.add(time.perf_counter_ns() - begun)
            return

        received = False

        async def again() -> ReceiveMessage:
            nonlocal received
            if received:
                return await receive()
            received = True
            return message

        await self._app(scope, again, send)


async def _send(send: Send, answer: Answer) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": answer.headers()})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})
