"""The requests that a process is answering: their number, their end at a stop, and what is noted of each."""

import asyncio
from typing import Final, NamedTuple
from typing import Protocol as Interface

import structlog

from segmentd.api.problems import Problem, problem_of
from segmentd.domain.errors import Unavailable
from segmentd.observability.metrics import Metrics
from segmentd.observability.tally import Tally

_ERROR: Final = 500
# No client gets this status; it is for the log and the metrics.
CLIENT_GONE: Final = 499
TOO_LONG: Final = "The request took longer than it may; try again shortly."
_STOPPED: Final = "The service stopped before the request was done; try again shortly."

_log = structlog.get_logger(__name__)


class Unanswered(Interface):
    """A request that is being answered."""

    status: int | None
    """Of its answer; None before the answer begins."""

    async def refuse(self, detail: str, problem: Problem) -> None:
        """Answers it with a problem."""
        ...


class Ended(NamedTuple):
    """A request at its end. `status` is None if the client went away before the answer."""

    method: str
    path: str
    route: str | None
    status: int | None
    seconds: float
    problem: str | None = None
    """The kind of the problem that it was answered with."""
    is_read: bool = False


class InProgress:
    """The requests of one process that have no whole answer yet."""

    def __init__(self, most: int, metrics: Metrics) -> None:
        self._requests: set[Unanswered] = set()
        self._most = most
        self._metrics = metrics

    def __contains__(self, request: Unanswered) -> bool:
        return request in self._requests

    @property
    def is_full(self) -> bool:
        """Whether there may be no other."""
        return len(self._requests) >= self._most

    @property
    def is_exceeded(self) -> bool:
        """Whether there are too many."""
        return len(self._requests) > self._most

    def add(self, request: Unanswered) -> None:
        """It is in progress from now on."""
        self._requests.add(request)
        self._metrics.requests_in_progress.inc()

    def remove(self, request: Unanswered) -> None:
        """It is done, or a stream, which has its own bound."""
        self._requests.discard(request)
        self._metrics.requests_in_progress.dec()

    async def cut_off(self) -> None:
        """Answers all that have no answer yet, because the process has to end."""
        waiting = [request for request in self._requests if request.status is None]
        await asyncio.gather(*(request.refuse(_STOPPED, problem_of(Unavailable)) for request in waiting))

    def note(self, ended: Ended, tally: Tally | None = None, **bound: str) -> None:
        """Counts a request, by its tally if it has one, and writes its line of the log, with `bound`."""
        shown = ended.status or CLIENT_GONE
        if ended.problem is not None:
            self._metrics.answered_with_problem(ended.problem)
        if tally is None:
            self._metrics.answered(ended.method, ended.route, shown, ended.seconds)
        else:
            tally.add(round(ended.seconds * 1e9))
        write = _log.warning if shown >= _ERROR else _log.debug if ended.is_read else _log.info
        # Without the query: in links of reports it has the signature.
        write(
            "request",
            **bound,
            method=ended.method,
            path=ended.path,
            status=shown,
            milliseconds=round(ended.seconds * 1000, 1),
        )
