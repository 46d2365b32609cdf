"""Who is in a segment, page by page (functions/12_members.sql)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, LiteralString

import msgspec

from segmentd.domain.errors import Fault, Invalid, SegmentNotFound
from segmentd.domain.identifiers import Salt, Slug, UserId
from segmentd.domain.pages import Limit
from segmentd.domain.segments import Threshold
from segmentd.storage.database import Database

# How many users, or overrides, a page looks at: so its cost is bounded, also where few of them are members.
LEAST_USERS: Final = 10_000
LEAST_OVERRIDES: Final = 2_000
MOST_SCANNED: Final = 200_000


class MembersPage(msgspec.Struct, frozen=True):
    """Some members of a segment, and the id after which the next page begins; None at the end."""

    user_ids: Sequence[UserId]
    walked_to: UserId | None


async def members_after(
    database: Database, slug: Slug, at: datetime | None, after: UserId | None, limit: Limit
) -> MembersPage:
    """Up to `limit` members, now or at an instant, with ids above `after`, in order.

    It may have fewer members or none, with more to come. Raises SegmentNotFound, Invalid, Unavailable.
    """
    segment = await (_segment_now(database, slug) if at is None else _segment_then(database, slug, at))
    [page] = await database.all(
        MembersPage,
        MEMBERS_NOW if at is None else MEMBERS_THEN,
        {
            "segment_id": segment.id,
            "salt": segment.salt,
            "threshold": segment.threshold,
            "at": segment.at,
            "after": after or 0,
            "scanned": entries_to_scan(segment.threshold, limit),
            # One more shows that there are more.
            "limit": limit + 1,
        },
    )
    if len(page.user_ids) > limit:
        return MembersPage(page.user_ids[:limit], page.user_ids[limit - 1])
    return page


def entries_to_scan(threshold: Threshold | None, limit: Limit) -> int:
    """How many users, or overrides where no percentage covers anybody, a page looks at.

    Under a percentage: as many users as have twice its limit of members on average. Most overrides are of
    members.
    """
    wanted = (
        max(LEAST_USERS, 2 * limit * 2**32 // threshold) if threshold else max(LEAST_OVERRIDES, 20 * limit)
    )
    return min(wanted, MOST_SCANNED)


_OF: Final[LiteralString] = (
    "%(segment_id)s, %(salt)s, %(threshold)s, %(at)s, %(after)s, %(scanned)s, %(limit)s"
)
MEMBERS_NOW: Final[LiteralString] = f"SELECT user_ids, walked_to FROM members_after({_OF})"
MEMBERS_THEN: Final[LiteralString] = f"SELECT user_ids, walked_to FROM members_at_after({_OF})"

SEGMENT_THEN: Final[LiteralString] = """
    SELECT s.id, s.salt, r.threshold, %(at)s > p.at AS is_ahead
    FROM present p
    LEFT JOIN segment_at(%(slug)s, %(at)s) s ON true
    LEFT JOIN rollouts r
           ON r.segment_id = s.id AND r.started_at <= %(at)s AND (r.ended_at IS NULL OR r.ended_at > %(at)s)
"""


async def _segment_now(database: Database, slug: Slug) -> "_Segment":
    found = await database.one(
        _Segment, "SELECT s.id, s.salt, s.threshold, p.at FROM living_segment(%s) s, present p", [slug]
    )
    if found is None:
        raise SegmentNotFound([slug])
    return found


async def _segment_then(database: Database, slug: Slug, at: datetime) -> "_Segment":
    [found] = await database.all(_SegmentThen, SEGMENT_THEN, {"slug": slug, "at": at})
    if found.is_ahead:
        raise Invalid(Fault("/at", "this time is in the future"))
    if found.id is None or found.salt is None:
        raise SegmentNotFound([slug])
    return _Segment(found.id, found.salt, found.threshold, at)


class _Segment(msgspec.Struct, frozen=True):
    id: int
    salt: Salt
    threshold: Threshold | None
    at: datetime


class _SegmentThen(msgspec.Struct, frozen=True):
    id: int | None
    salt: Salt | None
    threshold: Threshold | None
    is_ahead: bool
