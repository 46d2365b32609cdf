"""The schedule of the background tasks, as it is shipped."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Final, LiteralString

import pytest
import yaml
from procrastinate import App, PsycopgConnector
from procrastinate.periodic import MARGIN, PeriodicDeferrer

from segmentd.jobs import Tasks, upkeep_app
from segmentd.reports.files import ReportFiles
from segmentd.storage.database import Database
from tests.support.rows import Rows, rows_of

# In the midst of a period of each task.
BEGIN: Final = datetime(2026, 11, 27, 13, 7, 3, tzinfo=UTC).timestamp()
HOUR_S: Final = 3600
ALERTS: Final = Path(__file__).parent.parent / "deploy/prometheus-alerts.yaml"

Ticks = Mapping[str, Sequence[float]]


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    with rows_of(database_url) as rows:
        yield rows


@pytest.fixture
async def app(database: Database, database_url: str, tmp_path: Path) -> AsyncIterator[App]:
    """The app of the upkeep as a worker has it; no worker runs it."""
    tasks = Tasks(database, ReportFiles.at(None, tmp_path))
    app = upkeep_app(PsycopgConnector(conninfo=database_url), tasks)
    async with app.open_async():
        yield app


def ticks(app: App, seconds: float) -> Ticks:
    """When each task is put into the queue, as the deferrer of a worker that begins at BEGIN sees it."""
    deferrer, at = PeriodicDeferrer(app.periodic_registry), BEGIN
    found: dict[str, list[float]] = defaultdict(list)
    while at < BEGIN + seconds:
        for periodic, timestamp in deferrer.get_previous_tasks(at):
            # It is late only by what the deferrer oversleeps. The first tick makes up for a missed one.
            assert timestamp >= BEGIN - 600
            assert timestamp < BEGIN or at - timestamp <= 2 * MARGIN
            found[periodic.task.name].append(timestamp)
        at += deferrer.get_next_tick(at) + MARGIN
    return found


def every(seconds: int, until: float) -> list[float]:
    first = BEGIN - BEGIN % seconds
    return [first + number * seconds for number in range(int((BEGIN + until - first) // seconds) + 1)]


async def test_each_task_is_due_as_often_as_it_shall_be(app: App) -> None:
    found = ticks(app, 3 * HOUR_S)

    assert found["settle"] == every(10, 3 * HOUR_S)
    assert found["retry_stalled"] == every(10, 3 * HOUR_S)
    assert found["purge_reports"] == every(600, 3 * HOUR_S)
    assert found["maintain"] == [BEGIN - BEGIN % HOUR_S, *every(HOUR_S, 3 * HOUR_S)[1:]]
    assert found["tend_imports"] == every(60, 3 * HOUR_S)
    assert found["retain"] == found["maintain"]
    assert len(found) == 6


async def test_what_was_missed_while_no_worker_ran_is_made_up_for_at_the_start_once(
    app: App, rows: Rows
) -> None:
    for _ in range(2):  # the second time as another worker that starts
        deferrer = PeriodicDeferrer(app.periodic_registry, **app.periodic_defaults)
        await deferrer.defer_jobs(deferrer.get_previous_tasks(BEGIN))

    assert queued(rows) == EACH_ONCE


async def test_ticks_do_not_pile_up_while_nobody_works(app: App, rows: Rows) -> None:
    deferrer = PeriodicDeferrer(app.periodic_registry, **app.periodic_defaults)
    for minute in range(0, 2 * HOUR_S, 60):  # a worker that was held up sees several ticks at a time
        await deferrer.defer_jobs(deferrer.get_previous_tasks(BEGIN + minute))

    assert queued(rows) == EACH_ONCE
    assert rows.column("SELECT count(*) FROM procrastinate_periodic_defers") == [6]


EACH_ONCE: Final = dict.fromkeys(
    ("settle", "retry_stalled", "purge_reports", "tend_imports", "maintain", "retain"), 1
)
QUEUED: LiteralString = "SELECT task_name, count(*) FROM procrastinate_jobs GROUP BY 1"


def queued(rows: Rows) -> Mapping[str, int]:
    return dict(rows(QUEUED))


async def test_no_alert_is_so_impatient_that_the_schedule_sets_it_off(app: App) -> None:
    rules = {
        rule["alert"]: rule
        for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
        for rule in group["rules"]
    }
    settled = ticks(app, HOUR_S)["settle"]
    longest = max(later - earlier for earlier, later in pairwise(settled))

    for alert in ("SegmentdTermsOverdue", "SegmentdJobsStuck"):
        assert float(rules[alert]["expr"].rpartition(">")[2]) >= 5 * longest
