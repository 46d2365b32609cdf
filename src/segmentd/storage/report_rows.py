"""The rows of a report: which they are, and how they are copied out of PostgreSQL."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import Final, LiteralString

from psycopg import AsyncConnection, sql

from segmentd.domain.reports import Report
from segmentd.storage.copying import batches
from segmentd.storage.database import Database

# The parameters are literals because COPY takes no others.
REPORT_ROWS: Final[LiteralString] = """
    SELECT c.user_id, s.slug, c.operation,
           to_char(c.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS time
    FROM effective_changes({as_of}) c
    JOIN segments s ON s.id = c.segment_id
    WHERE c.at >= {begins_at}
      AND c.at < least({ends_at}, {as_of})
      AND {user_filter}
      AND {segment_filter}
    ORDER BY c.user_id, c.at, s.slug, c.segment_id
"""

# A session without time limits and with more memory, because a report may be large.
_SESSION: Final = """
    SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
    SET LOCAL statement_timeout = 0;
    -- After the last row the transaction is idle until the store has the last part of the file.
    SET LOCAL idle_in_transaction_session_timeout = 0;
    SET LOCAL work_mem = '64MB';
    SET LOCAL hash_mem_multiplier = 4;
"""


async def cut_off(database: Database) -> datetime:
    """The instant up to which the history is complete from now on. Raises Unavailable."""
    async with database.transaction() as connection:
        cursor = await connection.execute("SELECT report_cut_off()")
        row = await cursor.fetchone()
    if row is None or not isinstance(row[0], datetime):
        raise TypeError("report_cut_off gives an instant")
    return row[0]


def rows_query(report: Report, as_of: datetime) -> sql.Composed:
    """The SELECT of a report's rows, in their order."""
    only = sql.SQL("{} = {}")
    return sql.SQL(REPORT_ROWS).format(
        as_of=sql.Literal(as_of),
        begins_at=sql.Literal(report.begins_at),
        ends_at=sql.Literal(report.ends_at),
        user_filter=sql.SQL("true")
        if report.user_id is None
        else only.format(sql.SQL("c.user_id"), sql.Literal(report.user_id)),
        segment_filter=sql.SQL("true")
        if report.segment_id is None
        else only.format(sql.SQL("c.segment_id"), sql.Literal(report.segment_id)),
    )


@asynccontextmanager
async def report_snapshot(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction to copy the rows in. Raises Unavailable."""
    async with database.transaction() as connection:
        await connection.execute(_SESSION)
        yield connection


async def copied_rows(
    connection: AsyncConnection, report: Report, as_of: datetime, chunk_bytes: int
) -> AsyncGenerator[bytes]:
    """The rows as CSV, in chunks of about so many bytes."""
    copy_out = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, DELIMITER ';')").format(rows_query(report, as_of))
    async with aclosing(batches(connection, copy_out, batch_bytes=chunk_bytes)) as copied:
        async for rows in copied:
            yield b"".join(rows)
