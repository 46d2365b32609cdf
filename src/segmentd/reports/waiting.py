"""Waits for reports to be final: one statement at a time asks for all of them, however many requests wait."""

import asyncio
from typing import Final

import psycopg
import structlog

from segmentd.domain.errors import Unavailable
from segmentd.domain.reports import Report, ReportId
from segmentd.observability.metrics import Metrics
from segmentd.observability.throttled import ThrottledLog
from segmentd.storage import reports
from segmentd.storage.database import Database

# Each waiting request counts as one in progress, so they may only be a part of max_requests.
MOST_WAITING: Final = 64
LOOK_EVERY_S: Final = 0.1

_log = structlog.get_logger(__name__)


class Waiting:
    """The requests of one process that wait for reports."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics
        self._throttled = ThrottledLog(_log)
        self._awaited: dict[asyncio.Future[Report | None], ReportId] = {}
        self._looking: asyncio.Task[None] | None = None
        self._ended = False

    async def wait(self, report_id: ReportId, seconds: float) -> Report | None:
        """The report once it is final; None if that takes longer, or if too many requests wait already."""
        if self._ended or len(self._awaited) >= MOST_WAITING:
            return None
        found: asyncio.Future[Report | None] = asyncio.get_running_loop().create_future()
        self._awaited[found] = report_id
        self._metrics.report_waiters.set(len(self._awaited))
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="look for final reports")
        try:
            async with asyncio.timeout(seconds):
                return await found
        except TimeoutError:
            return None
        finally:
            del self._awaited[found]
            self._metrics.report_waiters.set(len(self._awaited))

    def end(self) -> None:
        """Answers all waiting requests now, and lets none wait from now on."""
        self._ended = True
        for found in self._awaited:
            _tell(found, None)

    async def _look(self) -> None:
        while self._awaited:
            final = {report.id: report for report in await self._final()}
            for found, report_id in self._awaited.items():
                if report_id in final:
                    _tell(found, final[report_id])
            await asyncio.sleep(LOOK_EVERY_S)

    async def _final(self) -> list[Report]:
        try:
            return [*await reports.final(self._database, [*{*self._awaited.values()}])]
        except (Unavailable, psycopg.Error) as error:  # the waiting requests go on to the next look
            self._throttled.warning("cannot look for final reports", error=type(error).__name__)
            return []


def _tell(found: asyncio.Future[Report | None], report: Report | None) -> None:
    if not found.done():
        found.set_result(report)
