"""Reads the feed: changes of memberships and segments, window by window (functions/15_feed.sql).

A window has the transactions that one snapshot sees and an earlier one does not. Within it, erasures come
first, and all else in the order of its time. So every change comes once, and those of a user in their order.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, LiteralString, NamedTuple

import msgspec
import psycopg

from segmentd.domain.errors import PositionExpired, Unavailable
from segmentd.domain.feed import FeedChange, MembershipChange, SegmentChange
from segmentd.domain.instants import rfc3339
from segmentd.storage.database import Database, one_row, struct_row
from segmentd.storage.positions import Log, Place, Position
from segmentd.storage.replication import HOLD_TO_INDEXES
from segmentd.storage.snapshots import LATE, NEW, Snapshot

# How many changes a window has, about: of more, a part is read first. One transaction is never divided.
WINDOW_CHANGES: Final = 1000

_SEEN_NOTHING: Final = Snapshot(0, [])

# Where the database is, whether it still has what the reader saw, and where the next window may end.
_FACTS: Final[LiteralString] = """
    SELECT pg_current_snapshot()::text AS snapshot,
           hashint8extended(system_identifier, d.oid::bigint) & 9223372036854775807 AS database,
           current_timeline() AS timeline,
           (pg_current_wal_insert_lsn() - '0/0')::bigint AS place,
           EXISTS (SELECT FROM timelines t WHERE t.timeline = current_timeline()) AS is_noted,
           still_has(%(timeline)s, '0/0'::pg_lsn + %(place)s::numeric) AS still_has,
           EXISTS (SELECT FROM forgotten_erasures WHERE xid >= %(xmax)s::xid8 OR xid = ANY (%(xip)s::xid8[]))
               AS has_forgotten,
           -- Of a database that was restored, the number may still be to come.
           k.last_xid < pg_snapshot_xmax(pg_current_snapshot())
               AND (k.last_xid >= %(xmax)s::xid8 OR k.last_xid >= ANY (%(xip)s::xid8[])) AS has_removed,
           k.last_xid IS NOT NULL AND %(xmax)s::xid8 = '0' AS lacks_beginning,
           k.begins_at AS history_begins_at,
           w.last_xid::text::bigint AS last_xid,
           w.postponed::text[]::bigint[] AS postponed
    FROM pg_control_system(), pg_database d, kept_history k,
         end_of_feed_window(%(xmax)s::xid8, %(xip)s::xid8[], %(most)s::integer) w
    WHERE d.datname = current_database()
"""

_NO_SEGMENT: Final[LiteralString] = (
    "NULL::text AS slug, NULL::text AS slug_before, NULL::numeric AS percent_before,"
    " NULL::numeric AS percent_after"
)
ERASURES: Final[LiteralString] = f"""
    SELECT 0 AS part, d.at, d.user_id, s.id AS segment_id, 0 AS number, 'remove' AS operation,
           'user-deleted' AS cause, d.actor, d.on_behalf_of, NULL::text AS reason,
           NULL::timestamptz AS until, {_NO_SEGMENT}, d.xid
    FROM erasures d, unnest(d.segment_ids) AS s (id)
    WHERE %(first)s::xid8 <> '0'
"""
MEMBERSHIPS: Final[LiteralString] = f"""
    SELECT 1, at, user_id, segment_id, 0, operation::text, cause::text, actor, on_behalf_of, reason, until,
           {_NO_SEGMENT}, xid
    FROM membership_events
    WHERE true
"""
SEGMENTS: Final[LiteralString] = """
    SELECT 1, at, 0, segment_id, array_position(enum_range(NULL::segment_operation), operation),
           operation::text, NULL, actor, NULL, NULL, NULL, slug, slug_before, percent_before, percent_after,
           xid
    FROM segment_events
    WHERE true
"""

# A change of a membership has the slug that the segment has at this point of the feed: the one before the
# first rename that comes after it. A follower moves its members at a rename, so events of a deleted segment
# that are written down late are left out once a rename has given its slug to another one.
CHANGES: Final[LiteralString] = f"""
    WITH page AS MATERIALIZED (
        SELECT *
        FROM (
            {ERASURES} AND {NEW}
            UNION ALL {ERASURES} AND {LATE}
            UNION ALL {MEMBERSHIPS} AND {NEW}
            UNION ALL {MEMBERSHIPS} AND {LATE}
            UNION ALL {SEGMENTS} AND {NEW}
            UNION ALL {SEGMENTS} AND {LATE}
        ) c
        WHERE (part, at, user_id, segment_id, number)
              > (%(part)s, %(at)s::timestamptz, %(user_id)s::bigint, %(segment_id)s::bigint, %(number)s)
        ORDER BY part, at, user_id, segment_id, number
        LIMIT %(limit)s
    )
    SELECT p.part, p.at, p.user_id, p.segment_id, p.number, p.operation, p.cause, p.actor, p.on_behalf_of,
           p.reason, p.until, p.slug_before, trim_scale(p.percent_before) AS percent_before,
           trim_scale(p.percent_after) AS percent_after, coalesce(p.slug, r.slug_before, s.slug) AS slug,
           p.slug IS NULL AND s.deleted_at IS NOT NULL AND EXISTS (
               SELECT
               FROM segment_events o
               WHERE o.slug = s.slug AND o.operation = 'renamed' AND o.at > s.deleted_at
                 AND o.xid < %(first)s::xid8 AND o.xid <> ALL (%(xip)s::xid8[])
           ) AS is_left_out
    FROM page p
    -- OFFSET 0: one look into an index for each row; otherwise the planner may read all segments.
    CROSS JOIN LATERAL (SELECT s.slug, s.deleted_at FROM segments s WHERE s.id = p.segment_id OFFSET 0) s
    LEFT JOIN LATERAL (
        SELECT e.slug_before
        FROM segment_events e
        WHERE p.slug IS NULL AND e.segment_id = p.segment_id AND e.operation = 'renamed'
          AND (e.at > p.at OR p.part = 0) AND (e.xid >= %(first)s::xid8 OR e.xid = ANY (%(xip)s::xid8[]))
        ORDER BY e.at
        LIMIT 1
    ) r ON true
    ORDER BY p.part, p.at, p.user_id, p.segment_id, p.number
"""
BEFORE_ALL: Final = Place(-1, datetime.min.replace(tzinfo=UTC), 0, 0, 0)


class Reading(NamedTuple):
    """Some changes, each with the position after it; and the position after all that was read."""

    changes: Sequence[tuple[Position, FeedChange]]
    position: Position
    is_level: bool
    """Whether it read up to the present, or to the end that was asked for."""


class _Facts(msgspec.Struct, frozen=True):
    snapshot: str
    database: int
    timeline: int
    place: int
    is_noted: bool
    still_has: bool | None
    has_forgotten: bool
    has_removed: bool | None
    lacks_beginning: bool
    history_begins_at: datetime | None
    last_xid: int | None
    postponed: list[int]

    @property
    def log(self) -> Log:
        return Log(self.database, self.timeline, self.place)


class ChangeRow(msgspec.Struct, frozen=True):
    """A change as the database has it."""

    part: int
    at: datetime
    user_id: int
    segment_id: int
    number: int
    operation: str
    cause: str | None
    actor: str
    on_behalf_of: str | None
    reason: str | None
    until: datetime | None
    slug: str
    slug_before: str | None
    percent_before: object
    percent_after: object
    is_left_out: bool

    @property
    def place(self) -> Place:
        """Where it is among the changes of its window."""
        return Place(self.part, self.at, self.user_id, self.segment_id, self.number)

    def change(self) -> FeedChange:
        """In the words of the domain."""
        values = {**msgspec.structs.asdict(self), "segment": self.slug}
        if self.user_id:
            return msgspec.convert(values, MembershipChange)
        return msgspec.convert(values, SegmentChange)


async def present(database: Database) -> Position:
    """The position after all that is committed now. Raises Unavailable."""
    async with database.transaction() as connection:
        return await present_in(connection)


async def present_in(connection: psycopg.AsyncConnection) -> Position:
    """The position after all that the next statement on the connection sees. Raises psycopg.Error."""
    facts = await _facts(connection, None)
    return Position(facts.log, Snapshot.parsed(facts.snapshot))


async def read(
    database: Database, after: Position | None, limit: int, end: Snapshot | None = None
) -> Reading:
    """Up to so many changes after a position, or from the beginning; not beyond `end`, if that is given.

    `end` covers the position. There may be no changes, though there are some after the new position.
    Raises PositionExpired, Unavailable.
    """
    reading = await _read(database, after, limit, end)
    if reading is None:
        await note_timeline(database)
        reading = await _read(database, after, limit, end)
    if reading is None:
        raise Unavailable
    return reading


async def _read(
    database: Database, after: Position | None, limit: int, end: Snapshot | None
) -> Reading | None:
    """None if it has to be noted first where the timeline began."""
    async with database.transaction() as connection:
        await connection.execute(f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; {HOLD_TO_INDEXES}")
        facts = await _facts(connection, after)
        if facts.lacks_beginning or (after is not None and facts.has_removed):
            raise _removed(facts)
        if after is not None:
            if after.log.timeline != facts.timeline and not facts.is_noted:
                return None
            _check(facts, after)
        present = Snapshot.parsed(facts.snapshot)
        is_level = False
        if after is not None and after.earlier is not None:
            seen = after.seen
        elif facts.last_xid is not None:
            seen = present.up_to(facts.last_xid, facts.postponed)
        else:
            seen, is_level = present if end is None else end, True
        rows = await _rows(connection, after, seen, limit + 1)
    # In the middle of a window its positions stay what they are.
    log = after.log if after is not None and after.earlier is not None else facts.log
    found = [(Position(log, seen, _since(after), row.place), row) for row in rows[:limit]]
    whole = Position(log, seen)
    if len(rows) > limit:
        whole, is_level = found[-1][0], False
    elif found:
        found[-1] = (whole, found[-1][1])
    changes = [(position, row.change()) for position, row in found if not row.is_left_out]
    return Reading(changes, whole, is_level)


async def note_timeline(database: Database) -> None:
    """Notes where the present timeline began, for positions of the one before. Raises Unavailable."""
    await database.execute("SELECT note_timeline()")


async def _facts(connection: psycopg.AsyncConnection, after: Position | None) -> _Facts:
    since = _since(after)
    begins_window = after is None or after.earlier is None
    parameters = {
        "xmax": str(since.xmax),
        "xip": [str(xid) for xid in since.xip],
        "timeline": 0 if after is None else after.log.timeline,
        "place": 0 if after is None else after.log.place,
        "most": WINDOW_CHANGES if begins_window else None,
    }
    return await one_row(connection, _Facts, _FACTS, parameters)


def _removed(facts: _Facts) -> PositionExpired:
    begins_at = "now" if facts.history_begins_at is None else rfc3339(facts.history_begins_at)
    return PositionExpired(
        f"Changes after this position were removed, the history begins at {begins_at}. Take the position now,"
        " then read who is in the segments, and go on from that position."
    )


def _check(facts: _Facts, position: Position) -> None:
    if position.log.database != facts.database:
        raise PositionExpired("The position is of another database; begin again.")
    if not facts.still_has or position.seen.xmax > Snapshot.parsed(facts.snapshot).xmax:
        raise PositionExpired(
            "After a fail-over or a restore the database lacks what the position has seen; begin again."
        )
    if facts.has_forgotten and position.since.xmax:
        raise PositionExpired


async def _rows(
    connection: psycopg.AsyncConnection, after: Position | None, seen: Snapshot, limit: int
) -> Sequence[ChangeRow]:
    since = _since(after)
    window = seen.since(since)
    if window.first == window.end and not window.late:
        return ()
    place = BEFORE_ALL if after is None or after.place is None else after.place
    parameters = {
        **window.parameters,
        "xip": [str(xid) for xid in since.xip],
        **place._asdict(),
        "limit": limit,
    }
    async with connection.cursor(row_factory=struct_row(ChangeRow)) as cursor:
        await cursor.execute(CHANGES, parameters)
        return await cursor.fetchall()


def _since(after: Position | None) -> Snapshot:
    return _SEEN_NOTHING if after is None else after.since
