"""The changes up to now, the newest first: what a person sees who opens the feed.

They are in the order of their transactions. Each page first finds the transaction that it ends with, and then
reads the transactions from there on by the indexes on `xid`: however long the history is, it reads as much as
it shows, and at most the rest of two transactions besides.
"""

from typing import Final, LiteralString, NamedTuple

import msgspec

from segmentd.domain.feed import FeedChange
from segmentd.domain.pages import Limit, Listing, Page, RowKey
from segmentd.storage.database import Database, one_row, struct_row
from segmentd.storage.feed import BEFORE_ALL, ERASURES, MEMBERSHIPS, SEGMENTS, ChangeRow, present_in
from segmentd.storage.positions import PackedPlace, Place, Position
from segmentd.storage.replication import HOLD_TO_INDEXES

# The transaction of the last of so many changes before a transaction; null: there are not so many. Rows whose
# number is still to come are of the server that a dump was taken from.
FIRST: Final[LiteralString] = """
    SELECT (
        SELECT x.xid
        FROM (
            (SELECT e.xid FROM membership_events e
             WHERE e.xid < %(before)s::xid8 ORDER BY e.xid DESC LIMIT %(limit)s)
            UNION ALL
            (SELECT s.xid FROM segment_events s
             WHERE s.xid < %(before)s::xid8 ORDER BY s.xid DESC LIMIT %(limit)s)
            UNION ALL
            (SELECT d.xid FROM erasures d
             WHERE d.xid < %(before)s::xid8 AND d.segment_ids <> '{}' ORDER BY d.xid DESC LIMIT %(limit)s)
        ) x
        ORDER BY x.xid DESC
        OFFSET %(limit)s - 1
        LIMIT 1
    )::text::bigint AS xid
"""

_OF_SPAN: Final[LiteralString] = "xid >= %(first)s::xid8 AND xid <= %(last)s::xid8"
# As everywhere in the history, a membership is in the segment as it is named now.
RECENT: Final[LiteralString] = f"""
    WITH page AS MATERIALIZED (
        SELECT *
        FROM (
            {ERASURES} AND {_OF_SPAN}
            UNION ALL {MEMBERSHIPS} AND {_OF_SPAN}
            UNION ALL {SEGMENTS} AND {_OF_SPAN}
        ) c
        WHERE (xid, part, at, user_id, segment_id, number)
              < (%(last)s::xid8, %(part)s, %(at)s::timestamptz, %(user_id)s::bigint, %(segment_id)s::bigint,
                 %(number)s)
        ORDER BY xid DESC, part DESC, at DESC, user_id DESC, segment_id DESC, number DESC
        LIMIT %(limit)s
    )
    SELECT p.part, p.at, p.user_id, p.segment_id, p.number, p.operation, p.cause, p.actor, p.on_behalf_of,
           p.reason, p.until, p.slug_before, trim_scale(p.percent_before) AS percent_before,
           trim_scale(p.percent_after) AS percent_after, coalesce(p.slug, s.slug) AS slug,
           false AS is_left_out, p.xid::text::bigint AS xid
    FROM page p
    CROSS JOIN LATERAL (SELECT s.slug FROM segments s WHERE s.id = p.segment_id OFFSET 0) s
    ORDER BY p.xid DESC, p.part DESC, p.at DESC, p.user_id DESC, p.segment_id DESC, p.number DESC
"""


class RecentChanges(NamedTuple):
    """A page of changes, the newest first, and the position in the feed up to which the first page shows."""

    page: Page[FeedChange]
    position: Position


class _Key(NamedTuple):
    xid: RowKey
    place: PackedPlace


class _Xid(msgspec.Struct, frozen=True):
    xid: int | None


class _Recent(ChangeRow, frozen=True):
    xid: int


_LISTING: Final = Listing("recent changes", msgspec.msgpack.Decoder(_Key))


async def recent(database: Database, limit: Limit, cursor: str | None) -> RecentChanges:
    """A page of all changes up to now, the newest first. Raises Invalid, Unavailable."""
    key = _LISTING.key_in(cursor)
    async with database.transaction() as connection:
        await connection.execute(f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; {HOLD_TO_INDEXES}")
        position = await present_in(connection)
        last, place = (key.xid, key.place.unpacked()) if key else (position.seen.xmax, BEFORE_ALL)
        parameters = {"before": str(last), "limit": limit + 1}
        first = (await one_row(connection, _Xid, FIRST, parameters)).xid
        async with connection.cursor(row_factory=struct_row(_Recent)) as found:
            await found.execute(RECENT, span(first, last, place, limit + 1))
            rows = await found.fetchall()
    page = Page[_Recent].of(
        rows, limit, lambda row: _LISTING.cursor_after(_Key(row.xid, PackedPlace.of(row.place)))
    )
    return RecentChanges(Page([row.change() for row in page.items], page.next_cursor), position)


def span(first: int | None, last: int, place: Place, limit: int) -> dict[str, object]:
    """The parameters of `RECENT`: from one transaction, or the first of all, to before a place in another."""
    return {"first": str(first or 1), "last": str(last), **place._asdict(), "limit": limit}
