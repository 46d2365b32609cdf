"""What surrounds every call: request id, access, limits, log line, metrics, trace, the status of errors."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, NoReturn

import grpc
import structlog
from google.protobuf.message import Message

from segmentd.api.grpc.departure import to_its_end
from segmentd.api.grpc.statuses import DETAILS, Refusal, failure, refusal
from segmentd.api.http.edge.request_ids import RequestIds
from segmentd.api.roles import ROLES, check
from segmentd.auth.authenticator import Authenticator
from segmentd.domain.access import Actor, Principal, Role, read_on_behalf_of
from segmentd.domain.errors import Fault, Invalid, Overloaded, SegmentdError, Unauthenticated, read
from segmentd.observability.metrics import Metrics
from segmentd.observability.metrics import Refusal as Reason
from segmentd.observability.tally import Tally
from segmentd.observability.traces import Tracing
from segmentd.service import Service

AUTHORIZATION: Final = "authorization"
REQUEST_ID: Final = "x-request-id"
ON_BEHALF_OF: Final = "x-on-behalf-of"
# No client gets these; they are for the log and the metrics, as over HTTP.
_GONE: Final = 499
_TOO_LONG: Final = "The call took longer than it may; try again shortly."
_OK: Final = 200
_ERROR: Final = 500

Context = grpc.aio.ServicerContext[Any, Any]

Handler = Callable[[Any, Context], Awaitable[bytes]]
"""Answers one message, of the method's own type, with another one as bytes."""

_log = structlog.get_logger(__name__)


class Call(NamedTuple):
    """A call of a caller who may make it."""

    service: Service
    principal: Principal
    metadata: Mapping[str, str | bytes]

    @property
    def actor(self) -> Actor:
        """Who asks for a change, and on whose behalf, if the caller says so. Raises Invalid."""
        given = self.metadata.get(ON_BEHALF_OF)
        if given is None:
            return Actor(self.principal.name)
        text = given if isinstance(given, str) else given.decode("utf-8", "replace")
        return Actor(self.principal.name, read(read_on_behalf_of, text, f"/{ON_BEHALF_OF}"))


class Method(NamedTuple):
    """A method: its row in the table of roles, and what answers it, with one message or with many.

    One message may come as the bytes that are sent.
    """

    operation: str
    answer: Callable[[Call, Any], Coroutine[Any, Any, Message | bytes]] | None = None
    answers: Callable[[Call, Any], AsyncIterator[Message]] | None = None


class Limits(NamedTuple):
    """How many calls a process handles at once, streams not counted, and how long each may take.

    A change may take `grace` seconds more after its client has gone.
    """

    most_calls: int = 512
    seconds: float = 70.0
    grace: float = 1.0


class Calls:
    """Handles the calls of one process."""

    def __init__(
        self,
        service: Service,
        authenticator: Authenticator,
        limits: Limits,
        metrics: Metrics,
        tracing: Tracing | None = None,
    ) -> None:
        self._service = service
        self._authenticator = authenticator
        self._limits = limits
        self._metrics = metrics
        self._tracing = tracing
        self._ids = RequestIds()
        self._running = 0

    def unary(self, path: str, method: Method, tally: Tally | None = None) -> Handler:
        """The handler of a method with one answer; the tally, if any, counts those that are no error."""
        answer = method.answer
        if answer is None:
            raise TypeError(f"{path} has many answers")
        changes = ROLES[method.operation] is not Role.READER

        async def handle(request: Message, context: Context) -> bytes:
            with self._noted(path, context, tally) as noted:
                try:
                    call = self._admitted(noted, method.operation)
                    async with asyncio.timeout(self._limits.seconds):
                        work = answer(call, request)
                        answered = await (to_its_end(work, self._limits.grace) if changes else work)
                    return answered if isinstance(answered, bytes) else answered.SerializeToString()
                except TimeoutError:
                    self._metrics.refused(Reason.TIMEOUT)
                    noted.refusal = refusal(Overloaded(_TOO_LONG))
                except SegmentdError as error:
                    noted.refusal = refusal(error)
                except Exception as error:  # noqa: BLE001 - a bug: the answer gets nothing of it
                    _log.error("request failed", method="POST", path=path, exc_info=error)
                    noted.refusal = failure()
            return await _end(context, noted)

        return handle

    def stream(self, path: str, method: Method) -> Callable[[Message, Context], AsyncIterator[Message]]:
        """The handler of a method with many answers."""
        answers = method.answers
        if answers is None:
            raise TypeError(f"{path} has one answer")

        async def handle(request: Message, context: Context) -> AsyncIterator[Message]:
            with self._noted(path, context, None, is_stream=True) as noted:
                try:
                    call = self._admitted(noted, method.operation)
                    async for message in answers(call, request):
                        yield message
                        noted.begin_stream()
                except SegmentdError as error:
                    noted.refusal = refusal(error)
                except Exception as error:  # noqa: BLE001 - a bug: the answer gets nothing of it
                    _log.error("request failed", method="POST", path=path, exc_info=error)
                    noted.refusal = failure()
            if noted.refusal is not None:
                await _end(context, noted)

        return handle

    def _admitted(self, noted: "_Noted", operation: str) -> Call:
        if self._running > self._limits.most_calls:
            self._metrics.refused(Reason.OVERLOAD)
            raise Overloaded("This process has too many requests to work on; try again shortly.")
        metadata = noted.metadata
        if AUTHORIZATION in noted.repeated:
            raise Unauthenticated("There is more than one authorization.")
        if ON_BEHALF_OF in noted.repeated:
            raise Invalid(Fault(f"/{ON_BEHALF_OF}", "must be given once"))
        given = metadata.get(AUTHORIZATION)
        principal = self._authenticator.admit(given.encode() if isinstance(given, str) else given)
        structlog.contextvars.bind_contextvars(actor=principal.name)
        check(principal, operation)
        return Call(self._service, principal, metadata)

    @contextmanager
    def _noted(
        self, path: str, context: Context, tally: Tally | None, *, is_stream: bool = False
    ) -> Iterator["_Noted"]:
        noted = _Noted(context)
        given = noted.metadata.get(REQUEST_ID)
        noted.request_id = self._ids.id(given.encode() if isinstance(given, str) else given).decode()
        context.set_trailing_metadata(((REQUEST_ID, noted.request_id),))
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=noted.request_id)
        self._running += not is_stream
        self._metrics.requests_in_progress.inc()
        try:
            if self._tracing is None:
                yield noted
            else:
                headers = {name: str(value) for name, value in noted.metadata.items()}
                with self._tracing.request("POST", "http", "2", headers) as span:
                    yield noted
                    span.answered(path, noted.status)
        except asyncio.CancelledError:
            noted.is_gone = True
            raise
        finally:
            self._running -= not is_stream
            self._metrics.requests_in_progress.dec()
            self._note(path, noted, tally)

    def _note(self, path: str, noted: "_Noted", tally: Tally | None) -> None:
        seconds = (noted.streaming_since or time.perf_counter()) - noted.begun
        status = noted.status
        if noted.refusal is not None:
            self._metrics.answered_with_problem(noted.refusal.problem.kind)
        if status == _OK and tally is not None:
            tally.add(round(seconds * 1e9))
            return
        self._metrics.answered("POST", path, status, seconds)
        level = _log.warning if status >= _ERROR else _log.info
        level(
            "request",
            method="POST",
            path=path,
            status=status,
            code=noted.code,
            milliseconds=round(seconds * 1000, 1),
        )


class _Noted:
    """What is noted of a call while it is handled."""

    def __init__(self, context: Context) -> None:
        self.begun = time.perf_counter()
        self.metadata: dict[str, str | bytes] = {}
        self.repeated: set[str] = set()
        for name, value in context.invocation_metadata() or ():
            if name in self.metadata:
                self.repeated.add(name)
            self.metadata[name] = value
        self.request_id = ""
        self.refusal: Refusal | None = None
        self.is_gone = False
        self.streaming_since: float | None = None

    def begin_stream(self) -> None:
        """The first message of a stream was sent."""
        self.streaming_since = self.streaming_since or time.perf_counter()

    @property
    def code(self) -> str:
        """The status of gRPC by its name."""
        if self.is_gone:
            return grpc.StatusCode.CANCELLED.name
        return grpc.StatusCode.OK.name if self.refusal is None else self.refusal.code.name

    @property
    def status(self) -> int:
        """As over HTTP, by the table of problems."""
        if self.is_gone:
            return _GONE
        return _OK if self.refusal is None else self.refusal.problem.status


async def _end(context: Context, noted: _Noted) -> NoReturn:
    """Ends the call with its refusal; raises what ends the handler."""
    ended = noted.refusal or failure()
    metadata = ((REQUEST_ID, noted.request_id), (DETAILS, ended.details))
    await context.abort(ended.code, ended.detail, metadata)
    raise AssertionError("abort raises")
