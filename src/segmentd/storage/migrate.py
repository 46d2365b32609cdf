"""The schema: numbered SQL files, each applied once, in order, in a transaction of its own."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Final, NamedTuple

import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import scalar_row

from segmentd.domain.errors import StartupFailed
from segmentd.storage import job_queue

OLDEST_POSTGRESQL: Final = 15

# Two services that start at once on an empty database wait for each other here.
_MIGRATION_LOCK: Final = 7236837900
_LOCK_TIMEOUT: Final = "60s"

_log = structlog.get_logger(__name__)


class Migration(NamedTuple):
    """One file of the folder `migrations`: `0001_tables.sql` is number 1."""

    number: int
    name: str
    sql: str


def migrations() -> Iterator[Migration]:
    """All migrations that this version of segmentd brings, in order."""
    for file in sorted(
        resources.files("segmentd.storage").joinpath("migrations").iterdir(), key=lambda f: f.name
    ):
        if match := re.fullmatch(r"(\d{4})_(\w+)\.sql", file.name):
            yield Migration(int(match[1]), file.name, file.read_text(encoding="utf-8"))


async def migrate(database_url: str) -> int:
    """Brings the schema up to date and returns the number of migrations applied.

    Raises StartupFailed when the database cannot be used: unreachable, too old, or of a newer segmentd.
    """
    async with connect(database_url) as connection:
        await connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'".encode())
        try:
            await connection.execute("SELECT pg_advisory_lock(%s)", [_MIGRATION_LOCK])
        except psycopg.errors.LockNotAvailable:
            raise StartupFailed(
                f"another segmentd has been migrating this database for {_LOCK_TIMEOUT}"
            ) from None
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations"
            " (number integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        applied = await applied_migrations(connection)
        pending = [migration for migration in migrations() if migration.number not in applied]
        for migration in pending:
            await _apply(connection, migration)
            _log.info("migrated", migration=migration.name)
        return len(pending) + await _install_job_queue(connection)


async def pending_migrations(database_url: str) -> list[str]:
    """The names of the migrations that the database still lacks; changes nothing. Raises StartupFailed."""
    async with connect(database_url) as connection:
        cursor = await connection.execute("SELECT to_regclass('schema_migrations') IS NOT NULL")
        exists = await cursor.fetchone()
        applied = await applied_migrations(connection) if exists == (True,) else set()
        return [migration.name for migration in migrations() if migration.number not in applied]


@asynccontextmanager
async def connect(database_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """A connection in autocommit to a PostgreSQL that is new enough.

    Raises StartupFailed, also for what goes wrong in the context; its one line never shows the password.
    """
    try:
        conninfo_to_dict(database_url)
    except psycopg.ProgrammingError:  # its message would quote the URL, or a piece of it
        raise StartupFailed(
            "the database URL is malformed; it looks like postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        ) from None
    try:
        async with await psycopg.AsyncConnection.connect(
            database_url, autocommit=True, connect_timeout=10
        ) as connection:
            version = connection.info.server_version // 10_000
            if version < OLDEST_POSTGRESQL:
                raise StartupFailed(
                    f"PostgreSQL {OLDEST_POSTGRESQL} or newer is needed; the database runs {version}"
                )
            yield connection
    except psycopg.Error as error:
        raise StartupFailed(f"cannot use the database: {_reason(error)}") from error


async def applied_migrations(connection: psycopg.AsyncConnection) -> set[int]:
    """The numbers that are in the database. Raises StartupFailed when a newer segmentd was here."""
    async with connection.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute("SELECT number FROM schema_migrations")
        applied: set[int] = {int(number) async for number in cursor}
    if unknown := applied - {migration.number for migration in migrations()}:
        raise StartupFailed(
            f"the database was migrated by a newer segmentd (migration {max(unknown)}); update this one"
        )
    return applied


async def _apply(connection: psycopg.AsyncConnection, migration: Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute(migration.sql.encode())
            await connection.execute(
                "INSERT INTO schema_migrations (number, name) VALUES (%s, %s)",
                [migration.number, migration.name],
            )
    except psycopg.Error as error:
        raise StartupFailed(f"migration {migration.name} failed: {_reason(error)}") from error


async def _install_job_queue(connection: psycopg.AsyncConnection) -> int:
    try:
        return await job_queue.install(connection)
    except psycopg.Error as error:
        raise StartupFailed(f"the job queue's tables cannot be made: {_reason(error)}") from error


def _reason(error: psycopg.Error) -> str:
    return error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
