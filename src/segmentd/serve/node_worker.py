"""The process of a node that keeps its replica fresh and runs the background jobs."""

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from segmentd.imports.work import ImportWork, Lag
from segmentd.jobs import Tasks, work
from segmentd.replica.follower import Follower
from segmentd.replica.notifications import listen
from segmentd.replica.replica import MICROSECONDS
from segmentd.replica.status import ReplicaStatus, status_path
from segmentd.serve.child import Assignment, Duty, run_child
from segmentd.serve.wiring import metrics_in, open_tracing, report_files, sampling
from segmentd.storage.database import Database
from segmentd.storage.job_queue import IMPORT_CONNECTIONS, REPORT_CONNECTIONS

# A follower begins a round by itself this often; a change notification makes it begin at once.
ROUND_SECONDS = 1.0


async def work_for_node(assignment: Assignment, duty: Duty) -> None:
    """Follows the database and runs the background jobs until the stop; then lets running jobs end."""
    settings, url = assignment.settings, assignment.database_url
    metrics = metrics_in(assignment.metrics_dir)
    folder = None if assignment.replica_dir is None else Path(assignment.replica_dir)
    with open_tracing() as tracing, _lag(folder) as lag:
        async with (
            Database(url, pool_size=settings.pool_size, tracing=tracing) as database,
            Database(url, pool_size=REPORT_CONNECTIONS, tracing=tracing) as builds,
            Database(url, pool_size=IMPORT_CONNECTIONS, tracing=tracing) as applying,
            sampling(database, metrics),
        ):
            tasks = Tasks(
                database,
                report_files(settings),
                tracing,
                metrics,
                builds,
                settings.report_store_bytes,
                ImportWork(applying, metrics, lag),
            )
            async with asyncio.TaskGroup() as group:
                if folder is not None:
                    follower = Follower(database, folder, metrics)
                    group.create_task(_follow(follower, url, duty))
                group.create_task(work(url, tasks, duty.stop, settings.shutdown_seconds))
                duty.report_ready()


@contextmanager
def _lag(folder: Path | None) -> Iterator[Lag]:
    """How old the replica in this folder is; without a folder there is none."""
    if folder is None:
        yield lambda: None
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with closing(ReplicaStatus.open(status_path(folder))) as status:

        def lag() -> float | None:
            age = status.age()
            return None if age is None else age / MICROSECONDS

        yield lag


async def _follow(follower: Follower, database_url: str, duty: Duty) -> None:
    wake = asyncio.Event()
    with closing(follower):
        async with asyncio.TaskGroup() as group:
            group.create_task(listen(database_url, wake, duty.stop))
            group.create_task(follower.follow(duty.stop, wake, ROUND_SECONDS))


if __name__ == "__main__":
    run_child(work_for_node)
