"""The rows of an export: everybody in a segment, copied out of PostgreSQL (functions/14_exports.sql)."""

import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import Final, LiteralString

import msgspec
from psycopg import AsyncConnection, sql

from segmentd.domain.errors import Fault, Invalid, SegmentNotFound
from segmentd.domain.exports import ExportFormat, ExportOrder
from segmentd.domain.history import check_kept
from segmentd.domain.identifiers import Slug
from segmentd.storage.copying import batches
from segmentd.storage.database import Database, struct_row

# A batch takes less than a millisecond, in which the process answers nothing else.
BATCH_BYTES: Final = 64 * 1024

# Each part is read in the order of an index, and the parts are merged. The planner would now and then collect
# all members before the first row.
HOLD_TO_MERGES: Final[LiteralString] = """
    SET LOCAL enable_hashjoin = off;
    SET LOCAL enable_nestloop = off;
    SET LOCAL enable_hashagg = off;
    SET LOCAL enable_sort = off;
    SET LOCAL enable_seqscan = off;
    SET LOCAL enable_bitmapscan = off;
    SET LOCAL max_parallel_workers_per_gather = 0;
"""

# The parameters are literals because COPY takes no others.
MEMBERS_BY_OVERRIDE: Final[LiteralString] = """
    members_by_override(
        {id}, {salt}, {times}::timestamptz[], {thresholds}::bigint[], {as_of}, {is_now}
    )
"""
MEMBERS_BY_BUCKET: Final[LiteralString] = """
    members_by_bucket(
        {id}, {salt}, {times}::timestamptz[], {thresholds}::bigint[], {lowest}::bigint[], {as_of}, {is_now}
    )
"""

_COPIES: Final = {
    ExportFormat.CSV: sql.SQL(
        "COPY (SELECT user_id, source, rfc3339(since), rfc3339(until) FROM {members} ORDER BY user_id)"
        " TO STDOUT (FORMAT csv, DELIMITER ';')"
    ),
    ExportFormat.NDJSON: sql.SQL(
        "COPY (SELECT member_as_json(user_id, source, since, until, {quote}) FROM {members} ORDER BY user_id)"
        " TO STDOUT"
    ),
}


class SegmentToExport(msgspec.Struct, frozen=True):
    """A segment as it was at `as_of`, with its percentages up to then."""

    as_of: datetime
    is_now: bool
    is_ahead: bool
    """Whether that is in the future."""
    begins_at: datetime | None
    """The beginning of the history; None: all of it is kept."""
    id: int | None
    salt: int | None
    times: Sequence[datetime] | None
    thresholds: Sequence[int] | None
    lowest: Sequence[int] | None

    @property
    def has_percentage(self) -> bool:
        """Whether a percentage covers anybody at `as_of`."""
        return bool(self.thresholds and self.thresholds[-1])


@asynccontextmanager
async def export_snapshot(database: Database, seconds: float) -> AsyncIterator[AsyncConnection]:
    """A transaction, of so many seconds at most, to copy the members in. Raises Unavailable."""
    async with database.transaction() as connection:
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        await connection.execute(
            "SELECT set_config('statement_timeout', %s, true)", [f"{math.ceil(seconds)}s"]
        )
        yield connection


async def find(connection: AsyncConnection, slug: Slug, at: datetime | None) -> SegmentToExport:
    """The segment that a slug means at an instant (None: now). Raises SegmentNotFound, Invalid, Gone."""
    async with connection.cursor(row_factory=struct_row(SegmentToExport)) as cursor:
        await cursor.execute(
            "SELECT i.*, k.begins_at, s.* FROM kept_history k, present p"
            " CROSS JOIN LATERAL (SELECT coalesce(asked.at, p.at) AS as_of, asked.at IS NULL AS is_now,"
            "   coalesce(asked.at > p.at, false) AS is_ahead FROM (SELECT %s::timestamptz AS at) asked) i"
            " LEFT JOIN LATERAL segment_to_export(%s, i.as_of) s ON true",
            [at, slug],
        )
        [segment] = await cursor.fetchall()
    if segment.is_ahead:
        raise Invalid(Fault("/at", "this time is in the future"))
    check_kept(at, segment.begins_at)
    if segment.id is None:
        raise SegmentNotFound([slug])
    return segment


def copy_of(segment: SegmentToExport, order: ExportOrder) -> sql.Composed:
    """The COPY of the members, by user id."""
    members = MEMBERS_BY_BUCKET if segment.has_percentage else MEMBERS_BY_OVERRIDE
    facts = {name: sql.Literal(value) for name, value in msgspec.structs.asdict(segment).items()}
    quote = sql.Literal('"' if order.text_ids else "")
    return _COPIES[order.format].format(members=sql.SQL(members).format(**facts), quote=quote)


async def copied_members(
    connection: AsyncConnection, segment: SegmentToExport, order: ExportOrder
) -> AsyncGenerator[list[bytes]]:
    """The lines, in batches of about BATCH_BYTES. Raises psycopg.Error."""
    await connection.execute(HOLD_TO_MERGES)
    async with aclosing(batches(connection, copy_of(segment, order), batch_bytes=BATCH_BYTES)) as copied:
        async for lines in copied:
            yield lines
