"""Orders of reports and the keys of their links (functions/10_reports.sql)."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final, LiteralString
from uuid import uuid4

import msgspec
import psycopg

from segmentd.domain.access import Actor
from segmentd.domain.errors import ReportNotFound, SegmentNotFound
from segmentd.domain.reports import Built, Report, ReportId, ReportOrder
from segmentd.storage import history, users
from segmentd.storage.database import Database

Enqueue = Callable[[psycopg.AsyncConnection, ReportId], Awaitable[None]]
"""Puts the making of a report into the job queue, in the transaction of the connection."""

_COLUMNS: Final[LiteralString] = (
    "id, status, begins_at, ends_at, user_id, segment_id, header, as_of, rows, size, sha256, reason,"
    " created_at, expires_at"
)


async def order(database: Database, order: ReportOrder, lifetime: timedelta, enqueue: Enqueue) -> Report:
    """Takes an order and puts it into the job queue, both or neither.

    Raises Invalid for its period, UserNotFound, SegmentNotFound, Unavailable.
    """
    order.period.check(await history.instant(database))
    if order.user_id is not None:
        await users.get(database, order.user_id)
    report_id = ReportId(uuid4())
    async with database.transaction() as connection:
        cursor = await connection.execute(
            "INSERT INTO reports"
            "  (id, begins_at, ends_at, user_id, segment_id, header, created_at, expires_at)"
            " SELECT %(id)s, %(begins_at)s, %(ends_at)s, %(user_id)s, s.id, %(header)s,"
            "  t.now, t.now + %(lifetime)s"
            " FROM (SELECT clock_instant() AS now) t"
            " LEFT JOIN living_segment(%(segment)s) s ON true"
            " WHERE %(segment)s::text IS NULL OR s.id IS NOT NULL",
            {
                "id": report_id,
                "begins_at": order.period.begins_at,
                "ends_at": order.period.ends_at,
                "user_id": order.user_id,
                "segment": order.segment,
                "header": order.header,
                "lifetime": lifetime,
            },
        )
        if cursor.rowcount == 0 and order.segment is not None:
            raise SegmentNotFound([order.segment])
        await enqueue(connection, report_id)
    return await get(database, report_id)


async def get(database: Database, report_id: ReportId) -> Report:
    """One report. Raises ReportNotFound, Unavailable."""
    report = await database.one(Report, f"SELECT {_COLUMNS} FROM reports WHERE id = %s", [report_id])
    if report is None:
        raise ReportNotFound
    return report


async def start(database: Database, report_id: ReportId) -> Report:
    """Marks a report as being made; one that is done stays so. Raises ReportNotFound, Unavailable."""
    report = await database.one(
        Report,
        "UPDATE reports SET status = CASE WHEN status = 'done' THEN 'done' ELSE 'running' END, reason = NULL"
        f" WHERE id = %s RETURNING {_COLUMNS}",
        [report_id],
    )
    if report is None:
        raise ReportNotFound
    return report


async def finish(database: Database, report_id: ReportId, built: Built) -> None:
    """Marks a report as done, once: its link gives this file from now on. Raises Unavailable."""
    await database.execute(
        "UPDATE reports SET status = 'done', as_of = %s, rows = %s, size = %s, sha256 = %s"
        " WHERE id = %s AND status <> 'done'",
        [*built, report_id],
    )


async def fail(database: Database, report_id: ReportId, reason: str) -> None:
    """Marks a report as failed, with a reason for people; one that is done stays so. Raises Unavailable."""
    await database.execute(
        "UPDATE reports SET status = 'failed', reason = %s WHERE id = %s AND status <> 'done'",
        [reason, report_id],
    )


async def expired(database: Database) -> Sequence[Report]:
    """Reports whose link has expired and whose files are still there. Raises Unavailable."""
    return await database.all(
        Report,
        f"SELECT {_COLUMNS} FROM reports"
        # A build that is still under way has yet to leave its file.
        " WHERE purged_at IS NULL AND expires_at <= clock_instant() AND status IN ('done', 'failed')"
        " ORDER BY expires_at",
    )


async def mark_purged(database: Database, report_id: ReportId) -> None:
    """Notes that the file is gone. Raises Unavailable."""
    await database.execute("UPDATE reports SET purged_at = clock_instant() WHERE id = %s", [report_id])


async def signing_keys(database: Database) -> Sequence[bytes]:
    """The keys that links are good under, the one that signs first. Raises Unavailable."""
    rows = await database.all(
        _Key,
        "SELECT key FROM signing_keys"
        " WHERE good_until IS NULL OR good_until > clock_instant() ORDER BY id DESC",
    )
    return [row.key for row in rows]


async def replace_signing_key(database: Database, keep: timedelta, actor: Actor) -> None:
    """Makes a key that signs from now on; the ones before it stay good for so long. Raises Unavailable."""
    await database.execute("SELECT replace_signing_key(%s, %s)", [keep, actor.name])


class _Key(msgspec.Struct, frozen=True):
    key: bytes
