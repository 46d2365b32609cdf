"""What background jobs count: settled users, built reports and failed ones."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
from obstore.store import MemoryStore

from segmentd.domain.reports import ReportId
from segmentd.jobs import Tasks
from segmentd.observability.metrics import Metrics
from segmentd.reports.files import ReportFiles
from segmentd.storage.database import Database
from tests.support.client import Api
from tests.support.clock import Clock
from tests.support.office import ALL_TIMES
from tests.support.scraping import Scrape


class FullDisk(ReportFiles):
    """A place with no room."""

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        del name, chunks
        raise OSError(28, "No space left on device")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def scraped(metrics: Metrics) -> Scrape:
    return Scrape(metrics.page([], "").content.decode())


async def test_settled_users_are_counted_by_why(
    api: Api, database: Database, clock: Clock, metrics: Metrics, tmp_path: Path
) -> None:
    await api.create("A")
    await api.create("B")
    for user_id in (1, 2, 3):
        await api.add(user_id, {"slug": "A", "ttl_seconds": 60})
    await api.add(4, "B")
    await api.delete("segments/B")
    clock.advance(days=1)
    tasks = Tasks(database, ReportFiles.at(None, tmp_path), metrics=metrics)

    for _ in range(2):  # the second time there is nothing left
        await tasks.settle()

        settled = scraped(metrics).of_each("segmentd_users_settled_total", "why")
        assert settled == {"term": 3, "deletion": 1}


async def test_a_report_that_is_made_is_counted_once_with_its_rows_and_its_time(
    api: Api, database: Database, metrics: Metrics, tmp_path: Path
) -> None:
    await api.create("A")
    for user_id in (1, 2, 3):
        await api.add(user_id, "A")
    report = await ordered(api)
    tasks = Tasks(database, ReportFiles.at(None, tmp_path), metrics=metrics)

    for _ in range(2):  # its job may run again
        await tasks.build_report(report, last_attempt=False)

    scrape = scraped(metrics)
    assert scrape("segmentd_report_rows_total") == 3
    assert scrape("segmentd_report_seconds_count") == 1
    assert scrape("segmentd_report_seconds_sum") > 0
    assert scrape("segmentd_reports_failed_total") == 0


async def test_a_report_has_failed_after_the_last_attempt_and_not_before(
    api: Api, database: Database, metrics: Metrics
) -> None:
    report = await ordered(api)
    tasks = Tasks(database, FullDisk(MemoryStore()), metrics=metrics)

    with pytest.raises(OSError, match="No space"):
        await tasks.build_report(report, last_attempt=False)
    assert scraped(metrics)("segmentd_reports_failed_total") == 0
    with pytest.raises(OSError, match="No space"):
        await tasks.build_report(report, last_attempt=True)

    assert scraped(metrics)("segmentd_reports_failed_total") == 1
    assert scraped(metrics)("segmentd_report_seconds_count") == 0


async def ordered(api: Api) -> ReportId:
    answer = await api.post("reports", json=ALL_TIMES)
    assert answer.status_code == 202
    return ReportId(UUID(answer.json()["id"]))
