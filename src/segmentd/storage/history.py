"""When the answer to "is the user in?" changed, and why (functions/05_history.sql)."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, LiteralString, Self

import msgspec

from segmentd.domain.errors import Fault, Invalid, SegmentNotFound
from segmentd.domain.history import check_kept, removed_before
from segmentd.domain.identifiers import Slug, SlugValue, UserId
from segmentd.domain.instants import InstantValue, Span, in_utc
from segmentd.domain.memberships import Event, Evidence, Membership
from segmentd.domain.pages import RowKey
from segmentd.storage.database import Database


class HistoryKey(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a page of history ended: events are ordered by time, then slug, then segment."""

    at: InstantValue
    slug: SlugValue
    segment_id: RowKey

    def __post_init__(self) -> None:
        in_utc(self.at)  # raises ValueError for a time out of the years that there are

    @classmethod
    def of(cls, event: Event) -> Self:
        """The place of an event."""
        return cls(event.at, event.segment, event.segment_id)


HISTORY_KEYS: Final[msgspec.msgpack.Decoder[HistoryKey]] = msgspec.msgpack.Decoder(HistoryKey)

EARLIEST: Final = datetime(1, 1, 1, tzinfo=UTC)

_USER_HISTORY_SINCE: Final[LiteralString] = """
    SELECT s.slug AS segment, c.operation, c.at, c.source, c.cause, c.actor, c.reason, c.until,
           c.on_behalf_of, c.segment_id
    FROM effective_changes(%(as_of)s) c
    JOIN segments s ON s.id = c.segment_id
    WHERE c.user_id = %(user_id)s
      AND c.at >= %(begin)s
"""

USER_HISTORY: Final[LiteralString] = f"""
    {_USER_HISTORY_SINCE}
      AND c.at < %(end)s
      AND (c.at, s.slug, c.segment_id) > (%(after_at)s, %(after_slug)s, %(after_id)s)
    ORDER BY c.at, s.slug, c.segment_id
    LIMIT %(limit)s
"""

# The same, the latest events first.
USER_HISTORY_BACK: Final[LiteralString] = f"""
    {_USER_HISTORY_SINCE}
      AND c.at <= %(before_at)s
      AND (c.at, s.slug, c.segment_id) < (%(before_at)s, %(before_slug)s, %(before_id)s)
    ORDER BY c.at DESC, s.slug DESC, c.segment_id DESC
    LIMIT %(limit)s
"""


class Moment(msgspec.Struct, frozen=True):
    """The present of a user, and the beginning of the history; None: all of it is kept."""

    now: datetime
    begins_at: datetime | None


ReadEvents = Callable[[Database, UserId, Moment, Span, HistoryKey | None, int], Awaitable[Sequence[Event]]]
"""Reads a page of a user's events in one order or the other."""


async def moment_of(database: Database, user_id: UserId) -> Moment:
    """The present, never before the user's latest change; and how far back the history goes.

    What was before stays readable for an hour after the beginning moved. Raises Unavailable.
    """
    [moment] = await database.all(
        Moment, "SELECT present_of(%s) AS now, begins_at FROM kept_history", [user_id]
    )
    return moment


async def events_before(
    database: Database,
    user_id: UserId,
    moment: Moment,
    period: Span,
    before: HistoryKey | None,
    limit: int,
) -> Sequence[Event]:
    """Up to `limit` of the user's events in the half-open period, newest first. Raises Gone, Unavailable."""
    begin, end = _kept(period, moment, before)
    return await database.all(
        Event,
        USER_HISTORY_BACK,
        {
            "as_of": moment.now,
            "user_id": user_id,
            "begin": begin or EARLIEST,
            # No slug is before the empty one, so the end itself is left out.
            "before_at": before.at if before else end or "infinity",
            "before_slug": before.slug if before else "",
            "before_id": before.segment_id if before else 0,
            "limit": limit,
        },
    )


async def events_after(
    database: Database,
    user_id: UserId,
    moment: Moment,
    period: Span,
    after: HistoryKey | None,
    limit: int,
) -> Sequence[Event]:
    """Up to `limit` of the user's events in the half-open period, oldest first. Raises Gone, Unavailable."""
    begin, end = _kept(period, moment, after)
    return await database.all(
        Event,
        USER_HISTORY,
        {
            "as_of": moment.now,
            "user_id": user_id,
            # The cursor's time is also a lower bound, so that earlier partitions are not read.
            "begin": max([begin or EARLIEST, after.at if after else EARLIEST]),
            "end": end or "infinity",
            "after_at": after.at if after else EARLIEST,
            "after_slug": after.slug if after else "",
            "after_id": after.segment_id if after else 0,
            "limit": limit,
        },
    )


def _kept(period: Span, moment: Moment, key: HistoryKey | None) -> Span:
    """The part of a period that is kept. Raises Gone if the request, or its cursor, is about more."""
    kept_since = moment.begins_at
    check_kept(period.begins_at, kept_since)
    check_kept(None if key is None else key.at, kept_since)
    if kept_since is not None and period.ends_at is not None and period.ends_at <= kept_since:
        raise removed_before(kept_since)
    return Span(period.begins_at or kept_since, period.ends_at)


async def segments_at(database: Database, user_id: UserId, at: datetime | None) -> Sequence[Membership]:
    """The user's segments at an instant (None: now), each with its source, by slug.

    Raises Invalid, Gone, Unavailable.
    """
    return await database.all(
        Membership,
        'SELECT slug, source, since, until FROM segments_at(%s, %s) ORDER BY slug COLLATE "C"',
        [user_id, await _asked_instant(database, user_id, at)],
    )


async def explain(database: Database, user_id: UserId, slug: Slug, at: datetime | None) -> Evidence:
    """What decides membership at an instant (None: now).

    Raises SegmentNotFound, Invalid, Gone, Unavailable.
    """
    evidence = await database.one(
        Evidence,
        "SELECT * FROM explain_membership(%s, %s, %s)",
        [user_id, slug, await _asked_instant(database, user_id, at)],
    )
    if evidence is None:
        raise SegmentNotFound([slug])
    return evidence


async def explain_all(
    database: Database, user_id: UserId, slugs: Sequence[Slug], at: datetime | None
) -> Mapping[Slug, Evidence]:
    """As `explain` for several segments; those that did not live then are left out.

    Raises Invalid, Gone, Unavailable.
    """
    found = await database.all(
        _EvidenceOf,
        "SELECT asked.slug, e.* FROM unnest(%s::text[]) AS asked (slug)"
        " CROSS JOIN LATERAL explain_membership(%s, asked.slug, %s) e",
        [[*slugs], user_id, await _asked_instant(database, user_id, at)],
    )
    return {evidence.slug: evidence for evidence in found}


async def instant(database: Database) -> datetime:
    """The present by the database's clock, the only one for times that are stored. Raises Unavailable."""
    [now] = await database.all(_Instant, "SELECT at AS now FROM present")
    return now.now


async def begins_at(database: Database) -> datetime | None:
    """The beginning of the history; None: all of it is kept. Raises Unavailable."""
    [beginning] = await database.all(_Beginning, "SELECT begins_at FROM kept_history")
    return beginning.begins_at


async def _asked_instant(database: Database, user_id: UserId, at: datetime | None) -> datetime:
    moment = await moment_of(database, user_id)
    if at is not None and at > moment.now:
        raise Invalid(Fault("/at", "this time is in the future"))
    check_kept(at, moment.begins_at)
    return at or moment.now


class _EvidenceOf(Evidence, frozen=True, kw_only=True):
    slug: Slug


class _Instant(msgspec.Struct, frozen=True):
    now: datetime


class _Beginning(msgspec.Struct, frozen=True):
    begins_at: datetime | None
