"""The job queue's own tables, which procrastinate brings and segmentd migrates, and its connections."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from importlib import resources
from typing import Any, Final, LiteralString

import psycopg
import structlog
from procrastinate import PsycopgConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.schema import SchemaManager
from procrastinate.sql import queries
from psycopg_pool import PoolClosed

from segmentd.storage.sessions import Reachability, Session

REPORTS_AT_ONCE: Final = 2
# A build holds one connection for as long as it takes, and asks short questions by another.
REPORT_CONNECTIONS: Final = 2 * REPORTS_AT_ONCE
IMPORTS_AT_ONCE: Final = 2
# An import is checked over one connection, with short questions by another, and applied over two.
IMPORT_CONNECTIONS: Final = 2 * IMPORTS_AT_ONCE
# The pool of each queue; one connection more listens for new jobs.
QUEUE_CONNECTIONS: Final = 3
# Connections of the queues, of reports and of imports: those open from the start, and those of full pools.
LEAST_CONNECTIONS: Final = 3 * (1 + 1) + 2
MOST_CONNECTIONS: Final = 3 * (QUEUE_CONNECTIONS + 1) + REPORT_CONNECTIONS + IMPORT_CONNECTIONS

# How long a connection is waited for. A worker without a database stops soon after it is asked to.
LONGEST_WAIT_S: Final = 3.0
_PAUSE_S: Final = 1.0
_FETCH: Final = queries["fetch_job"]
_ENDS_OF_JOBS: Final = (queries["finish_job"], queries["retry_job"])
_HEARTBEAT: Final = queries["update_heartbeat"]
_UNKNOWN: Final[LiteralString] = """
    SELECT id FROM procrastinate_jobs
    WHERE status = 'doing' AND worker_id = %(worker_id)s AND id <> ALL (%(known)s)
"""
_GIVE_UP: Final[LiteralString] = """
    UPDATE procrastinate_jobs SET worker_id = NULL
    WHERE status = 'doing' AND worker_id = %(worker_id)s AND id = ANY (%(lost)s)
"""

_log = structlog.get_logger(__name__)

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


class QueueConnector(PsycopgConnector):
    """The access of a worker to the queue, which keeps jobs from counting as running for ever.

    It notes late how a job ended while the database was away. With each heartbeat it looks for jobs that
    count as its worker's and are not: a fail-over lost their end, or an outage the answer to the fetch.
    """

    def __init__(self, database_url: str, stop: asyncio.Event) -> None:
        super().__init__(
            conninfo=database_url,
            min_size=1,
            max_size=QUEUE_CONNECTIONS,
            timeout=LONGEST_WAIT_S,
            reconnect_timeout=LONGEST_WAIT_S,
            connection_class=Session,
            kwargs={"application_name": "segmentd jobs", "reachability": Reachability()},
        )
        self._stop = stop
        self._known: set[int] = set()
        self._unknown: set[int] = set()

    # As wide as the originals.
    async def execute_query_one_async(self, query: LiteralString, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401
        """As the original. Raises ConnectorException."""
        row: dict[str, Any] = await super().execute_query_one_async(query, **arguments)
        if query == _FETCH and row["id"] is not None:
            self._known.add(row["id"])
        return row

    async def execute_query_async(self, query: LiteralString, **arguments: Any) -> None:  # noqa: ANN401
        """As the original; after an outage the end of a job is noted late, unless there is a stop before.

        Raises ConnectorException.
        """
        await self._execute(query, arguments)
        if query in _ENDS_OF_JOBS:
            self._known.discard(arguments["job_id"])
        elif query == _HEARTBEAT:
            await self._give_up_lost(arguments["worker_id"])

    async def _execute(self, query: LiteralString, arguments: Mapping[str, Any]) -> None:
        repeated = False
        while True:
            try:
                await super().execute_query_async(query, **arguments)
            except ConnectorException as error:
                cause = error.__cause__
                if repeated and isinstance(cause, psycopg.errors.RaiseException):
                    return  # it had been noted when the connection broke, or another worker has the job
                is_away = isinstance(cause, psycopg.OperationalError) and not isinstance(cause, PoolClosed)
                if query not in _ENDS_OF_JOBS or not is_away or self._stop.is_set():
                    raise
            else:
                return
            repeated = True
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _PAUSE_S)

    async def _give_up_lost(self, worker_id: int) -> None:
        """Takes from the worker what it did not know at the last look either: that counts as stalled then."""
        rows = await self.execute_query_all_async(_UNKNOWN, worker_id=worker_id, known=[*self._known])
        # One look may be in the middle of a fetch.
        unknown = {row["id"] for row in rows}
        if lost := unknown & self._unknown:
            _log.warning("giving up jobs that this worker does not know", jobs=sorted(lost))
            await self._execute(_GIVE_UP, {"worker_id": worker_id, "lost": [*lost]})
        self._unknown = unknown - lost
