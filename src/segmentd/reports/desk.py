"""The use cases of reports: to order one, to look at one, to give its file to who has the link."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Final, NamedTuple

from segmentd.domain.access import Actor
from segmentd.domain.errors import ReportExpired, ReportNotFound, ReportNotReady
from segmentd.domain.pages import Limit, Listing, Page
from segmentd.domain.reports import (
    REPORT_KEYS,
    ListedReport,
    Report,
    ReportId,
    ReportKey,
    ReportLimits,
    ReportOrder,
    Status,
)
from segmentd.observability.metrics import Metrics
from segmentd.reports.files import ReportFiles
from segmentd.reports.links import SignedReport, is_signed, sign
from segmentd.storage import history, reports
from segmentd.storage.database import Database
from segmentd.storage.signing_keys import SigningKeys
from segmentd.waiting import Waiting

# Orders that a process handles at once: with hundreds of them, connections remain for other requests.
ORDERS_AT_ONCE: Final = 2


class ReportTerms(NamedTuple):
    """How long reports are kept, how many there may be, and how long an order may wait for its report."""

    lifetime: timedelta
    limits: ReportLimits
    longest_wait_s: float


class ReportDesk:
    """Takes orders of reports and shows them. Background jobs build them (reports/build.py)."""

    def __init__(
        self,
        database: Database,
        files: ReportFiles,
        enqueue: reports.Enqueue,
        keys: SigningKeys,
        terms: ReportTerms,
        metrics: Metrics,
    ) -> None:
        self.keys = keys
        """The keys of links."""
        self._database = database
        self._files = files
        self._enqueue = enqueue
        self._terms = terms
        self._orders = asyncio.Semaphore(ORDERS_AT_ONCE)
        self._waiting: Waiting[ReportId, Report] = Waiting(
            "reports", partial(reports.final, database), metrics.report_waiters
        )

    @property
    def store_bytes(self) -> int:
        """The limit for the files of all reports; 0 is no limit."""
        return self._terms.limits.store_bytes

    def end_waiting(self) -> None:
        """Before a stop: from now on no request waits for a report."""
        self._waiting.end()

    async def order(self, order: ReportOrder, actor: Actor, wait_s: float = 0) -> SignedReport:
        """Orders a report, which a background job builds, and waits up to so many seconds until it is final.

        If the wait fails, the answer is the order as it is then. Raises Invalid, UserNotFound,
        SegmentNotFound, TooManyReports, ReportStoreFull, Unavailable.
        """
        clock, terms = asyncio.get_running_loop().time, self._terms
        give_up = clock() + terms.longest_wait_s
        async with self._orders:
            keys = await self.keys.look()  # before the order: after it nothing may fail
            report = await reports.order(
                self._database, order, actor, terms.limits, terms.lifetime, self._enqueue
            )
        if (seconds := min(wait_s, give_up - clock())) > 0:
            report = await self._waiting.wait(report.id, seconds) or report
        return SignedReport(report, sign(report.id, keys[0]))

    async def get(self, report_id: ReportId) -> SignedReport:
        """One report. Raises ReportNotFound, Unavailable."""
        keys = await self.keys.look()
        return SignedReport(await reports.get(self._database, report_id), sign(report_id, keys[0]))

    async def list(self, limit: Limit, cursor: str | None) -> Page[ListedReport]:
        """A page of the reports of all callers, the newest orders first. Raises Invalid, Unavailable."""
        listed = partial(reports.list_before, self._database)
        return await Listing("reports", REPORT_KEYS).page(listed, ReportKey.of, limit, cursor)

    async def signatures(self, some: Sequence[Report]) -> Mapping[ReportId, str]:
        """The signatures of the links of some reports. Raises Unavailable."""
        keys = await self.keys.look()
        return {report.id: sign(report.id, keys[0]) for report in some}

    async def get_file(self, report_id: ReportId, signature: str) -> Report:
        """A report with a file, by its link.

        Raises ReportNotFound (also for a wrong signature), ReportNotReady, ReportExpired, Unavailable.
        """
        if not is_signed(report_id, signature, await self.keys.look()):
            raise ReportNotFound
        report = await reports.get(self._database, report_id)
        if report.expires_at <= await history.instant(self._database):
            raise ReportExpired
        if report.status is not Status.DONE:
            raise ReportNotReady(report.reason)
        return report

    def read(self, report: Report, begin: int, end: int) -> AsyncIterator[bytes]:
        """The bytes of a report's file from `begin` to before `end`."""
        return self._files.read(report.file_name, begin, end)
