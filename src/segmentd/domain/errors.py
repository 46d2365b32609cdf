"""Everything that segmentd refuses, as one tree; the docstring is the default message.

SegmentdError
├── Invalid ──── TargetingKeyMissing
├── NotFound ─── SegmentNotFound, UserNotFound, ReportNotFound, ImportNotFound, TokenNotFound
├── Conflict ─── SegmentExists, SegmentHasPercentage, UserExists, TokenExists, ReportNotReady, ImportFinished,
│                IdempotencyKeyReused, IdempotencyKeyInUse
├── Gone ─────── ReportExpired, PositionExpired
├── Denied ───── Unauthenticated, Forbidden, ForeignOrigin, FormExpired
├── AnswerTooLarge
├── TooManyRequests ─ TooManyReports, ReportStoreFull, TooManyImports, ImportStoreFull, TooManyExports
├── Unavailable ─ Overloaded
├── NoDatabase
└── StartupFailed
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

Given = TypeVar("Given")
Value = TypeVar("Value")


class Fault(NamedTuple):
    """One bad value: where it stands (an RFC 6901 pointer) and what is wrong with it."""

    pointer: str
    detail: str


class SegmentdError(Exception):
    """Something went wrong."""

    retry_after: int | None = None
    """After how many whole seconds a retry may help, if this error knows."""

    def __init__(self, detail: str | None = None, **extra: object) -> None:
        self.detail = detail or (inspect.getdoc(type(self)) or "").partition("\n")[0]
        self.extra: Mapping[str, object] = extra
        super().__init__(self.detail)


class Invalid(SegmentdError):
    """A value of the request is not acceptable."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(
            "; ".join(f"{fault.pointer or 'the body'}: {fault.detail}" for fault in faults) or None,
            errors=[fault._asdict() for fault in faults],
        )
        self.faults = faults


class TargetingKeyMissing(Invalid):
    """The context has no targetingKey, which is the id of the user."""

    def __init__(self) -> None:
        super().__init__(Fault("/context/targetingKey", "is missing: it is the id of the user"))


def read(parse: Callable[[Given], Value], given: Given, pointer: str) -> Value:
    """The result of `parse` for a value of the request. Raises Invalid where `parse` raises ValueError."""
    try:
        return parse(given)
    except ValueError as error:
        raise Invalid(Fault(pointer, str(error))) from None


class NotFound(SegmentdError):
    """There is nothing at this address."""


class SegmentNotFound(NotFound):
    """No living segment has this slug."""

    def __init__(self, slugs: Sequence[str]) -> None:
        names = ", ".join(slugs)
        super().__init__(f"No living segment has the slug {names}.", segments=[*slugs])


class UserNotFound(NotFound):
    """No user with this id is registered."""

    def __init__(self, user_id: int) -> None:
        super().__init__(f"This service does not know the user {user_id}.", user_id=user_id)


class ReportNotFound(NotFound):
    """There is no such report, or the link's signature is wrong."""


class ImportNotFound(NotFound):
    """There is no such import; one is removed 30 days after its end."""


class TokenNotFound(NotFound):
    """No token in force has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"No token in force has the name {name}.")


class Conflict(SegmentdError):
    """The request does not fit the present state."""


class SegmentExists(Conflict):
    """A living segment has this slug, or one that differs only in case."""

    def __init__(self, slug: str) -> None:
        super().__init__(
            f"A living segment has the slug {slug}, or one that differs only in case.", slug=slug
        )


class SegmentHasPercentage(Conflict):
    """The segment has a percentage, so its explicit members cannot be replaced."""

    def __init__(self, slug: str) -> None:
        super().__init__(
            f"The segment {slug} has a percentage: users whom a list leaves out would be excluded from it for"
            " good. End the percentage, or use the operations add and remove.",
            slug=slug,
        )


class UserExists(Conflict):
    """A user with this id is registered already."""

    def __init__(self, user_id: int) -> None:
        super().__init__(f"The user {user_id} is registered already.", user_id=user_id)


class TokenExists(Conflict):
    """A token in force has this name, or one was made of this secret."""

    def __init__(self, name: str) -> None:
        super().__init__(f"A token in force has the name {name}, or one was made of this secret.")


class ReportNotReady(Conflict):
    """The report is not ready yet; ask again in a moment."""


class ImportFinished(Conflict):
    """The import has ended, so it cannot be canceled."""


class IdempotencyKeyReused(Conflict):
    """An import with this Idempotency-Key has another body or other parameters; use a new key."""


class IdempotencyKeyInUse(Conflict):
    """An import with this Idempotency-Key is being received; send it again in a moment."""


class Gone(SegmentdError):
    """What was here is gone for good."""


class ReportExpired(Gone):
    """The report's link has expired; order the report again."""


class PositionExpired(Gone):
    """What the position has not seen is not stored any more; begin again with after=begin."""


class Denied(SegmentdError):
    """The caller may not do that."""


class Unauthenticated(Denied):
    """A token is needed: send it as Authorization: Bearer TOKEN."""

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail)
        self.was_refused = detail is not None
        """Whether a token was sent and is not valid."""


class Forbidden(Denied):
    """The caller's role does not suffice."""

    def __init__(self, needed: str) -> None:
        super().__init__(f"This needs the role {needed}.", role=needed)


class ForeignOrigin(Denied):
    """A page of a foreign origin asks for this; cors_origins names such pages, public_url this service's."""


class FormExpired(Denied):
    """The form is not from a page of this session; send it again from the page as it is now."""


class AnswerTooLarge(SegmentdError):
    """The answer would be larger than one may be."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(
            f"The answer would have more than {most_bytes} bytes; ask for fewer users at a time.",
            most_bytes=most_bytes,
        )


class TooManyRequests(SegmentdError):
    """The caller sends more requests than this node allows; slow down."""

    def __init__(self, detail: str | None = None, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class TooManyReports(TooManyRequests):
    """As many reports are under way as there may be; wait for one to be done, then order again."""


class ReportStoreFull(TooManyRequests):
    """The store of report files is full."""


class TooManyImports(TooManyRequests):
    """As many imports are under way as there may be; wait for one to be done."""


class ImportStoreFull(TooManyRequests):
    """The rows of imports take all the room that they may take."""


class TooManyExports(TooManyRequests):
    """As many exports run as this process sends at once; try again when one of them is done."""


class Unavailable(SegmentdError):
    """The database cannot be reached at the moment; try again shortly."""


class Overloaded(Unavailable):
    """The service has more to do than it can; try again shortly."""


class NoDatabase(SegmentdError):
    """The node has no database: it follows another one."""

    def __init__(self, neighbour: str) -> None:
        super().__init__(
            "This node has no database: it follows another one, and only answers reads of the segments that"
            f" users are in now. Send this request there: {neighbour}",
            service=neighbour,
        )


class StartupFailed(SegmentdError):
    """The service cannot start."""
