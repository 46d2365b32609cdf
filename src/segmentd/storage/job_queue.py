"""The job queue's own tables, which procrastinate brings and segmentd migrates, and its connections."""

from importlib import resources
from typing import Final

import psycopg
from procrastinate.schema import SchemaManager

REPORTS_AT_ONCE: Final = 2
# A build holds one connection for as long as it takes, and asks short questions by another.
REPORT_CONNECTIONS: Final = 2 * REPORTS_AT_ONCE
IMPORTS_AT_ONCE: Final = 2
# Work on an import holds one connection, and asks short questions by another.
IMPORT_CONNECTIONS: Final = 2 * IMPORTS_AT_ONCE
# The pool of each queue; one connection more listens for new jobs.
QUEUE_CONNECTIONS: Final = 3
# Connections of the queues, of reports and of imports: those open from the start, and those of full pools.
LEAST_CONNECTIONS: Final = 3 * (1 + 1) + 2
MOST_CONNECTIONS: Final = 3 * (QUEUE_CONNECTIONS + 1) + REPORT_CONNECTIONS + IMPORT_CONNECTIONS

_NOTE: Final = "CREATE TABLE IF NOT EXISTS job_queue_migrations (name text PRIMARY KEY)"


async def install(connection: psycopg.AsyncConnection) -> int:
    """Brings the queue's tables up to date, in one transaction; returns the number of files applied.

    The caller holds the migration lock. Raises psycopg.Error.
    """
    migrations = sorted(
        (
            file
            for file in resources.files("procrastinate.sql.migrations").iterdir()
            if file.name.endswith(".sql")
        ),
        key=lambda file: file.name,
    )
    async with connection.transaction():
        await connection.execute(_NOTE)
        cursor = await connection.execute("SELECT name FROM job_queue_migrations")
        applied = {name async for (name,) in cursor}
        pending = [file for file in migrations if file.name not in applied]
        if not applied:
            # The schema of an empty database is the sum of all migrations.
            await connection.execute(SchemaManager.get_schema().encode())
        else:
            for file in pending:
                await connection.execute(file.read_bytes())
        for file in pending:
            await connection.execute("INSERT INTO job_queue_migrations VALUES (%s)", [file.name])
    return len(pending)
