"""Orders of reports and the keys of their links (functions/10_reports.sql)."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final, LiteralString
from uuid import UUID, uuid4

import msgspec
import psycopg

from segmentd.domain.access import Actor
from segmentd.domain.errors import ReportNotFound, SegmentNotFound, Unavailable
from segmentd.domain.history import check_kept
from segmentd.domain.instants import LAST_INSTANT
from segmentd.domain.reports import (
    Built,
    ListedReport,
    Report,
    ReportId,
    ReportKey,
    ReportLimits,
    ReportLoad,
    ReportOrder,
)
from segmentd.storage import history, users
from segmentd.storage.database import Database, Parameters, Row, struct_row

Enqueue = Callable[[psycopg.AsyncConnection, ReportId, int], Awaitable[None]]
"""Puts the making of a report into the job queue, in the transaction of the connection.

The number is how many reports of the caller are in progress: the more they are, the later its turn."""

# An order is remembered for so long after its link has expired.
REMEMBERED: Final = timedelta(days=365)
# How many bytes a build reserves at a time, beyond those that it needs now.
CLAIMED_AHEAD_BYTES: Final = 16 * 2**20

_AFTER_ALL: Final = ReportKey(LAST_INSTANT, UUID(int=2**128 - 1))

_COLUMNS: Final[LiteralString] = (
    "id, status, begins_at, ends_at, user_id, segment_id, header, as_of, rows, size, sha256, reason,"
    " created_at, expires_at"
)


async def order(
    database: Database,
    order: ReportOrder,
    actor: Actor,
    limits: ReportLimits,
    lifetime: timedelta,
    enqueue: Enqueue,
) -> Report:
    """Takes an order and puts it into the job queue, both or neither.

    Raises Invalid or Gone for its period, UserNotFound, SegmentNotFound, TooManyReports, ReportStoreFull,
    Unavailable.
    """
    order.period.check(await history.instant(database))
    check_kept(order.period.begins_at, await history.begins_at(database))
    if order.user_id is not None:
        await users.get(database, order.user_id)
    async with database.transaction() as connection:
        try:
            load = await _row(connection, ReportLoad, "SELECT * FROM report_load(%s)", [actor.name])
        except psycopg.errors.LockNotAvailable:
            raise Unavailable from None
        if load is None:
            raise TypeError("report_load gives a row")
        limits.check(load)
        report = await _insert(connection, order, actor, lifetime)
        await enqueue(connection, report.id, load.of_caller)
    return report


async def _insert(
    connection: psycopg.AsyncConnection, order: ReportOrder, actor: Actor, lifetime: timedelta
) -> Report:
    report = await _row(
        connection,
        Report,
        "INSERT INTO reports"
        "  (id, begins_at, ends_at, user_id, segment_id, header, ordered_by, on_behalf_of,"
        "   created_at, expires_at)"
        " SELECT %(id)s, %(begins_at)s, %(ends_at)s, %(user_id)s, s.id, %(header)s, %(caller)s,"
        "  %(person)s,"
        "  t.now, t.now + %(lifetime)s"
        " FROM (SELECT clock_instant() AS now) t"
        " LEFT JOIN segments s ON s.slug = %(segment)s AND s.deleted_at IS NULL"
        " WHERE %(segment)s::text IS NULL OR s.id IS NOT NULL"
        f" RETURNING {_COLUMNS}",
        {
            "id": uuid4(),
            "begins_at": order.period.begins_at,
            "ends_at": order.period.ends_at,
            "user_id": order.user_id,
            "segment": order.segment,
            "header": order.header,
            "caller": actor.name,
            "person": actor.on_behalf_of,
            "lifetime": lifetime,
        },
    )
    if report is None:
        raise SegmentNotFound([order.segment or ""])
    return report


async def _row(
    connection: psycopg.AsyncConnection, row: type[Row], query: LiteralString, parameters: Parameters
) -> Row | None:
    async with connection.cursor(row_factory=struct_row(row)) as cursor:
        await cursor.execute(query, parameters)
        return await cursor.fetchone()


async def get(database: Database, report_id: ReportId) -> Report:
    """One report. Raises ReportNotFound, Unavailable."""
    report = await database.one(Report, f"SELECT {_COLUMNS} FROM reports WHERE id = %s", [report_id])
    if report is None:
        raise ReportNotFound
    return report


async def list_before(database: Database, before: ReportKey | None, limit: int) -> Sequence[ListedReport]:
    """Up to `limit` reports that were ordered before that one, the newest first. Raises Unavailable."""
    return await database.all(
        ListedReport,
        f"SELECT {_COLUMNS}, ordered_by, on_behalf_of,"
        " (SELECT s.slug FROM segments s WHERE s.id = r.segment_id) AS segment"
        " FROM reports r"
        " WHERE (created_at, id) < (%(created_at)s, %(id)s)"
        " ORDER BY created_at DESC, id DESC LIMIT %(limit)s",
        {**(before or _AFTER_ALL)._asdict(), "limit": limit},
    )


async def final(database: Database, report_ids: Sequence[ReportId]) -> Mapping[ReportId, Report]:
    """Those of these reports that are done or failed, by id. Raises Unavailable."""
    found = await database.all(
        Report,
        f"SELECT {_COLUMNS} FROM reports WHERE id = ANY (%s) AND status IN ('done', 'failed')",
        [report_ids],
    )
    return {report.id: report for report in found}


async def start(database: Database, report_id: ReportId) -> Report:
    """Marks a report as being made; one that is done stays so. Raises ReportNotFound, Unavailable."""
    report = await database.one(
        Report,
        "UPDATE reports SET status = CASE WHEN status = 'done' THEN 'done' ELSE 'running' END, reason = NULL,"
        "  size = CASE WHEN status = 'done' THEN size END"
        f" WHERE id = %s RETURNING {_COLUMNS}",
        [report_id],
    )
    if report is None:
        raise ReportNotFound
    return report


async def claim(database: Database, report_id: ReportId, needed: int, most_bytes: int) -> int | None:
    """Reserves room for a file that has `needed` bytes so far, out of `most_bytes` for all files.

    Returns the size up to which it may grow before it asks again; None: there is no room. Raises Unavailable.
    """
    claimed = await database.one(
        _Claim,
        "SELECT claim_report_bytes(%s, %s, %s, %s) AS bytes",
        [report_id, needed, CLAIMED_AHEAD_BYTES, most_bytes],
    )
    return None if claimed is None else claimed.bytes


async def finish(database: Database, report_id: ReportId, built: Built) -> None:
    """Marks a report as done, once: from then on its link serves this file. Raises Unavailable."""
    await database.execute(
        "UPDATE reports SET status = 'done', as_of = %s, rows = %s, size = %s, sha256 = %s"
        " WHERE id = %s AND status <> 'done'",
        [*built, report_id],
    )


async def fail(database: Database, report_id: ReportId, reason: str) -> None:
    """Marks a report as failed, with a reason for people; one that is done stays so. Raises Unavailable."""
    await database.execute(
        "UPDATE reports SET status = 'failed', reason = %s, size = NULL WHERE id = %s AND status <> 'done'",
        [reason, report_id],
    )


async def expired(database: Database) -> Sequence[Report]:
    """Reports whose link has expired and whose files are still there. Raises Unavailable."""
    return await database.all(
        Report,
        f"SELECT {_COLUMNS} FROM reports"
        # A build in progress has not written its file yet.
        " WHERE purged_at IS NULL AND expires_at <= clock_instant() AND status IN ('done', 'failed')"
        " ORDER BY expires_at",
    )


async def mark_purged(database: Database, report_id: ReportId) -> None:
    """Records that the file was removed. Raises Unavailable."""
    await database.execute("UPDATE reports SET purged_at = clock_instant() WHERE id = %s", [report_id])


async def forget(database: Database) -> None:
    """Removes orders whose link expired long ago. Raises Unavailable."""
    await database.execute(
        "DELETE FROM reports WHERE purged_at IS NOT NULL AND expires_at < clock_instant() - %s", [REMEMBERED]
    )


async def signing_keys(database: Database) -> Sequence[bytes]:
    """The keys under which links are valid; the first one signs. Raises Unavailable."""
    rows = await database.all(
        _Key,
        "SELECT key FROM signing_keys"
        " WHERE good_until IS NULL OR good_until > clock_instant() ORDER BY id DESC",
    )
    return [row.key for row in rows]


async def replace_signing_key(database: Database, keep: timedelta, actor: Actor) -> None:
    """Makes a key that signs from now on; the older ones stay valid for so long. Raises Unavailable."""
    await database.execute("SELECT replace_signing_key(%s, %s)", [keep, actor.name])


class _Key(msgspec.Struct, frozen=True):
    key: bytes


class _Claim(msgspec.Struct, frozen=True):
    bytes: int | None
