"""Everything that can go wrong, as one tree.

ClientError
├── NotSent ──────────── no connection, so nothing reached the service
├── AnswerLost ───────── the request may have been carried out
│   └── TimedOut
├── UnexpectedAnswer ─── what answers is not this service, or a newer one
├── JobFailed ────────── an import or a report ended without being done
├── TooStale ─────────── a local copy is older than it may be
└── Problem ──────────── what the service refuses: one class for each kind
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import msgspec


class ClientError(Exception):
    """Something went wrong."""


class NotSent(ClientError):
    """The service cannot be reached; the request was not sent."""


class AnswerLost(ClientError):
    """The connection broke before the whole answer came; the request may have been carried out."""


class TimedOut(AnswerLost):
    """No answer came within the time limit; the request may have been carried out."""


class UnexpectedAnswer(ClientError):
    """The answer is not one of this service."""


class JobFailed(ClientError):
    """An import or a report ended without being done."""


class TooStale(ClientError):
    """The local copy is older than it may be, and the service does not answer."""


class Fault(msgspec.Struct, frozen=True):
    """One bad value: where it stands in the request (RFC 6901) and what is wrong with it."""

    pointer: str
    detail: str


class Problem(ClientError):
    """The service refused the request.

    `detail` says what is wrong, `request_id` finds the request in the log, `retry_after_s` is after how many
    seconds a repetition may help, `members` has what this kind of problem adds.
    """

    kind: ClassVar[str] = "internal"

    def __init__(self, status: int, members: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status: Final = status
        self.title: Final = str(members.get("title", ""))
        self.detail: Final = str(members.get("detail", ""))
        self.request_id: Final[str | None] = members.get("request_id")
        self.retry_after_s: Final = retry_after_s
        self.members: Final = members
        super().__init__(self.detail or self.title)


class Validation(Problem):
    """A value is not acceptable; `faults` points at each."""

    kind = "validation"

    @property
    def faults(self) -> Sequence[Fault]:
        """Each bad value."""
        return msgspec.convert(self.members.get("errors", []), list[Fault])


class Malformed(Problem):
    """The request is not well-formed."""

    kind = "malformed"


class TargetingKeyMissing(Problem):
    """The context of a flag names no user."""

    kind = "targeting-key-missing"


class Unauthenticated(Problem):
    """A token is needed, or the one given is not valid."""

    kind = "unauthenticated"


class Denied(Problem):
    """The caller may not do this."""

    kind = "denied"


class Forbidden(Denied):
    """The caller's role does not suffice."""

    kind = "forbidden"


class ForeignOrigin(Denied):
    """A page of a foreign origin asks."""

    kind = "foreign-origin"


class FormExpired(Denied):
    """A form of the console is not from a page of this session; no call of the API answers this."""

    kind = "form-expired"


class NotFound(Problem):
    """There is nothing at this address."""

    kind = "not-found"


class SegmentNotFound(NotFound):
    """No living segment has this slug; `segments` lists all that are unknown."""

    kind = "segment-not-found"

    @property
    def segments(self) -> Sequence[str]:
        """The unknown slugs."""
        return msgspec.convert(self.members.get("segments", []), list[str])


class UserNotFound(NotFound):
    """The user is not registered."""

    kind = "user-not-found"


class ReportNotFound(NotFound):
    """There is no such report, or its link is wrong."""

    kind = "report-not-found"


class ImportNotFound(NotFound):
    """There is no such import; one is removed 30 days after its end."""

    kind = "import-not-found"


class MethodNotAllowed(Problem):
    """The address does not take this method."""

    kind = "method-not-allowed"


class RequestTimeout(Problem):
    """The service did not receive the request in time."""

    kind = "request-timeout"


class Conflict(Problem):
    """The request does not fit the present state."""

    kind = "conflict"


class SegmentExists(Conflict):
    """A living segment has this slug, or one that differs only in case."""

    kind = "segment-exists"


class SegmentHasPercentage(Conflict):
    """The segment has a percentage, so a list cannot replace its members."""

    kind = "segment-has-percentage"


class UserExists(Conflict):
    """A user with this id is registered already."""

    kind = "user-exists"


class ReportNotReady(Conflict):
    """The report's file is not there yet."""

    kind = "report-not-ready"


class ImportFinished(Conflict):
    """The import has ended, so it cannot be canceled."""

    kind = "import-finished"


class IdempotencyKeyReused(Conflict):
    """The key names an import with another body or other parameters."""

    kind = "idempotency-key-reused"


class IdempotencyKeyInUse(Conflict):
    """The body of the import that the key names is still being received."""

    kind = "idempotency-key-in-use"


class Gone(Problem):
    """What was here is gone for good."""

    kind = "gone"


class ReportExpired(Gone):
    """The report's link has expired."""

    kind = "report-expired"


class PositionExpired(Gone):
    """What the position of the feed has not seen is not stored any more; begin again."""

    kind = "position-expired"


class BodyTooLarge(Problem):
    """The body is larger than 1 MiB."""

    kind = "body-too-large"


class AnswerTooLarge(Problem):
    """The answer would be too large; ask for fewer users at a time."""

    kind = "answer-too-large"


class AddressTooLong(Problem):
    """The address is too long."""

    kind = "address-too-long"


class HeadersTooLarge(Problem):
    """The headers are too large."""

    kind = "headers-too-large"


class UnsupportedMediaType(Problem):
    """The body is of a type that the address does not take."""

    kind = "unsupported-media-type"


class TooManyRequests(Problem):
    """The caller sends more requests than the service allows."""

    kind = "too-many-requests"


class TooManyReports(TooManyRequests):
    """As many reports are under way as there may be."""

    kind = "too-many-reports"


class ReportStoreFull(TooManyRequests):
    """The store of report files is full."""

    kind = "report-store-full"


class TooManyImports(TooManyRequests):
    """As many imports are under way as there may be."""

    kind = "too-many-imports"


class ImportStoreFull(TooManyRequests):
    """The rows of imports take all the room that they may take."""

    kind = "import-store-full"


class TooManyExports(TooManyRequests):
    """The process sends as many exports as it may."""

    kind = "too-many-exports"


class Internal(Problem):
    """The service has a bug; its log has the details."""

    kind = "internal"


class NotImplementedThere(Problem):
    """The service does not take this transfer encoding."""

    kind = "not-implemented"


class Unavailable(Problem):
    """The service cannot reach its database at the moment."""

    kind = "unavailable"


class Overloaded(Unavailable):
    """The service has more to do than it can."""

    kind = "overloaded"


class NoDatabase(Problem):
    """The node follows another one, and only answers reads of the segments that users are in now."""

    kind = "no-database"


def _all(parent: type[Problem]) -> dict[str, type[Problem]]:
    found: dict[str, type[Problem]] = {}
    for each in parent.__subclasses__():
        found |= {each.kind: each, **_all(each)}
    return found


KINDS: Final[Mapping[str, type[Problem]]] = _all(Problem)
"""The class of each kind of problem."""
