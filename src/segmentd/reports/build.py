"""Builds a report: one COPY, streamed into its file."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import datetime
from hashlib import sha256
from typing import Final, LiteralString

from msgspec.structs import replace
from psycopg import AsyncConnection, sql

from segmentd.domain.reports import Built, Report
from segmentd.reports.files import CHUNK_BYTES, ReportFiles
from segmentd.storage.copying import batches
from segmentd.storage.database import Database

Claim = Callable[[int], Awaitable[int]]
"""From a file's size to the size that it may reach before the next call. Raises ReportStoreFull."""

HEADER: Final = b"user_id;segment;operation;time\n"

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


async def build(database: Database, files: ReportFiles, report: Report, claim: Claim | None = None) -> Built:
    """Builds the file of a report and returns its figures.

    Every byte is claimed before it is written; without `claim` there is no bound. Raises ReportStoreFull,
    Unavailable, OSError.
    """
    as_of = await cut_off(database)
    file_name = replace(report, as_of=as_of).file_name
    recorder = _Recorder(claim)
    async with database.transaction() as connection:
        await connection.execute(_SESSION)
        # If the store fails, the query ends before its transaction does.
        async with aclosing(_chunks(connection, report, as_of)) as chunks:
            await files.write(file_name, recorder.record(chunks))
    return Built(as_of, recorder.rows - report.header, recorder.size, recorder.digest.hexdigest())


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


async def _chunks(connection: AsyncConnection, report: Report, as_of: datetime) -> AsyncGenerator[bytes]:
    if report.header:
        yield HEADER
    copy_out = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, DELIMITER ';')").format(rows_query(report, as_of))
    async with aclosing(batches(connection, copy_out, CHUNK_BYTES)) as copied:
        async for rows in copied:
            yield b"".join(rows)


class _Recorder:
    """Counts and hashes the bytes that pass through, and raises when there is no room for more."""

    def __init__(self, claim: Claim | None) -> None:
        self._claim = claim
        self._claimed = 0
        self.rows = 0
        self.size = 0
        self.digest = sha256()

    async def record(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self.rows += chunk.count(b"\n")
            self.size += len(chunk)
            if self._claim is not None and self.size > self._claimed:
                self._claimed = await self._claim(self.size)
            self.digest.update(chunk)
            yield chunk
