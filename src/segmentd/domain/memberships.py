"""Changes of one user's segments, the decision who is in, and why."""

import enum
from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

import msgspec

from segmentd.domain.errors import Fault, Invalid
from segmentd.domain.identifiers import Salt, Slug, UserId
from segmentd.domain.segments import Bucket, Threshold

MOST_SLUGS: Final = 1000

LARGEST_LOOKUP_BYTES: Final = 16 * 2**20
"""Of the slugs in the answer to one lookup, as JSON."""


class Source(enum.StrEnum):
    """What makes a user a member: a stored decision, or a percentage."""

    EXPLICIT = "explicit"
    ROLLOUT = "rollout"


class Addition(msgspec.Struct, frozen=True):
    """A segment to be in: for good, until an instant, or for a number of seconds from now."""

    slug: Slug
    until: datetime | None = None
    ttl_seconds: int | None = None


class Change(msgspec.Struct, frozen=True):
    """What shall be true of one user's segments; states a result, so it can be sent again."""

    add: Sequence[Addition]
    remove: Sequence[Slug]
    reason: str | None = None

    def check(self) -> None:
        """Raises Invalid for a change that contradicts or repeats itself, is too large, or does nothing."""
        if faults := [*self._faults()]:
            raise Invalid(*faults)

    def _faults(self) -> Iterator[Fault]:
        if not self.add and not self.remove:
            yield Fault("", "nothing to do: name at least one segment under add or remove")
        if len(self.add) + len(self.remove) > MOST_SLUGS:
            yield Fault("", f"more than {MOST_SLUGS} segments in one change")
            return
        seen: set[Slug] = set()
        for pointer, slug in self.pointers():
            if slug in seen:
                yield Fault(pointer, f"the segment {slug} is named twice")
            seen.add(slug)
        for index, addition in enumerate(self.add):
            if addition.until is not None and addition.ttl_seconds is not None:
                yield Fault(f"/add/{index}", "until and ttl_seconds exclude each other")

    def pointers(self) -> Iterator[tuple[str, Slug]]:
        """Where each segment stands in the request."""
        for index, addition in enumerate(self.add):
            yield f"/add/{index}", addition.slug
        for index, slug in enumerate(self.remove):
            yield f"/remove/{index}", slug


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
    """A segment that a user is in: why, since when, and until when if that is known."""

    slug: Slug
    source: Source
    since: datetime
    until: datetime | None


class Because(enum.StrEnum):
    """Why a user is or is not in a segment; the first that holds."""

    EXPLICIT = "explicit"
    EXCLUDED = "excluded"
    ROLLOUT = "rollout"
    EXPIRED = "expired"
    REMOVED = "removed"
    NOT_IN_ROLLOUT = "not-in-rollout"
    NEVER_ADDED = "never-added"

    @property
    def member(self) -> bool:
        """Whether the user is in."""
        return self in (Because.EXPLICIT, Because.ROLLOUT)


class Evidence(msgspec.Struct, frozen=True):
    """All that decides about one user and one segment at one instant.

    `included` is None where no override holds; `covered`, `percent` and `threshold` are None where the
    segment has no percentage; the last change is the latest one of the answer, None where it never changed.
    """

    included: bool | None
    until: datetime | None
    covered: bool | None
    last_change: datetime | None
    last_operation: str | None
    last_cause: str | None
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
        if self.last_cause in _AFTER_REMOVAL:
            return _AFTER_REMOVAL[self.last_cause]
        return Because.NEVER_ADDED if self.percent is None else Because.NOT_IN_ROLLOUT


_AFTER_REMOVAL: Final = {
    "expiry": Because.EXPIRED,
    "request": Because.REMOVED,
    "rollout": Because.NOT_IN_ROLLOUT,
}


class Event(msgspec.Struct, frozen=True):
    """One time that a user got into a segment or out of it."""

    segment: Slug
    operation: str
    at: datetime
    source: Source
    cause: str
    actor: str
    reason: str | None
    until: datetime | None
    on_behalf_of: str | None
    segment_id: int
