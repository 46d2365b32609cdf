"""The request middleware, for every request that the framework answers: id, limits, metrics, log line."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send
from litestar.types.asgi_types import HTTPResponseBodyEvent, HTTPResponseStartEvent, ReceiveMessage

from segmentd.api.http.edge.cors import ALL_METHODS, Cors, Headers, value_of
from segmentd.api.http.edge.in_progress import CLIENT_GONE, TOO_LONG, Ended, InProgress
from segmentd.api.http.edge.problem_documents import document, head
from segmentd.api.http.edge.request_ids import HEADER, RequestIds
from segmentd.api.http.edge.send_buffer import SMALL_ANSWER, Bound, Room, SharedBytes
from segmentd.api.http.edge.streamed import STREAMED
from segmentd.api.http.ofrep.failures import is_below_ofrep
from segmentd.api.problems import HTTP_PROBLEMS, Problem, problem_of
from segmentd.domain.errors import Overloaded
from segmentd.observability.metrics import Metrics, Refusal

# Monitoring asks for these, above all under overload, so they are never refused.
_ALWAYS_ANSWERED: Final = frozenset({"/livez", "/readyz", "/readyz/hot-reads", "/metrics"})
_METHOD_NOT_ALLOWED: Final = 405
_READS: Final = frozenset({"GET", "HEAD"})
_LOOKUP: Final = "/api/v1/lookup"
EVENT_STREAM: Final = b"text/event-stream; charset=utf-8"
_END: Final[HTTPResponseBodyEvent] = {"type": "http.response.body", "body": b"", "more_body": False}
_OVERLOADED: Final = problem_of(Overloaded)

# The framework caches the last thousand addresses and queries in parsed form. These limits bound the cache;
# queries of 16,000 parameters would take gigabytes.
LONGEST_ADDRESS: Final = 8192
MOST_PARAMETERS: Final = 64


class RequestLimits(NamedTuple):
    """How many requests a process handles at once, and how long an answer may take to begin."""

    most_requests: int = 512
    seconds: float = 70.0


class RequestMiddleware:
    """An ASGI application in front of the framework's."""

    def __init__(
        self,
        app: ASGIApp,
        ids: RequestIds,
        limits: RequestLimits,
        metrics: Metrics,
        room: Room | None = None,
        cors: Cors | None = None,
    ) -> None:
        self._app = app
        self._ids = ids
        self._seconds = limits.seconds
        self._metrics = metrics
        self.in_progress = InProgress(limits.most_requests, metrics)
        self._unsent = (room or Room()).unsent
        self._cors = cors or Cors()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        request_id = self._ids.id(value_of(scope["headers"], HEADER))
        scope["state"] = {**scope.get("state", {}), "request_id": request_id.decode()}
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id.decode())
        begun = time.perf_counter()
        # A request that changed something is answered even if it takes too long.
        can_wait = scope["path"] not in _ALWAYS_ANSWERED and _is_read(scope)
        of_every = [(HEADER, request_id), *self._cors.headers(scope["headers"])]
        answer = _Answer(send, of_every, scope, self._unsent if can_wait else None)
        asked = scope
        if scope["method"] == "HEAD":
            # The framework has no routes for HEAD: it is a GET without the body.
            asked = {**scope, "method": "GET"}
        answer.begins_stream = partial(self.in_progress.remove, answer)
        self.in_progress.add(answer)
        try:
            await self._limited(asked, receive, answer)
        finally:
            if "path_template" in asked:  # what the framework calls the route
                scope["path_template"] = asked["path_template"]
            if answer in self.in_progress:
                self.in_progress.remove(answer)
            if answer.has_no_room:
                self._unsent.say()
                self._metrics.refused(Refusal.UNSENT_BYTES)
            ended = Ended(
                scope["method"],
                scope["path"],
                scope.get("path_template"),
                answer.status,
                (answer.streaming_since or time.perf_counter()) - begun,
                scope["state"].get("problem"),
                _is_read(scope),
            )
            self.in_progress.note(ended)

    async def _limited(self, scope: HTTPScope, receive: Receive, answer: "_Answer") -> None:
        if self.in_progress.is_exceeded and scope["path"] not in _ALWAYS_ANSWERED:
            self._metrics.refused(Refusal.OVERLOAD)
            await answer.refuse("This process has too many requests to work on; try again shortly.")
            return
        if _is_too_long(scope):
            detail = f"An address has {LONGEST_ADDRESS} bytes and {MOST_PARAMETERS} parameters at most."
            await answer.refuse(detail, HTTP_PROBLEMS[414])
            return
        if b"%2f" in scope["raw_path"].lower():
            # It would be taken for a slash, which a proxy before this service may see otherwise.
            await answer.refuse("No address here has a slash that is escaped.", HTTP_PROBLEMS[404])
            return
        if scope["method"] == "OPTIONS" and (options := self._options(scope)) is not None:
            await answer.reply(204, options)
            return
        try:
            async with asyncio.timeout(self._seconds) as answer.limit:
                streams = (scope["method"], scope["path"]) in STREAMED
                receiving = answer.receiving(receive, self._seconds if streams else None)
                await self._app(scope, receiving, answer)
        except TimeoutError:
            if answer.status is not None or not answer.limit.expired():
                raise
            self._metrics.refused(Refusal.TIMEOUT)
            await answer.refuse(TOO_LONG)
        except asyncio.CancelledError:
            if answer.status is None:  # else it was cut off
                raise

    def _options(self, scope: HTTPScope) -> Headers | None:
        """What answers a question about the whole service, or of a page; None: an address answers."""
        if scope["path"] == "*":
            return ((b"allow", ALL_METHODS),)
        return self._cors.preflight([*scope["headers"]])


class _Answer:
    """Sends an answer with the headers of every answer, and records its status; to a HEAD without a body."""

    limit: asyncio.Timeout
    begins_stream: Callable[[], None]

    def __init__(self, send: Send, of_every: Headers, scope: HTTPScope, unsent: Bound | None) -> None:
        self._send = send
        self._of_every = of_every
        self._method = scope["method"]
        self._path = scope["path"]
        self._unsent = unsent
        self._begin: HTTPResponseStartEvent | None = None
        self._client_gone = False
        self._ended = False
        self.is_refused = False
        self.has_no_room = False
        self.streaming_since: float | None = None
        self.status: int | None = None

    def receiving(self, receive: Receive, seconds: float | None = None) -> Receive:
        """Receives, and notices if the client goes away before it is answered.

        With `seconds` the time until the answer begins only counts between two messages: how long a client
        may take to send them is the connection's affair.
        """
        now = asyncio.get_running_loop().time

        async def receive_and_notice() -> ReceiveMessage:
            if seconds is not None and self.status is None:
                self.limit.reschedule(None)
            message = await receive()
            if seconds is not None and self.status is None:
                self.limit.reschedule(now() + seconds)
            if message["type"] == "http.disconnect" and self.status is None:
                self._client_gone = True
            return message

        return receive_and_notice

    async def __call__(self, message: Message) -> None:
        if self.is_refused:  # and the framework was about to answer
            return
        if message["type"] == "http.response.start":
            self.limit.reschedule(None)
            if self._unsent is not None and self._unsent.is_reached:
                self._begin = message  # which waits until it shows how large the answer is
            else:
                await self._start(message)
        elif message["type"] == "http.response.body":
            await self._go_on(message)
        else:
            await self._send(message)

    async def _go_on(self, message: HTTPResponseBodyEvent) -> None:
        if self._ended:
            return  # a streaming application learns that the client is gone
        if self._begin is not None:
            begin, self._begin = self._begin, None
            if _is_large(message):
                self.has_no_room = True
                await self.refuse("Clients have not taken too many answers yet; try again shortly.")
                return
            await self._start(begin)
        if self._method == "HEAD":
            message = _END
        self._ended = not message["more_body"]
        await self._send(message)

    async def _start(self, begin: HTTPResponseStartEvent) -> None:
        self.status = CLIENT_GONE if self._client_gone else begin["status"]
        begin["headers"] = [*self._of_every, *begin["headers"]]
        if self.status == _METHOD_NOT_ALLOWED:
            begin["headers"] = [(name, _with_head(name, value)) for name, value in begin["headers"]]
        if (b"content-type", EVENT_STREAM) in begin["headers"]:
            self.streaming_since = time.perf_counter()
            self.begins_stream()
        await self._send(begin)

    async def refuse(self, detail: str, problem: Problem = _OVERLOADED) -> None:
        """Answers instead of the framework."""
        refusal = document(self._path, problem, detail, self._of_every[0][1].decode())
        await self.reply(refusal.status, head(problem, refusal), refusal.body)

    async def reply(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Sends the whole answer; nothing that the framework sends comes after it."""
        self.is_refused = True
        self.status = status
        whole = [*self._of_every, *headers]
        await self._send({"type": "http.response.start", "status": status, "headers": whole})
        content = b"" if self._method == "HEAD" else body
        await self._send({"type": "http.response.body", "body": content, "more_body": False})


def _is_read(scope: HTTPScope) -> bool:
    path = scope["path"]
    return scope["method"] in _READS or path == _LOOKUP or is_below_ofrep(path)


def _is_large(message: HTTPResponseBodyEvent) -> bool:
    body = message["body"]
    return (message["more_body"] or len(body) > SMALL_ANSWER) and not isinstance(body, SharedBytes)


def _is_too_long(scope: HTTPScope) -> bool:
    query = scope["query_string"]
    # ASGI's path is decoded, so it has at most as many bytes as were sent.
    return len(scope["path"]) + len(query) > LONGEST_ADDRESS or query.count(b"&") >= MOST_PARAMETERS


def _with_head(name: bytes, value: bytes) -> bytes:
    """The value of a header; HEAD is added to an `Allow` that has GET."""
    methods = value.decode().split(", ")
    if name.lower() != b"allow" or "GET" not in methods:
        return value
    return ", ".join(sorted({*methods, "HEAD"})).encode()
