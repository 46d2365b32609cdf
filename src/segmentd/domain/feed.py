"""The feed: what changed, for those who follow."""

from datetime import datetime
from typing import Annotated, Final, NamedTuple, NewType

import msgspec

from segmentd.domain.described import Described
from segmentd.domain.identifiers import Slug, UserId
from segmentd.domain.memberships import Cause, Operation
from segmentd.domain.segments import Percent
from segmentd.domain.texts import Reason

BEGIN: Final = "begin"
NOW: Final = "now"

WaitSeconds = NewType("WaitSeconds", int)
"""How long an empty answer is held back."""

WaitValue = Annotated[WaitSeconds, msgspec.Meta(ge=0, le=60)]
NO_WAIT: Final = WaitSeconds(0)


class SegmentOperation(Described):
    """What happened to a segment."""

    CREATED = "created", "It was made, perhaps with a percentage."
    RENAMED = "renamed", "It has another slug."
    PERCENT = "percent", "Its percentage began, changed or ended."
    DELETED = "deleted", "It was deleted, and with it every membership in it ended."


class MembershipChange(msgspec.Struct, frozen=True):
    """A user was added to a segment, perhaps with another term than before, or removed."""

    user_id: UserId
    segment: Slug
    operation: Operation
    at: datetime
    cause: Cause
    actor: str
    on_behalf_of: str | None
    reason: Reason | None
    until: datetime | None


class SegmentChange(msgspec.Struct, frozen=True):
    """A segment changed."""

    segment: Slug
    operation: SegmentOperation
    at: datetime
    actor: str
    percent_before: Percent | None
    percent_after: Percent | None
    slug_before: Slug | None


FeedChange = MembershipChange | SegmentChange


class Wanted(NamedTuple):
    """Which changes somebody follows: those of a segment, by its slug, or of a user; None is no condition.

    Changes of segments concern every user.
    """

    segment: Slug | None = None
    user_id: UserId | None = None

    def has(self, change: FeedChange) -> bool:
        """Whether it is one of them."""
        if isinstance(change, SegmentChange):
            return self.segment in {None, change.segment, change.slug_before}
        return self.segment in {None, change.segment} and self.user_id in {None, change.user_id}


EVERYTHING: Final = Wanted()
