"""The pool of connections: statements with retries, and errors of the domain."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any, Final, LiteralString, NamedTuple, Self, TypeVar

import msgspec
import psycopg
import structlog
from psycopg import sql
from psycopg.rows import RowMaker
from psycopg_pool import PoolClosed, PoolTimeout

from segmentd.background import end
from segmentd.domain.errors import Unavailable
from segmentd.observability.traces import Tracing
from segmentd.storage.circuit_breaker import CircuitBreaker
from segmentd.storage.pool import LatestFirstPool
from segmentd.storage.sessions import Reachability, reason_of

Row = TypeVar("Row")
Result = TypeVar("Result")
Parameters = Sequence[object] | Mapping[str, object] | None

# PostgreSQL rolled the statement back, so it is safe to send it again.
_UNDONE: Final = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.LockNotAvailable,
)
_OUT_OF_REACH: Final = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.IdleInTransactionSessionTimeout,
    PoolTimeout,
    PoolClosed,
)
_ATTEMPTS: Final = 4
_LONGEST_WAIT_S: Final = 3.0
_CUT_OFF: Final = (
    "The connection to the database broke before it answered. A change that was asked for has been made as a"
    " whole or not at all; try again shortly."
)

_log = structlog.get_logger(__name__)


class Succeeded(msgspec.Struct, frozen=True):
    """The answer of an SQL function that finds something to do, or not."""

    succeeded: bool


class PoolLoad(NamedTuple):
    """A pool's connections that are in use or being made, those to be had, and how many wait for one."""

    busy: int
    idle: int
    waiting: int


class Database:
    """PostgreSQL behind a pool; every statement is a transaction of its own unless `transaction` is used.

    The pool opens `idle` connections at the start, and grows to `pool_size` under load.
    """

    def __init__(
        self, url: str, *, pool_size: int = 10, idle: int = 1, tracing: Tracing | None = None
    ) -> None:
        self.url = url
        """For a connection that is not of the pool."""
        self.pool_size = pool_size
        """How many connections there may be."""
        self._reachability = Reachability()
        self._pool = LatestFirstPool(
            url,
            min_size=idle,
            max_size=pool_size,
            open=False,
            timeout=_LONGEST_WAIT_S,
            # Within one series of attempts each pause is twice the one before. Short series, started again
            # and again, find a returned database soon.
            reconnect_timeout=_LONGEST_WAIT_S,
            kwargs={"autocommit": True, "reachability": self._reachability},
        )
        self._tracing = tracing
        self._checking: asyncio.Task[None] | None = None
        self._given_up: set[asyncio.Task[object]] = set()
        self._breaker = CircuitBreaker(_LONGEST_WAIT_S)
        self.longest_wait_s = _LONGEST_WAIT_S
        """The longest that a statement waits for its turn."""

    async def __aenter__(self) -> Self:
        await self._pool.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        unneeded = [*self._given_up, *([] if self._checking is None else [self._checking])]
        await end(*unneeded)
        await self._pool.close()

    async def all(self, row: type[Row], query: LiteralString, parameters: Parameters = None) -> list[Row]:
        """The rows of one statement, as structs whose fields are the columns. Raises Unavailable."""
        return await self._insisting(query, partial(_fetch, row, query, parameters))

    async def once(self, row: type[Row], query: LiteralString, parameters: Parameters = None) -> list[Row]:
        """As `all`, but does not try again. Raises what PostgreSQL undid the statement for, Unavailable."""
        with self.span(query):
            async with self._connection() as connection:
                return await _fetch(row, query, parameters, connection)

    async def one(self, row: type[Row], query: LiteralString, parameters: Parameters = None) -> Row | None:
        """The only row of one statement, or None. Raises Unavailable."""
        rows = await self.all(row, query, parameters)
        return rows[0] if rows else None

    async def one_within(self, seconds: float, row: type[Row], query: LiteralString) -> Row | None:
        """As `one`, but gives up after so many seconds, even on a silent server. Raises Unavailable."""
        asking = asyncio.create_task(self.one(row, query), name="ask for a while")
        try:
            if not (await asyncio.wait([asking], timeout=seconds))[0]:
                raise Unavailable
            return asking.result()
        finally:
            # Cancelling a statement on a silent server takes up to ten seconds: do not wait for that.
            if asking.cancel():
                self._given_up.add(asking)
                asking.add_done_callback(self._forget)

    async def execute(self, query: LiteralString, parameters: Parameters = None) -> int:
        """Runs one statement and returns the number of rows that it touched. Raises Unavailable."""

        async def run(connection: psycopg.AsyncConnection) -> int:
            return (await connection.execute(query, parameters)).rowcount

        return await self._insisting(query, run)

    async def run_once(self, query: sql.Composed) -> None:
        """Runs one statement, in no transaction, once. Raises psycopg.Error, Unavailable."""
        with self.span("ALTER TABLE"):
            async with self._connection() as connection:
                await connection.execute(query)

    @property
    def last_failure(self) -> str | None:
        """Why the database cannot be reached, as PostgreSQL or the network said; None after an answer.

        One line with no secret in it, fit for /readyz and logs.
        """
        return self._reachability.reason

    def span(self, query: LiteralString) -> AbstractContextManager[object]:
        """A span of this statement, for what waits for it; within another span, if traces are asked for."""
        return nullcontext() if self._tracing is None else self._tracing.statement(query)

    def check(self) -> None:
        """Raises Unavailable while statements fail at once, because the database answers nothing."""
        if self._breaker.is_open():
            raise Unavailable

    def note_timeout(self) -> None:
        """Call it after something waited so long for its turn."""
        self._breaker.note_timeout()

    def silent_seconds(self) -> float:
        """For how long the database has answered no statement; an error is an answer too."""
        return self._breaker.silent_seconds()

    def load(self) -> PoolLoad:
        """How many of the pool's connections are in use, and how many statements wait for one."""
        stats = self._pool.get_stats()
        idle = stats["pool_available"]
        return PoolLoad(stats["pool_size"] - idle, idle, stats["requests_waiting"])

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[psycopg.AsyncConnection]:
        """A connection in one transaction, committed at the end, undone by any error. Raises Unavailable."""
        with nullcontext() if self._tracing is None else self._tracing.transaction():
            async with self._connection() as connection, connection.transaction():
                yield connection

    async def _insisting(
        self, query: LiteralString, work: Callable[[psycopg.AsyncConnection], Awaitable[Result]]
    ) -> Result:
        """Does the work, and again a few times if PostgreSQL rolled it back; all that is one span."""
        with self.span(query):
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    async with self._connection() as connection:
                        return await work(connection)
                except _UNDONE as error:
                    _log.info("rolled back, trying again", attempt=attempt, error=type(error).__name__)
                    await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - spreads retries, no secret
            raise Unavailable("The database is too busy with conflicting changes; try again shortly.")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[psycopg.AsyncConnection]:
        self.check()
        held: psycopg.AsyncConnection | None = None
        try:
            async with self._pool.connection() as held, _given_up_if_read_only(held):
                yield held
        except _UNDONE:
            self._note_answer()
            raise
        except _OUT_OF_REACH as error:
            if isinstance(error, PoolTimeout):
                self._breaker.note_timeout()
            self._note_failure(error)
            self._check_the_others()
            # A server that refused has done nothing; one whose connection broke may have committed before.
            refused = isinstance(error, psycopg.errors.ReadOnlySqlTransaction)
            is_cut_off = held is not None and held.closed and not refused
            raise (Unavailable(_CUT_OFF) if is_cut_off else Unavailable()) from error
        except psycopg.Error:
            self._note_answer()
            raise
        else:
            self._note_answer()

    def _note_failure(self, error: Exception) -> None:
        """If no connection came free, the reason is what PostgreSQL said when the pool tried to make one."""
        if not isinstance(error, PoolTimeout | PoolClosed):
            self._reachability.note_failure(error)
        elif self.last_failure is None:
            self._reachability.say(reason_of(error))

    def _note_answer(self) -> None:
        """The database answered, whatever the answer was."""
        self._reachability.note_success()
        self._breaker.note_answer()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._given_up.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not report it

    def _check_the_others(self) -> None:
        """After one connection broke, others may be broken too: replaces idle ones that no longer answer."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._pool.check(), name="check connections")


@asynccontextmanager
async def _given_up_if_read_only(connection: psycopg.AsyncConnection) -> AsyncIterator[None]:
    """Closes a connection that leads to what is no primary any more, so that the pool makes another one."""
    try:
        yield
    except psycopg.errors.ReadOnlySqlTransaction:
        await connection.close()
        raise


async def _fetch(
    row: type[Row], query: LiteralString, parameters: Parameters, connection: psycopg.AsyncConnection
) -> list[Row]:
    async with connection.cursor(row_factory=struct_row(row)) as cursor:
        await cursor.execute(query, parameters)
        return await cursor.fetchall()


async def one_row(
    connection: psycopg.AsyncConnection, row: type[Row], query: LiteralString, parameters: Parameters = None
) -> Row:
    """The row of a statement that always gives one, on a connection of the caller's. Raises psycopg.Error."""
    async with connection.cursor(row_factory=struct_row(row)) as cursor:
        await cursor.execute(query, parameters)
        [found] = await cursor.fetchall()
        return found


def struct_row(row: type[Row]) -> Callable[[psycopg.AsyncCursor[Any]], RowMaker[Row]]:
    """Makes rows into msgspec structs, field by column name; a value of another type is an error."""

    def factory(cursor: psycopg.AsyncCursor[Any]) -> RowMaker[Row]:
        names = [column.name for column in cursor.description or ()]
        return lambda values: msgspec.convert(dict(zip(names, values, strict=True)), row)

    return factory
