"""The hot calls straight on ASGI: `GET /users/{id}/segments` without a query, `POST /lookup`, evaluations."""

import time

from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from segmentd.api.http.edge.guard import AUTHORIZATION
from segmentd.api.http.edge.request_ids import HEADER
from segmentd.api.http.hot.calls import LOOKUP, Answer, HotCalls
from segmentd.api.http.hot.plain import (
    USER_SEGMENTS,
    is_plain_address,
    is_plain_json,
    replayed,
    user_in,
    whole_body,
)
from segmentd.api.http.ofrep.failures import FLAGS
from segmentd.api.http.ofrep.hot import Evaluated, Evaluations


class HotPath:
    """An ASGI application in front of the framework's, to which all falls through that is not plain."""

    def __init__(self, app: ASGIApp, calls: HotCalls, evaluations: Evaluations | None = None) -> None:
        self._app = app
        self.calls = calls
        self.evaluations = evaluations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_plain_address(scope):
            if scope["method"] == "GET":
                await self._read(scope, receive, send)
                return
            if scope["method"] == "POST" and scope["path"] == LOOKUP:
                await self._look_up(scope, receive, send)
                return
            if self.evaluations and scope["method"] == "POST" and scope["path"].startswith(FLAGS):
                await self._evaluate(self.evaluations, scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _read(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter_ns()
        answer = None
        if (user_id := user_in(scope["path"])) is not None:
            found = self.calls.noted(scope["headers"])
            if found is not None:
                answer = self.calls.read(user_id, found.get(AUTHORIZATION), found.get(HEADER))
        if answer is None:
            await self._app(scope, receive, send)
            return
        scope["path_template"] = USER_SEGMENTS  # as the framework names the route
        await _send(send, answer)
        if self.calls.reads is not None:
            self.calls.reads.add(time.perf_counter_ns() - begun)

    async def _look_up(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter_ns()
        headers = self.calls.noted(scope["headers"])
        if headers is None or not is_plain_json(headers):
            await self._app(scope, receive, send)
            return
        message = await receive()
        body = whole_body(message)
        question = None if body is None else self.calls.lookup_question(headers, body)
        answer = None if question is None else await self.calls.look_up(question)
        if answer is None:
            await self._app(scope, replayed(message, receive), send)
            return
        scope["path_template"] = LOOKUP
        await _send(send, answer)
        if self.calls.lookups is not None:
            self.calls.lookups.add(time.perf_counter_ns() - begun)

    async def _evaluate(
        self, evaluations: Evaluations, scope: HTTPScope, receive: Receive, send: Send
    ) -> None:
        begun = time.perf_counter_ns()
        noted = evaluations.noted(scope["headers"])
        if noted is None:
            await self._app(scope, receive, send)
            return
        message = await receive()
        body = whole_body(message)
        answer = None if body is None else evaluations.answer(scope["raw_path"], noted, body)
        if answer is None:
            await self._app(scope, replayed(message, receive), send)
            return
        scope["path_template"] = answer.route
        await _send(send, answer)
        if answer.tally is not None:
            answer.tally.add(time.perf_counter_ns() - begun)


async def _send(send: Send, answer: Answer | Evaluated) -> None:
    status = answer.status if isinstance(answer, Evaluated) else 200
    await send({"type": "http.response.start", "status": status, "headers": answer.headers()})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})
