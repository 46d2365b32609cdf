"""Changes of one user's segments, the decision whether a user is in, and its reason."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Final, NamedTuple, NewType, TypeVar, assert_never

import msgspec

from segmentd.domain.described import Described
from segmentd.domain.errors import Fault, Invalid
from segmentd.domain.identifiers import Salt, Slug, UserId
from segmentd.domain.segments import Bucket, Threshold
from segmentd.domain.texts import Reason

MOST_SLUGS: Final = 1000
"""In one change, added and removed together."""

MOST_USERS: Final = 1000
"""In one lookup, and in one request that changes many."""

MOST_SLUGS_TOGETHER: Final = 10_000
"""In one request that changes many users."""

# Lists of a request, with their bounds.
Item = TypeVar("Item")
SlugsOfChange = Annotated[Sequence[Item], msgspec.Meta(max_length=MOST_SLUGS)]
UsersOfLookup = Annotated[Sequence[Item], msgspec.Meta(max_length=MOST_USERS)]
ChangesOfMany = Annotated[Sequence[Item], msgspec.Meta(min_length=1, max_length=MOST_USERS)]

TtlSeconds = NewType("TtlSeconds", int)
"""How long a membership lasts, from its change on."""

TtlValue = Annotated[TtlSeconds, msgspec.Meta(ge=1, le=10**12)]

LARGEST_LOOKUP_BYTES: Final = 16 * 2**20
"""Of the slugs in the answer to one lookup, as JSON."""


class Source(Described):
    """What makes a user a member."""

    EXPLICIT = "explicit", "A stored decision."
    ROLLOUT = "rollout", "A percentage."


class Operation(Described):
    """What happened to a user and a segment."""

    ADD = "add", "The user got in."
    REMOVE = "remove", "The user got out."


class Cause(Described):
    """Why a user got into a segment or out of it."""

    REQUEST = "request", "A caller asked for it."
    EXPIRY = "expiry", "The term ended."
    SEGMENT_DELETED = "segment-deleted", "The segment was deleted."
    USER_DELETED = "user-deleted", "The user was deleted."
    ROLLOUT = "rollout", "The percentage began, changed or ended, or the user was registered under it."


class Addition(msgspec.Struct, frozen=True):
    """A segment to add: for good, until an instant, or for a number of seconds from now."""

    slug: Slug
    until: datetime | None = None
    ttl_seconds: TtlSeconds | None = None


class Change(msgspec.Struct, frozen=True):
    """The wanted result for one user's segments; a result, so the same change can be sent again."""

    add: Sequence[Addition]
    remove: Sequence[Slug]
    reason: Reason | None = None

    def check(self) -> None:
        """Raises Invalid for a change that contradicts or repeats itself, is too large, or does nothing."""
        if faults := [*self.faults()]:
            raise Invalid(*faults)

    def faults(self) -> Iterator[Fault]:
        if not self.add and not self.remove:
            yield Fault("", "nothing to do: name at least one segment under add or remove")
        if len(self.add) + len(self.remove) > MOST_SLUGS:
            yield Fault("", f"more than {MOST_SLUGS} segments in one change")
            return
        slugs = self.slugs()
        if len({*slugs}) < len(slugs):
            yield from self._repetitions()
        for index, addition in enumerate(self.add):
            if addition.until is not None and addition.ttl_seconds is not None:
                yield Fault(f"/add/{index}", "until and ttl_seconds exclude each other")

    def _repetitions(self) -> Iterator[Fault]:
        added = len(self.add)
        seen: set[Slug] = set()
        for place, slug in enumerate(self.slugs()):
            if slug in seen:
                pointer = f"/add/{place}" if place < added else f"/remove/{place - added}"
                yield Fault(pointer, f"the segment {slug} is named twice")
            seen.add(slug)

    def slugs(self) -> Sequence[Slug]:
        """The segments to add, and then those to remove."""
        return [*[addition.slug for addition in self.add], *self.remove]


class UserChange(NamedTuple):
    """A change of one user, as one of many."""

    user_id: UserId
    change: Change

    @staticmethod
    def pointer(index: int) -> str:
        """Where a request has the change of this number."""
        return f"/changes/{index}"


def check_together(changes: Sequence[UserChange]) -> None:
    """Raises Invalid for an unacceptable change, a user who is named twice, and too many segments in all."""
    if sum(len(each.change.slugs()) for each in changes) > MOST_SLUGS_TOGETHER:
        raise Invalid(Fault("/changes", f"more than {MOST_SLUGS_TOGETHER} segments in all"))
    if faults := [*_faults_together(changes)]:
        raise Invalid(*faults)


def _faults_together(changes: Sequence[UserChange]) -> Iterator[Fault]:
    seen: set[UserId] = set()
    for index, (user_id, change) in enumerate(changes):
        pointer = UserChange.pointer(index)
        if user_id in seen:
            yield Fault(f"{pointer}/user_id", f"the user {user_id} is named twice")
        seen.add(user_id)
        yield from (Fault(pointer + fault.pointer, fault.detail) for fault in change.faults())


class Changed(msgspec.Struct, frozen=True):
    """What a change did. Slugs are sorted bytewise.

    `added` and `removed`: the answer to "is the user in?" changed; `updated`: only the stored decision did.
    """

    user_id: UserId
    segments: Sequence[Slug]
    added: Sequence[Slug]
    removed: Sequence[Slug]
    updated: Sequence[Slug]
    unchanged: Sequence[Slug]


class UserSegments(msgspec.Struct, frozen=True):
    """The segments that one user is in, sorted bytewise."""

    user_id: UserId
    segments: Sequence[Slug]


class Membership(msgspec.Struct, frozen=True):
    """A segment that a user is in: its source, since when, and until when if that is known."""

    slug: Slug
    source: Source
    since: datetime
    until: datetime | None


class Because(Described):
    """Why a user is or is not in a segment; the first that holds."""

    EXPLICIT = "explicit", "The user was added, and the term, if there is one, has not ended."
    EXCLUDED = "excluded", "The user was removed from a segment with a percentage."
    ROLLOUT = "rollout", "The percentage covers the user's bucket."
    EXPIRED = "expired", "The term ended."
    REMOVED = "removed", "The user was removed."
    NOT_IN_ROLLOUT = "not-in-rollout", "The percentage does not cover the user, or covers them no longer."
    NEVER_ADDED = "never-added", "Nobody ever added the user, and the segment has no percentage."

    @property
    def member(self) -> bool:
        """Whether the user is in."""
        return self in (Because.EXPLICIT, Because.ROLLOUT)


class Evidence(msgspec.Struct, frozen=True):
    """Everything that decides about one user and one segment at one instant.

    `included` is None if no override holds; `covered`, `percent` and `threshold` are None if the segment has
    no percentage; the last change is the latest one of the answer, None if it never changed.
    """

    included: bool | None
    until: datetime | None
    covered: bool | None
    last_change: datetime | None
    last_operation: Operation | None
    last_cause: Cause | None
    percent: Decimal | None
    bucket: Bucket
    threshold: Threshold | None
    salt: Salt

    def because(self) -> Because:
        """The reason, by the order of the contract."""
        if self.included is not None:
            return Because.EXPLICIT if self.included else Because.EXCLUDED
        if self.covered:
            return Because.ROLLOUT
        return self._because_of_the_last_removal()

    def _because_of_the_last_removal(self) -> Because:
        match self.last_cause:
            case Cause.EXPIRY:
                return Because.EXPIRED
            case Cause.REQUEST:
                return Because.REMOVED
            case Cause.ROLLOUT:
                return Because.NOT_IN_ROLLOUT
            case Cause.SEGMENT_DELETED | Cause.USER_DELETED | None:
                # Changes before the deletion no longer count.
                return Because.NEVER_ADDED if self.percent is None else Because.NOT_IN_ROLLOUT
            case _:
                assert_never(self.last_cause)


class Event(msgspec.Struct, frozen=True):
    """One time that a user got into a segment or out of it."""

    segment: Slug
    operation: Operation
    at: datetime
    source: Source
    cause: Cause
    actor: str
    reason: Reason | None
    until: datetime | None
    on_behalf_of: str | None
    segment_id: int
