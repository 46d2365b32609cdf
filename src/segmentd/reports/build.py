"""Builds a report: one COPY, streamed into its file."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import datetime
from hashlib import sha256
from typing import Final

from msgspec.structs import replace
from psycopg import AsyncConnection

from segmentd.domain.reports import Built, Report
from segmentd.reports.files import CHUNK_BYTES, ReportFiles
from segmentd.storage.database import Database
from segmentd.storage.report_rows import copied_rows, cut_off, report_snapshot

Claim = Callable[[int], Awaitable[int]]
"""From a file's size to the size that it may reach before the next call. Raises ReportStoreFull."""

HEADER: Final = b"user_id;segment;operation;time\n"


async def build(database: Database, files: ReportFiles, report: Report, claim: Claim | None = None) -> Built:
    """Builds the file of a report and returns its figures.

    Every byte is claimed before it is written; without `claim` there is no bound. Raises ReportStoreFull,
    Gone, Unavailable, OSError.
    """
    as_of = await cut_off(database)
    file_name = replace(report, as_of=as_of).file_name
    recorder = _Recorder(claim)
    async with (
        report_snapshot(database) as connection,
        # If the store fails, the query ends before its transaction does.
        aclosing(_chunks(connection, report, as_of)) as chunks,
    ):
        await files.write(file_name, recorder.record(chunks))
    return Built(as_of, recorder.rows - report.header, recorder.size, recorder.digest.hexdigest())


async def _chunks(connection: AsyncConnection, report: Report, as_of: datetime) -> AsyncGenerator[bytes]:
    if report.header:
        yield HEADER
    async with aclosing(copied_rows(connection, report, as_of, CHUNK_BYTES)) as copied:
        async for rows in copied:
            yield rows


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
