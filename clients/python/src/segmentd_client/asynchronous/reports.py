"""Reports: `client.reports`."""

from collections.abc import AsyncIterator
from datetime import datetime
from urllib.parse import parse_qs, urlsplit

from anyio import sleep

from segmentd_client.asynchronous.transport import AsyncTransport
from segmentd_client.calls import jobs as calls
from segmentd_client.errors import JobFailed
from segmentd_client.jobs import Report


class AsyncReports:
    """Additions and removals in a period, as a CSV file."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def order(
        self,
        month: str | None = None,
        *,
        begin: datetime | None = None,
        end: datetime | None = None,
        user_id: int | None = None,
        segment: str | None = None,
        header: bool = False,
        wait_s: int = 0,
    ) -> Report:
        """Orders the report of a month (`2026-11`), or from `begin` to before `end`.

        With `wait_s` (60 at most) the answer waits for the report. Its `url` is the link to the file.
        Raises UserNotFound, SegmentNotFound, TooManyReports, ReportStoreFull, Validation.
        """
        return await self._transport.send(
            calls.order_report(month, begin, end, user_id, segment, header=header, wait_s=wait_s)
        )

    async def get(self, report_id: str) -> Report:
        """One report. Raises ReportNotFound."""
        return await self._transport.send(calls.get_report(report_id))

    async def wait(self, report_id: str, *, every_s: float = 1) -> Report:
        """Waits until it is done, asking every so many seconds. Raises JobFailed, ReportNotFound."""
        found = await self.get(report_id)
        while not found.is_final:
            await sleep(every_s)
            found = await self.get(report_id)
        if found.status == "failed":
            raise JobFailed(f"the report {report_id} failed: {found.reason}")
        return found

    async def download(self, report: Report) -> AsyncIterator[bytes]:
        """The bytes of its file, in pieces.

        Raises ReportNotReady, ReportExpired; AnswerLost if they break off.
        """
        signature = parse_qs(urlsplit(report.url).query).get("signature", [""])[0]
        async with self._transport.stream(calls.report_file(report.id, signature)) as pieces:
            async for piece in pieces:
                yield piece
