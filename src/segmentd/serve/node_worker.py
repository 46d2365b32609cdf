"""The process of a node that keeps its replica fresh and runs the background jobs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from segmentd.config import Settings
from segmentd.imports.work import ImportWork, at_once
from segmentd.jobs import Tasks, work
from segmentd.replica.filling import Fill, from_neighbour
from segmentd.replica.follower import Follower
from segmentd.replica.notifications import listen
from segmentd.replica.turns import Turns
from segmentd.serve.child import Assignment, Duty, run_child
from segmentd.serve.cores import usable_cores
from segmentd.serve.wiring import metrics_in, open_tracing, report_files, sampling
from segmentd.storage.database import Database
from segmentd.storage.job_queue import IMPORT_CONNECTIONS, REPORT_CONNECTIONS

# A follower begins a round by itself this often; a change notification makes it begin at once.
ROUND_SECONDS = 1.0


async def work_for_node(assignment: Assignment, duty: Duty) -> None:
    """Follows the database and runs the background jobs until the stop; then lets running jobs end."""
    settings, url = assignment.settings, assignment.database_url
    metrics = metrics_in(assignment.metrics_dir)
    folder = assignment.replica_dir
    with open_tracing() as tracing:
        async with (
            neighbour_to_copy(settings) as copy,
            Database(url, pool_size=settings.pool_size, tracing=tracing) as database,
            Database(url, pool_size=REPORT_CONNECTIONS, tracing=tracing) as builds,
            Database(url, pool_size=IMPORT_CONNECTIONS, tracing=tracing) as applying,
            sampling(database, metrics),
        ):
            turns = Turns(None if metrics is None else metrics.hot_calls, usable_cores())
            follower = (
                None if folder is None else Follower(database, Path(folder), metrics, turns.round, copy)
            )
            tasks = Tasks(
                database,
                report_files(settings),
                tracing,
                metrics,
                builds,
                settings.report_store_bytes,
                ImportWork(
                    applying,
                    metrics,
                    at_once if follower is None else follower.keep_pace,
                    turns.batch,
                ),
                settings.history_months,
            )
            async with asyncio.TaskGroup() as group:
                if follower is not None:
                    group.create_task(_follow(follower, url, duty))
                group.create_task(work(url, tasks, duty.stop, settings.shutdown_seconds))
                duty.report_ready()


@asynccontextmanager
async def neighbour_to_copy(settings: Settings) -> AsyncIterator[Fill | None]:
    """What fills the first replica from a neighbour, if there is one."""
    if settings.copy_from is None:
        yield None
        return
    # Its library takes a while to load, and few nodes need it.
    from segmentd.serve.http_neighbour import HttpNeighbour, token_of  # noqa: PLC0415

    async with HttpNeighbour(settings.copy_from, token_of(settings)) as neighbour:
        yield from_neighbour(neighbour)


async def _follow(follower: Follower, database_url: str, duty: Duty) -> None:
    wake = asyncio.Event()
    with closing(follower):
        async with asyncio.TaskGroup() as group:
            group.create_task(listen(database_url, wake, duty.stop))
            group.create_task(follower.follow(duty.stop, wake, ROUND_SECONDS))


def main() -> None:
    """The process."""
    run_child(work_for_node)


if __name__ == "__main__":
    main()
