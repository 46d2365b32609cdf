"""Startup checks of the server behind a database URL: can segmentd use it? They lock nothing there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, LiteralString, TypeVar

import msgspec
import psycopg

from segmentd.domain.errors import StartupFailed
from segmentd.storage.database import struct_row
from segmentd.storage.database_url import check_url
from segmentd.storage.sessions import OLDEST_POSTGRESQL, Session, pins, reason_of

Row = TypeVar("Row")

_CONNECT_SECONDS: Final = 10
# How often to test whether a pooler shares its connections. If nobody else uses the pooler, once is enough.
_PROBES: Final = 3
_SHARED: Final = (
    "a connection pooler shares the database's connections between transactions, as PgBouncer does with"
    " pool_mode = transaction or statement: set pool_mode = session for segmentd, or name the server itself"
)

_FACTS: Final[LiteralString] = """
    SELECT pg_backend_pid() AS backend_pid,
           getdatabaseencoding() AS encoding,
           pg_is_in_recovery() AS is_standby,
           current_setting('session_replication_role') AS replication_role
"""

# A superuser is held by the first limit only.
_ALLOWED: Final[LiteralString] = """
    SELECT least(
        current_setting('max_connections')::integer
        - CASE WHEN r.rolsuper THEN 0 ELSE current_setting('superuser_reserved_connections')::integer END
        - CASE WHEN r.rolsuper OR may_use_reserved THEN 0
               ELSE coalesce(current_setting('reserved_connections', true)::integer, 0) END,
        CASE WHEN NOT r.rolsuper AND r.rolconnlimit >= 0 THEN r.rolconnlimit END,
        CASE WHEN NOT r.rolsuper AND d.datconnlimit >= 0 THEN d.datconnlimit END
    ) AS allowed
    FROM pg_roles r
    CROSS JOIN pg_database d
    CROSS JOIN LATERAL (
        SELECT EXISTS (
            SELECT FROM pg_roles reserve
            WHERE reserve.rolname = 'pg_use_reserved_connections' AND pg_has_role(r.oid, reserve.oid, 'USAGE')
        ) AS may_use_reserved
    ) reserve
    WHERE r.rolname = session_user AND d.datname = current_database()
"""


class _Facts(msgspec.Struct, frozen=True):
    backend_pid: int
    encoding: str
    is_standby: bool
    replication_role: str


class _Allowance(msgspec.Struct, frozen=True):
    allowed: int


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """A connection in autocommit to a server that segmentd can use.

    Raises StartupFailed, also for what goes wrong in the context; its one line never shows a secret.
    """
    check_url(database_url)
    try:
        async with await _opened(database_url) as connection:
            await _refuse_unusable(connection, database_url)
            await connection.pin()
            yield connection
    except psycopg.Error as error:
        raise StartupFailed(f"cannot use the database: {reason_of(error)}") from error


async def allowed_connections(connection: psycopg.AsyncConnection) -> int:
    """How many connections the server lets this role have to this database, if nobody else has any."""
    return (await _answer(_Allowance, connection, _ALLOWED)).allowed


async def _opened(database_url: str) -> Session:
    """Without our settings or prepared statements: both would remain on a pooler's shared connections."""
    return await Session.connect(
        database_url, autocommit=True, prepare_threshold=None, connect_timeout=_CONNECT_SECONDS, pinned=False
    )


async def _refuse_unusable(connection: Session, database_url: str) -> None:
    version = connection.info.server_version // 10_000
    if version < OLDEST_POSTGRESQL:
        raise StartupFailed(f"PostgreSQL {OLDEST_POSTGRESQL} or newer is needed; the database runs {version}")
    facts = await _facts(connection)
    if facts.encoding != "UTF8":
        raise StartupFailed(
            f"the encoding of the database is {facts.encoding}, and it has to be UTF8:"
            " make one with CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8'"
        )
    if facts.is_standby:
        raise StartupFailed("the database is a standby, which takes no writes: name the primary")
    if facts.replication_role == "replica":
        raise StartupFailed(
            "session_replication_role is replica, so triggers do not run: set it to origin for this role"
        )
    # The server sends its process id when a connection is made; a pooler sends another number.
    if facts.backend_pid != connection.info.backend_pid:
        await _refuse_sharing_pooler(connection, database_url)


async def _refuse_sharing_pooler(connection: Session, database_url: str) -> None:
    """Raises StartupFailed if a pooler gives a server's connection to another client between transactions.

    Settings, LISTEN, locks and prepared statements of a session would then belong to another client.
    """
    try:
        async with asyncio.timeout(_CONNECT_SECONDS), await _opened(database_url) as other:
            for _ in range(_PROBES):
                if await _is_shared(connection, other):
                    raise StartupFailed(_SHARED)
    except TimeoutError:
        raise StartupFailed(
            f"the connection pooler gave no second connection within {_CONNECT_SECONDS} s:"
            " its pool is too small or in use; `segmentd check` says how many a node needs"
        ) from None


async def _is_shared(connection: Session, other: Session) -> bool:
    """Whether a transaction on the second connection ran in the server's process of the first one."""
    before = (await _facts(connection)).backend_pid
    async with _transaction(other):
        taken = (await _answer(_Facts, other, _FACTS)).backend_pid
        return taken == before or (await _facts(connection)).backend_pid != before


async def _facts(connection: Session) -> _Facts:
    async with _transaction(connection):
        return await _answer(_Facts, connection, _FACTS)


@asynccontextmanager
async def _transaction(connection: Session) -> AsyncIterator[None]:
    """A transaction with our settings, so that no time limit of the server ends it."""
    try:
        async with connection.transaction():
            await connection.execute(pins(connection.info.server_version, "LOCAL"))
            yield
    except psycopg.errors.ProtocolViolation:  # a pooler of statements knows no transactions
        raise StartupFailed(_SHARED) from None


async def _answer(row: type[Row], connection: psycopg.AsyncConnection, query: LiteralString) -> Row:
    async with connection.cursor(row_factory=struct_row(row)) as cursor:
        await cursor.execute(query)
        [found] = await cursor.fetchall()
        return found
