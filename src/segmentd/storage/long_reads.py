"""Reads that look at all users: few at once, each of one moment, within limits of their own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, LiteralString, TypeVar

import psycopg

from segmentd.domain.errors import Overloaded
from segmentd.observability.metrics import Metrics, Refusal
from segmentd.storage.database import Database, Parameters, struct_row

Row = TypeVar("Row")

# In one process.
AT_ONCE: Final = 2
MOST_WAITING: Final = 16
LONGEST_WAIT_S: Final = 5.0
LONGEST_S: Final = 60

# Every statement sees the same moment. The memory has room for the places of millions of rows, so that each
# page of a table is read once.
SESSION: Final[LiteralString] = f"""
    SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
    SET LOCAL statement_timeout = '{LONGEST_S}s';
    SET LOCAL work_mem = '64MB';
"""


class Moment:
    """One moment of the database."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection

    async def all(self, row: type[Row], query: LiteralString, parameters: Parameters = None) -> Sequence[Row]:
        """The rows of one statement, as structs whose fields are the columns."""
        async with self._connection.cursor(row_factory=struct_row(row)) as cursor:
            # Planned for these values: planning takes a millisecond, and a wrong plan seconds.
            await cursor.execute(query, parameters, prepare=False)
            return await cursor.fetchall()


class LongReads:
    """The long reads of one process."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics
        # A small pool keeps a connection for other requests too.
        self._places = asyncio.Semaphore(max(1, min(AT_ONCE, database.pool_size - 1)))
        self._waiting = 0

    @asynccontextmanager
    async def moment(self) -> AsyncIterator[Moment]:
        """A moment to read from, as soon as there is a place.

        Raises Overloaded if too many others read or wait, or a statement takes too long; Unavailable.
        """
        await self._take_a_place()
        self._metrics.long_reads.inc()
        try:
            async with self._database.transaction() as connection:
                await connection.execute(SESSION)
                try:
                    yield Moment(connection)
                except psycopg.errors.QueryCanceled:
                    raise self._refused(
                        f"The read was stopped after {LONGEST_S} s; try again later."
                    ) from None
        finally:
            self._metrics.long_reads.dec()
            self._places.release()

    async def _take_a_place(self) -> None:
        if self._waiting >= MOST_WAITING:
            raise self._refused()
        self._waiting += 1
        try:
            async with asyncio.timeout(LONGEST_WAIT_S):
                await self._places.acquire()
        except TimeoutError:
            raise self._refused() from None
        finally:
            self._waiting -= 1

    def _refused(self, detail: str = "Too many requests count users; try again shortly.") -> Overloaded:
        self._metrics.refused(Refusal.LONG_READ)
        return Overloaded(detail)
