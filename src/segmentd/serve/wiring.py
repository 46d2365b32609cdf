"""How the parts are put together, for every process alike."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from typing import Final

from segmentd.config import Settings
from segmentd.jobs import report_queue
from segmentd.observability.metrics import Metrics
from segmentd.replica.bell import Bell
from segmentd.replica.replica import Replica
from segmentd.reports.files import ReportFiles
from segmentd.service import Node, ReportDesk, Service
from segmentd.storage.database import Database

# How often a process tells what its pool of connections does.
LOOK_AT_POOL_EVERY_S: Final = 1.0


def service(
    database: Database, settings: Settings, node: Node | None = None, metrics: Metrics | None = None
) -> Service:
    """The use cases on a database, and on a node's copy if there is one."""
    desk = ReportDesk(
        files=report_files(settings),
        enqueue=report_queue(),
        lifetime=timedelta(days=settings.report_days),
        signing_key=None if settings.report_key is None else settings.report_key.encode(),
    )
    return Service(database, desk, node, metrics)


@asynccontextmanager
async def near(database: Database, settings: Settings, folder: Path) -> AsyncIterator[Node]:
    """The copy in this folder, and a bell that is carried as long as the context lives."""
    bell = Bell(database)
    ringing = asyncio.create_task(bell.carry(), name="ring")
    try:
        with closing(Replica(folder, settings.max_age_seconds)) as replica:
            yield Node(replica, bell, settings.serve_stale)
    finally:
        ringing.cancel()
        await asyncio.wait([ringing])


@asynccontextmanager
async def watched(database: Database, metrics: Metrics | None) -> AsyncIterator[None]:
    """Measures the pool of connections as long as the context lives, where something is measured."""
    if metrics is None:
        yield
        return
    watching = asyncio.create_task(_watch(database, metrics), name="watch the pool")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def _watch(database: Database, metrics: Metrics) -> None:
    while True:
        metrics.pool(**database.load()._asdict())
        await asyncio.sleep(LOOK_AT_POOL_EVERY_S)


def measured(folder: str | None) -> Metrics | None:
    """What a process measures for its node; None where it shall not."""
    return None if folder is None else Metrics(Path(folder))


def report_files(settings: Settings) -> ReportFiles:
    """Where report files are kept."""
    return ReportFiles.at(settings.report_store, Path(settings.data_dir, "reports"))
