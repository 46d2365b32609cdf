"""Who is in a segment: pages, counts, previews (functions/12_members.sql)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, LiteralString

import msgspec

from segmentd.domain.bucketing import threshold
from segmentd.domain.counts import MOST_SAMPLED, Counts, Preview, Tally
from segmentd.domain.errors import Fault, Invalid, SegmentNotFound
from segmentd.domain.history import check_kept
from segmentd.domain.identifiers import Salt, Slug, UserId
from segmentd.domain.pages import Limit
from segmentd.domain.segments import Percent, Threshold
from segmentd.storage.database import Database
from segmentd.storage.long_reads import Moment

# How many users, or overrides, a page looks at: so its cost is bounded, also where few of them are members.
LEAST_USERS: Final = 10_000
LEAST_OVERRIDES: Final = 2_000
MOST_SCANNED: Final = 200_000
# So many users whom a percentage moves, or fewer, are found faster by a scan of all than by a walk by id.
FEW: Final = 100


class MembersPage(msgspec.Struct, frozen=True):
    """Some members of a segment, and the id after which the next page begins; None at the end."""

    user_ids: Sequence[UserId]
    walked_to: UserId | None


async def members_after(
    database: Database, slug: Slug, at: datetime | None, after: UserId | None, limit: Limit
) -> MembersPage:
    """Up to `limit` members, now or at an instant, with ids above `after`, in order.

    It may have fewer members or none, with more to come. Raises SegmentNotFound, Invalid, Gone, Unavailable.
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
    SELECT s.id, s.salt, r.percent, r.threshold, %(at)s > p.at AS is_ahead, k.begins_at
    FROM kept_history k, present p
    LEFT JOIN segment_at(%(slug)s, %(at)s) s ON true
    LEFT JOIN rollouts r
           ON r.segment_id = s.id AND r.started_at <= %(at)s AND (r.ended_at IS NULL OR r.ended_at > %(at)s)
"""


async def count(moment: Moment, slug: Slug, at: datetime | None) -> Counts:
    """The figures of a segment, now or at an instant. Raises SegmentNotFound, Invalid, Gone."""
    if at is None:
        segment = await _segment_now(moment, slug)
        [row] = await moment.all(_Tallies, TALLY_NOW, _tallied(segment, segment.threshold))
        return Counts(slug, segment.at, row.before())
    segment = await _segment_then(moment, slug, at)
    [tally] = await moment.all(Tally, TALLY_THEN, _tallied(segment, segment.threshold))
    return Counts(slug, at, tally)


async def preview(moment: Moment, slug: Slug, percent: Percent | None) -> Preview:
    """What a change of the percentage would do now; None ends it. Raises SegmentNotFound."""
    segment = await _segment_now(moment, slug)
    threshold_after = None if percent is None else threshold(percent)
    [row] = await moment.all(_Tallies, TALLY_NOW, _tallied(segment, threshold_after))
    found = Preview(segment.percent, percent, row.before(), row.after(), [])
    if not (most := min(found.enter + found.leave, MOST_SAMPLED)):
        return found
    low, high = sorted((segment.threshold or 0, threshold_after or 0))
    moved = await moment.all(
        _User, MOVED, {**_tallied(segment, None), "low": low, "high": high, "most": most}
    )
    return msgspec.structs.replace(found, sample=[user.user_id for user in moved])


TALLY_NOW: Final[LiteralString] = (
    "SELECT * FROM membership_tally(%(segment_id)s, %(salt)s, %(threshold)s, %(threshold_after)s, %(at)s)"
)
TALLY_THEN: Final[LiteralString] = (
    "SELECT * FROM membership_tally_at(%(segment_id)s, %(salt)s, %(threshold)s, %(at)s)"
)
_BETWEEN: Final[LiteralString] = "%(segment_id)s, %(salt)s, %(low)s, %(high)s, %(at)s, %(most)s"
MOVED: Final[LiteralString] = f"SELECT user_id FROM moved_users({_BETWEEN})"
FEW_MOVED: Final[LiteralString] = f"SELECT user_id FROM few_moved_users({_BETWEEN})"


def _tallied(segment: "_Segment", threshold_after: Threshold | None) -> Mapping[str, object]:
    return {
        "segment_id": segment.id,
        "salt": segment.salt,
        "threshold": segment.threshold,
        "threshold_after": threshold_after,
        "at": segment.at,
    }


async def _segment_now(source: Database | Moment, slug: Slug) -> "_Segment":
    found = await source.all(
        _Segment,
        "SELECT s.id, s.salt, s.percent, s.threshold, p.at FROM living_segment(%s) s, present p",
        [slug],
    )
    if not found:
        raise SegmentNotFound([slug])
    return found[0]


async def _segment_then(source: Database | Moment, slug: Slug, at: datetime) -> "_Segment":
    [found] = await source.all(_SegmentThen, SEGMENT_THEN, {"slug": slug, "at": at})
    if found.is_ahead:
        raise Invalid(Fault("/at", "this time is in the future"))
    check_kept(at, found.begins_at)
    if found.id is None or found.salt is None:
        raise SegmentNotFound([slug])
    return _Segment(found.id, found.salt, found.percent, found.threshold, at)


class _Segment(msgspec.Struct, frozen=True):
    id: int
    salt: Salt
    percent: Percent | None
    threshold: Threshold | None
    at: datetime


class _SegmentThen(msgspec.Struct, frozen=True):
    id: int | None
    salt: Salt | None
    percent: Percent | None
    threshold: Threshold | None
    is_ahead: bool
    begins_at: datetime | None


class _Tallies(Tally, frozen=True):
    """Also under another threshold."""

    covered_after: int
    overridden_after: int

    def before(self) -> Tally:
        return Tally(self.registered, self.explicit, self.excluded, self.covered, self.overridden)

    def after(self) -> Tally:
        return Tally(self.registered, self.explicit, self.excluded, self.covered_after, self.overridden_after)


class _User(msgspec.Struct, frozen=True):
    user_id: UserId
