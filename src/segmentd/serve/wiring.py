"""How the parts are put together, for every process alike."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import timedelta
from pathlib import Path

from segmentd import __version__
from segmentd.config import Settings
from segmentd.jobs import report_queue
from segmentd.observability.traces import Tracing, set_up_tracing
from segmentd.replica.bell import Bell
from segmentd.replica.replica import Replica
from segmentd.reports.files import ReportFiles
from segmentd.service import Node, ReportDesk, Service
from segmentd.storage.database import Database


def service(database: Database, settings: Settings, node: Node | None = None) -> Service:
    """The use cases on a database, and on a node's copy if there is one."""
    desk = ReportDesk(
        files=report_files(settings),
        enqueue=report_queue(),
        lifetime=timedelta(days=settings.report_days),
        signing_key=None if settings.report_key is None else settings.report_key.encode(),
    )
    return Service(database, desk, node)


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


@contextmanager
def traced() -> Iterator[Tracing | None]:
    """Tracing, where the OTEL_ variables ask for it; the last spans are sent when the context ends."""
    tracing = set_up_tracing(__version__)
    try:
        yield tracing
    finally:
        if tracing is not None:
            tracing.close()


def report_files(settings: Settings) -> ReportFiles:
    """Where report files are kept."""
    return ReportFiles.at(settings.report_store, Path(settings.data_dir, "reports"))
