"""The exports of one process: how many run at once, for how long, and how each of them ended."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import Final, NamedTuple

from segmentd.domain.errors import Overloaded, TooManyExports
from segmentd.domain.exports import ExportLimits, ExportOrder
from segmentd.observability.metrics import ExportEnd, Metrics
from segmentd.storage.database import Database
from segmentd.storage.exports import copied_members, export_snapshot, find

HEADER: Final = b"user_id;source;since;until\n"


class Export(NamedTuple):
    """The members of a segment at an instant, in chunks of whole lines."""

    as_of: datetime
    chunks: AsyncIterator[bytes]


class Exports:
    """Runs exports. Each of them holds a connection and a snapshot while it runs."""

    def __init__(self, database: Database, limits: ExportLimits, metrics: Metrics) -> None:
        self._database = database
        self._limits = limits
        self._metrics = metrics
        self._running = 0

    @asynccontextmanager
    async def open(self, order: ExportOrder) -> AsyncIterator[Export]:
        """An export. Its transaction ends with the context, however many chunks were taken.

        Raises TooManyExports, SegmentNotFound, Invalid, Unavailable; Overloaded if it lasts too long.
        """
        limit = self._limits.seconds
        if self._running >= self._limits.at_once:
            raise TooManyExports
        self._running += 1
        self._metrics.exports_running.inc()
        found, ended = False, ExportEnd.FAILED
        try:
            async with asyncio.timeout(limit), export_snapshot(self._database, limit) as connection:
                segment = await find(connection, order.slug, order.at)
                found = True
                rows = copied_members(connection, segment, order)
                async with aclosing(rows), aclosing(self._chunks(rows, order)) as chunks:
                    yield Export(segment.as_of, chunks)
            ended = ExportEnd.DONE
        except TimeoutError:
            ended = ExportEnd.TIMEOUT
            raise Overloaded(f"An export may last {limit:g} seconds.") from None
        except asyncio.CancelledError:
            ended = ExportEnd.ABANDONED
            raise
        finally:
            self._running -= 1
            self._metrics.exports_running.dec()
            if found:
                self._metrics.export_ended(ended)

    async def _chunks(self, batches: AsyncIterator[list[bytes]], order: ExportOrder) -> AsyncGenerator[bytes]:
        header = HEADER if order.header else b""
        async for lines in batches:
            self._metrics.export_rows.inc(len(lines))
            yield header + b"".join(lines)
            header = b""
        if header:
            yield header
