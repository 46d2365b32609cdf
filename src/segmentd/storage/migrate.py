"""Applies the schema (storage/schema.py): numbered files once, and the functions whenever they changed."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import psycopg
import structlog
from psycopg.rows import scalar_row

from segmentd import __version__
from segmentd.domain.errors import StartupFailed
from segmentd.storage import job_queue, schema
from segmentd.storage.schema import SqlFile
from segmentd.storage.server import connected
from segmentd.storage.sessions import reason_of

# Services that start at once on an empty database migrate it one after the other.
_MIGRATION_LOCK: Final = 7236837900
_LOCK_TIMEOUT: Final = "60s"
# A wait for the catalog lock blocks all later writes, so each wait is short (lock_catalog).
_CATALOG_ATTEMPTS: Final = 30

_DROP_FIRST: Final = (
    "a changed signature or return type needs a DROP FUNCTION IF EXISTS in a new file of tables"
)

_log = structlog.get_logger(__name__)


async def migrate(database_url: str) -> int:
    """Brings the schema up to date and returns the number of migrations applied, the functions being one.

    Raises StartupFailed when the database cannot be used: unreachable, too old, or of a newer segmentd.
    """
    async with connected(database_url) as connection, _migrating(connection):
        pending = await _pending_tables(connection)
        functions_due = bool(pending) or await _functions_due(connection)
        if functions_due:
            await _apply(connection, pending)
        return len(pending) + functions_due + await _install_job_queue(connection)


async def pending_migrations(database_url: str) -> list[str]:
    """The names of what the database still lacks; changes nothing. Raises StartupFailed."""
    async with connected(database_url) as connection:
        pending = await _pending_tables(connection)
        functions_due = bool(pending) or await _functions_due(connection)
        return [*(file.name for file in pending), *(["functions"] if functions_due else [])]


@asynccontextmanager
async def _migrating(connection: psycopg.AsyncConnection) -> AsyncIterator[None]:
    """A transaction that holds the migration lock. The lock ends with it, even if this process is killed."""
    async with connection.transaction():
        await connection.execute(
            f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode()
        )
        try:
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_MIGRATION_LOCK])
        except psycopg.errors.LockNotAvailable:
            raise StartupFailed(
                f"another segmentd has been migrating this database for {_LOCK_TIMEOUT}"
            ) from None
        yield


async def _pending_tables(connection: psycopg.AsyncConnection) -> list[SqlFile]:
    """The numbered files that the database lacks.

    Raises StartupFailed if another kind of segmentd made it.
    """
    async with connection.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(
            "SELECT relname FROM pg_class WHERE oid IN"
            " (to_regclass('schema_migrations'), to_regclass('schema_functions'))"
        )
        notes = {str(name) async for name in cursor}
        if not notes:
            return schema.table_files()
        if notes == {"schema_migrations"}:
            raise StartupFailed(
                "a development version from before the first release made this database: use an empty one"
            )
        await cursor.execute("SELECT number FROM schema_migrations")
        applied = {int(number) async for number in cursor}
    if unknown := applied - {file.number for file in schema.table_files()}:
        raise StartupFailed(
            f"the database was migrated by a newer segmentd (migration {max(unknown)}); update this one"
        )
    return [file for file in schema.table_files() if file.number not in applied]


async def _functions_due(connection: psycopg.AsyncConnection) -> bool:
    """Whether the database has other functions than this segmentd brings, from a version that is no newer.

    An older segmentd works with the functions of a newer one: only a numbered file drops a function, and the
    older one refuses a database with a numbered file that it does not know.
    """
    cursor = await connection.execute("SELECT digest, version FROM schema_functions")
    [(digest, version)] = await cursor.fetchall()
    return digest != schema.functions().digest and _release(version) <= _release(__version__)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


async def _apply(connection: psycopg.AsyncConnection, pending: Sequence[SqlFile]) -> None:
    """Applies numbered files, then all functions, in one transaction: others see all of them or none."""
    functions = schema.functions()
    at_work = ""
    try:
        async with connection.transaction():
            await _take_catalog(connection)
            for file in [*pending, *functions.files]:
                at_work = file.name
                await connection.execute(file.sql.encode())
            for file in pending:
                await connection.execute(
                    "INSERT INTO schema_migrations (number, name) VALUES (%s, %s)", [file.number, file.name]
                )
            await _refuse_overloads(connection, functions.names)
            await connection.execute(
                "INSERT INTO schema_functions (digest, version) VALUES (%(digest)s, %(version)s)"
                " ON CONFLICT (only_row) DO UPDATE"
                " SET digest = %(digest)s, version = %(version)s, applied_at = now()",
                {"digest": functions.digest, "version": __version__},
            )
    except psycopg.errors.InvalidFunctionDefinition as error:
        raise StartupFailed(f"migration {at_work} failed: {reason_of(error)}; {_DROP_FIRST}") from error
    except psycopg.Error as error:
        raise StartupFailed(f"migration {at_work} failed: {reason_of(error)}") from error
    for file in pending:
        _log.info("migrated", migration=file.name)
    _log.info("functions_replaced", digest=functions.digest)


async def _take_catalog(connection: psycopg.AsyncConnection) -> None:
    """Waits for the writes that are under way, and lets none begin before the commit.

    Each statement of a function finds what it calls as of then: a write could be half old and half new. The
    lock comes before those of the tables, as in writes, or each could wait for the other.
    """
    cursor = await connection.execute("SELECT to_regproc('lock_catalog') IS NOT NULL")
    [(is_there,)] = await cursor.fetchall()
    if not is_there:  # in an empty database
        return
    for _ in range(_CATALOG_ATTEMPTS):
        try:
            async with connection.transaction():
                await connection.execute("SELECT lock_catalog()")
        except psycopg.errors.LockNotAvailable:
            continue
        await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
        return
    raise StartupFailed("the functions cannot be replaced: a write or a report holds the catalog's lock")


async def _refuse_overloads(connection: psycopg.AsyncConnection, names: Sequence[str]) -> None:
    """Refuses two functions with one name: CREATE OR REPLACE with other parameters makes a second one."""
    async with connection.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(
            "SELECT proname FROM pg_proc"
            " WHERE pronamespace = current_schema()::regnamespace AND proname = ANY (%s)"
            " GROUP BY proname HAVING count(*) > 1 ORDER BY proname",
            [names],
        )
        if doubled := [str(name) async for name in cursor]:
            raise StartupFailed(f"two functions have the name {', '.join(doubled)}: {_DROP_FIRST}")


async def _install_job_queue(connection: psycopg.AsyncConnection) -> int:
    try:
        return await job_queue.install(connection)
    except psycopg.Error as error:
        raise StartupFailed(f"the job queue's tables cannot be made: {reason_of(error)}") from error
