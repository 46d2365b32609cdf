"""Plain changes of one user's segments, begun and answered by uvicorn's protocol (docs/decisions/0056).

Half of the time of a change was that of an ASGI call. The request is in progress like any other: it has an
id, counts against the limits, is refused at a stop, and has its metrics and its line of the log.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import ClassVar, cast

from litestar.types import HTTPScope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from segmentd.api.http.edge.errors import ProblemAnswer, failure, problem_answer, refusal
from segmentd.api.http.edge.guard import AUTHORIZATION
from segmentd.api.http.edge.in_progress import TOO_LONG, Ended, InProgress
from segmentd.api.http.edge.request_ids import HEADER, RequestIds
from segmentd.api.http.hot.changes import OPERATION, PlainChanges, headers_of, length_of, user_to_change
from segmentd.api.http.hot.plain import USER_SEGMENTS, noted
from segmentd.api.http.hot.posts import PlainPost
from segmentd.api.problems import Problem, problem_of
from segmentd.api.roles import check
from segmentd.auth.authenticator import Authenticator
from segmentd.domain.access import Actor
from segmentd.domain.errors import Overloaded, SegmentdError
from segmentd.domain.identifiers import UserId
from segmentd.domain.memberships import Change, Changed
from segmentd.observability.metrics import Metrics, Refusal
from segmentd.service import Service

Headers = Sequence[tuple[bytes, bytes]]
Sending = Callable[[bytes, Headers, bytes], None]
"""Sends the line of the status, headers and a body."""


class DirectChanges:
    """Begins plain changes; `seconds` is the longest time until an answer."""

    def __init__(
        self,
        service: Service,
        authenticator: Authenticator,
        ids: RequestIds,
        in_progress: InProgress,
        metrics: Metrics,
        seconds: float,
    ) -> None:
        self.service = service
        self.in_progress = in_progress
        self.metrics = metrics
        self.seconds = seconds
        self.tally = metrics.tally("POST", USER_SEGMENTS, "200")
        self._authenticator = authenticator
        self._ids = ids
        self._plain = PlainChanges()

    def begin(self, post: PlainPost, send: Sending) -> "PendingChange | None":
        """Begins the change that a request asks for; None if it is for the framework."""
        path = post.path.decode()
        headers = noted(post.headers)
        if headers is None or self.in_progress.is_full:
            return None
        user_id = user_to_change(path, headers)
        if user_id is None or (change := self._plain.read(post.body)) is None:
            return None
        pending = PendingChange(self, path, self._ids.id(headers.get(HEADER)), send)
        pending.begin(user_id, change, self._authenticator, headers.get(AUTHORIZATION))
        return pending

    def encoded(self, changed: Changed) -> bytes:
        """The body of an answer."""
        return self._plain.encoded(changed)


class PendingChange:
    """A change under way. It has what uvicorn's protocol asks of the request in progress."""

    message_event: ClassVar[asyncio.Event] = asyncio.Event()
    keep_alive = True
    response_started = False
    response_complete = False
    disconnected = False

    def __init__(self, changes: DirectChanges, path: str, request_id: bytes, send: Sending) -> None:
        self.status: int | None = None
        self._changes = changes
        self._path = path
        self._request_id = request_id
        self._send = send
        self._begun = time.perf_counter_ns()
        # What belongs to its line of the log; and what refusals need of it.
        self._bound = {"request_id": request_id.decode()}
        asked = {"type": "http", "method": "POST", "path": path, "state": {**self._bound}}
        self._scope = cast("HTTPScope", asked)
        self._outcome: asyncio.Future[Changed | Exception] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(
        self, user_id: UserId, change: Change, authenticator: Authenticator, authorization: bytes | None
    ) -> None:
        """Begins it, or answers with the refusal."""
        self._changes.in_progress.add(self)
        try:
            principal = authenticator.admit(authorization)
            self._bound["actor"] = principal.name
            check(principal, OPERATION)
            self._outcome = self._changes.service.begin_change(user_id, change, Actor(principal.name))
        except Exception as error:  # noqa: BLE001 - a refusal, or a bug, which is answered
            # Not at once: the protocol does not know this request yet.
            asyncio.get_running_loop().call_soon(self._answer_with, error)
            return
        self._timer = asyncio.get_running_loop().call_later(self._changes.seconds, self._time_out)
        self._outcome.add_done_callback(self._settled)

    def abandon(self) -> None:
        """The client has gone. The change is undone if nobody else waits for its transaction."""
        if not self.response_complete:
            self.disconnected = True
            self._end()

    async def refuse(self, detail: str, problem: Problem) -> None:
        """Answers it with a problem, and undoes the change if nobody else waits for its transaction."""
        if not self.response_complete:
            self._refuse(problem_answer(self._scope, problem, detail))

    def _settled(self, outcome: asyncio.Future[Changed | Exception]) -> None:
        if not self.response_complete and not outcome.cancelled():
            self._answer_with(outcome.result())

    def _answer_with(self, outcome: Changed | Exception) -> None:
        if self.response_complete:
            return
        if isinstance(outcome, Changed):
            body = self._changes.encoded(outcome)
            self._answer(HTTPStatus.OK, ((b"content-type", b"application/json"), length_of(body)), body)
            return
        error, scope = outcome, self._scope
        self._refuse(refusal(scope, error) if isinstance(error, SegmentdError) else failure(scope, error))

    def _time_out(self) -> None:
        if not self.response_complete:
            self._changes.metrics.refused(Refusal.TIMEOUT)
            self._refuse(problem_answer(self._scope, problem_of(Overloaded), TOO_LONG))

    def _refuse(self, answer: ProblemAnswer) -> None:
        self._answer(answer.document.status, headers_of(answer), answer.document.body)

    def _answer(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.response_started = True
        self._end()
        self._send(STATUS_LINE[status], ((HEADER, self._request_id), *headers), body)

    def _end(self) -> None:
        self.response_complete = True
        if self._timer is not None:
            self._timer.cancel()
        if self._outcome is not None:
            self._outcome.cancel()
        self._changes.in_progress.remove(self)
        seconds = (time.perf_counter_ns() - self._begun) / 1e9
        self._changes.in_progress.note(
            Ended(
                "POST", self._path, USER_SEGMENTS, self.status, seconds, self._scope["state"].get("problem")
            ),
            self._changes.tally if self.status == HTTPStatus.OK else None,
            **self._bound,
        )
