"""What the service answers, as values. Times are in UTC; a field that a newer service adds is ignored.

Words that a newer service may add to (`cause`, `because`, `status`) are plain strings, so that an older
client still reads them.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

Source = Literal["explicit", "rollout"]
"""What makes a user a member: a stored decision, or a percentage."""

Operation = Literal["add", "remove"]


class Segment(msgspec.Struct, frozen=True):
    """A segment. `percent` is from 0 to 100, None without a rollout; `salt` is a signed 64-bit integer."""

    slug: str
    description: str
    percent: float | None
    salt: str
    created_at: datetime


class SegmentPage(msgspec.Struct, frozen=True):
    """Segments by slug. `next_cursor` is None on the last page, as on every page."""

    segments: Sequence[Segment]
    next_cursor: str | None


class MemberPage(msgspec.Struct, frozen=True):
    """Users of a segment, by id."""

    user_ids: Sequence[int]
    next_cursor: str | None


class Counts(msgspec.Struct, frozen=True):
    """How many users are in a segment at an instant, of those whom the service knows."""

    slug: str
    at: datetime
    registered: int
    members: int
    explicit: int
    excluded: int
    covered: int


class Preview(msgspec.Struct, frozen=True):
    """What another percentage would change. The samples are of up to 20 ids."""

    percent_before: float | None
    percent_after: float | None
    registered: int
    enter: int
    leave: int
    stay: int
    pinned: int
    excluded: int
    sample_enter: Sequence[int]
    sample_leave: Sequence[int]


class Member(msgspec.Struct, frozen=True):
    """A line of an export: a user, why and since when they are in, and until when if that is known."""

    user_id: int
    source: Source
    since: datetime
    until: datetime | None


class User(msgspec.Struct, frozen=True):
    """A registered user."""

    id: int
    name: str | None
    registered_at: datetime


class UserPage(msgspec.Struct, frozen=True):
    """Users by id."""

    users: Sequence[User]
    next_cursor: str | None


class UserSegments(msgspec.Struct, frozen=True):
    """The slugs of the segments that a user is in, sorted bytewise.

    `age_s` is how many seconds old the answer may be; the service never lets it be more than 60.
    """

    user_id: int
    segments: Sequence[str]
    age_s: int = 0


class Membership(msgspec.Struct, frozen=True):
    """A segment that a user is in."""

    slug: str
    source: Source
    since: datetime
    until: datetime | None


class UserMemberships(msgspec.Struct, frozen=True):
    """The segments that a user is in, with the why."""

    user_id: int
    segments: Sequence[Membership]


class Lookup(msgspec.Struct, frozen=True):
    """The segments of many users, in the order asked. `age_s` is how many seconds old they may be."""

    users: Sequence[UserSegments]
    age_s: int = 0


class Term(msgspec.Struct, frozen=True, omit_defaults=True):
    """A segment to add until an instant, or for a number of seconds from now."""

    slug: str
    until: datetime | None = None
    ttl_seconds: int | None = None


class UserChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """The change of one user, as one of many."""

    user_id: int
    add: Sequence[str | Term] = ()
    remove: Sequence[str] = ()
    reason: str | None = None


class Changed(msgspec.Struct, frozen=True):
    """The segments that a user is in now, and what the change did.

    `added` and `removed`: the answer to "is the user in?" changed; `updated`: only the stored decision did.
    """

    user_id: int
    segments: Sequence[str]
    added: Sequence[str]
    removed: Sequence[str]
    updated: Sequence[str]
    unchanged: Sequence[str]


class ManyChanged(msgspec.Struct, frozen=True):
    """What the change of each user did, in the order asked."""

    changes: Sequence[Changed]


class Explanation(msgspec.Struct, frozen=True):
    """Whether a user is in a segment, and why; None where a field does not apply."""

    user_id: int
    slug: str
    member: bool
    because: str
    since: datetime | None
    until: datetime | None
    percent: float | None
    bucket: int | None
    threshold: int | None
    salt: str | None


class Event(msgspec.Struct, frozen=True):
    """One time that a user got into a segment or out of it."""

    segment: str
    operation: Operation
    at: datetime
    source: Source
    cause: str
    actor: str
    reason: str | None
    until: datetime | None
    on_behalf_of: str | None = None


class HistoryPage(msgspec.Struct, frozen=True):
    """Events of a user, the newest last. What was before `begins_at` was removed; None: nothing was."""

    user_id: int
    events: Sequence[Event]
    next_cursor: str | None
    begins_at: datetime | None = None


class AuditEntry(msgspec.Struct, frozen=True):
    """One operation of the audit log: who, when, what, and the values before and after."""

    at: datetime
    actor: str
    on_behalf_of: str | None
    operation: str
    subject: str | None
    before: dict[str, str | float | None] | None
    after: dict[str, str | float | None] | None


class AuditPage(msgspec.Struct, frozen=True):
    """Operations, the newest first."""

    entries: Sequence[AuditEntry]
    next_cursor: str | None
