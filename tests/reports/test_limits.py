"""Reports that callers pile up have a bound, and waiting callers do not slow down others."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Final, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest

from segmentd.config import Settings
from segmentd.domain.access import Actor
from segmentd.domain.reports import Period, ReportId, ReportLimits, ReportOrder
from segmentd.jobs import Tasks
from segmentd.observability.metrics import Metrics
from segmentd.reports.files import ReportFiles
from segmentd.serve.wiring import service
from segmentd.storage import reports
from segmentd.storage.database import Database, Parameters, Row
from segmentd.waiting import MOST_WAITING, Waiting
from tests.support.client import Api, Json
from tests.support.clock import Clock
from tests.support.disks import small_disk
from tests.support.door import open_door
from tests.support.office import ALL_TIMES, Office, problem, until
from tests.support.rows import Rows, rows_of
from tests.support.scraping import Scrape

LIMITS: Final = ReportLimits()
A_REPORT: Final = 16_384  # what each counts at least


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    with rows_of(database_url) as rows:
        yield rows


UNDER_WAY: LiteralString = """
    INSERT INTO reports (id, status, begins_at, ends_at, header, ordered_by, created_at, expires_at)
    SELECT gen_random_uuid(), CASE WHEN number %% 2 = 0 THEN 'pending' ELSE 'running' END, now(),
           now() + interval '1 day', false, %s, now(), now() + interval '7 days'
    FROM generate_series(1, %s) AS number
"""


# Reports that are under way


async def test_a_caller_has_a_bound_of_reports_that_are_not_done(office: Office, rows: Rows) -> None:
    rows.run(UNDER_WAY, "anonymous", LIMITS.of_caller - 1)
    last = await office.order()
    refused = await office.api.post("reports", json=ALL_TIMES)

    assert problem(refused) == (429, "too-many-reports")
    assert int(refused.headers["Retry-After"]) >= 1
    assert "wait for one of them" in refused.json()["detail"]
    assert rows.column("SELECT count(*) FROM procrastinate_jobs") == [1]

    await office.build(last)
    await office.order()


async def test_of_orders_at_once_no_more_are_taken_than_one_after_the_other(
    office: Office, rows: Rows
) -> None:
    rows.run(UNDER_WAY, "anonymous", LIMITS.of_caller - 3)

    answers = await asyncio.gather(*(office.api.post("reports", json=ALL_TIMES) for _ in range(8)))

    assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 5


async def test_a_caller_who_may_order_no_more_keeps_nobody_else_from_it(
    database: Database, rows: Rows, tmp_path: Path
) -> None:
    rows.run(UNDER_WAY, "a batch", LIMITS.of_caller)
    use_cases = service(database, Settings(data_dir=str(tmp_path)))

    assert (await use_cases.reports.order(of_november(), Actor("somebody else"))).report.status == "pending"


def of_november() -> ReportOrder:
    return ReportOrder(Period.of_month("2025-11"), None, None, header=False)


async def test_all_callers_together_have_a_bound_too(office: Office, rows: Rows) -> None:
    for number in range(10):
        rows.run(UNDER_WAY, f"caller {number}", LIMITS.of_caller)

    assert problem(await office.api.post("reports", json=ALL_TIMES)) == (429, "too-many-reports")


async def test_what_is_final_or_expired_is_not_under_way(office: Office, rows: Rows, clock: Clock) -> None:
    rows.run(UNDER_WAY, "anonymous", LIMITS.of_caller)
    rows.run("UPDATE reports SET status = 'failed' WHERE status = 'running'")
    await office.order()
    rows.run("UPDATE reports SET status = 'pending'")
    clock.advance(days=8)
    await office.order()


async def test_callers_take_turns(database: Database, rows: Rows, tmp_path: Path) -> None:
    use_cases = service(database, Settings(data_dir=str(tmp_path)))
    for caller in ("batch", "batch", "batch", "one", "one"):
        await use_cases.reports.order(of_november(), Actor(caller))

    assert rows.column(
        "SELECT r.ordered_by FROM procrastinate_jobs j JOIN reports r ON r.id::text = j.args ->> 'report_id'"
        " ORDER BY j.priority DESC, j.id"
    ) == ["batch", "one", "batch", "one", "batch"]


async def test_a_refused_order_is_counted_by_its_reason(
    database: Database, rows: Rows, tmp_path: Path
) -> None:
    metrics = Metrics()
    rows.run(UNDER_WAY, "anonymous", LIMITS.of_caller)
    use_cases = service(database, Settings(data_dir=str(tmp_path)), metrics=metrics)
    async with Api(await open_door(use_cases, database, metrics)) as api:
        await api.post("reports", json=ALL_TIMES)

    refused = Scrape(metrics.page([], "").content.decode()).of_each("segmentd_http_refused_total", "reason")
    assert (refused["too-many-reports"], refused["rate-limit"]) == (1, 0)


# Waiting


class Watched(Database):
    """The service's access to a database, which records the questions for reports."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked: list[set[ReportId]] = []
        self.asking = 0
        self.asking_at_once = 0

    async def all(self, row: type[Row], query: LiteralString, parameters: Parameters = None) -> list[Row]:
        if "= ANY (" not in query or not isinstance(parameters, list):
            return await super().all(row, query, parameters)
        self.asked.append({*parameters[0]})
        self.asking += 1
        self.asking_at_once = max(self.asking_at_once, self.asking)
        try:
            return await super().all(row, query, parameters)
        finally:
            self.asking -= 1


async def test_one_statement_asks_for_all_who_wait(office: Office, database_url: str) -> None:
    ordered = [await office.order() for _ in range(5)]
    ids = [ReportId(UUID(report["id"])) for report in ordered]
    async with Watched(database_url) as database:
        waiting = Waiting("reports", partial(reports.final, database), Metrics().report_waiters)
        waits = [asyncio.create_task(waiting.wait(ids[number % 5], 60)) for number in range(MOST_WAITING)]
        await asyncio.sleep(0)
        assert await waiting.wait(ids[0], 60) is None  # too many already
        await until(lambda: asked(database, {*ids}))
        for report in ordered:
            await office.build(report)
        found = await asyncio.gather(*waits)

    assert [report and (report.id, report.status) for report in found] == [
        (ids[number % 5], "done") for number in range(MOST_WAITING)
    ]
    assert database.asking_at_once == 1


async def asked(database: Watched, ids: set[ReportId]) -> bool:
    return ids in database.asked


async def test_a_waiting_caller_is_answered_at_once_when_the_service_is_about_to_stop(
    office: Office, database: Database
) -> None:
    metrics = Metrics()
    report = await office.order()
    waiting = Waiting("reports", partial(reports.final, database), metrics.report_waiters)

    def waiters() -> float:
        return Scrape(metrics.page([], "").content.decode())("segmentd_report_waiters")

    wait = asyncio.create_task(waiting.wait(ReportId(UUID(report["id"])), 600))
    await asyncio.sleep(0)
    assert waiters() == 1
    waiting.end()

    assert await wait is None
    assert waiters() == 0
    assert await waiting.wait(ReportId(UUID(report["id"])), 600) is None


@pytest.mark.parametrize(
    ("fault", "cure"),
    [
        ("BEGIN; LOCK TABLE reports", "COMMIT"),
        ("ALTER TABLE reports RENAME TO gone", "ALTER TABLE gone RENAME TO reports"),
    ],
)
async def test_an_order_stands_and_says_so_when_waiting_for_it_fails(
    office: Office, database_url: str, fault: LiteralString, cure: LiteralString, rows: Rows
) -> None:
    async def is_ordered() -> bool:
        return rows.column("SELECT count(*) FROM procrastinate_jobs") == [1]

    waiting = asyncio.create_task(office.api.post("reports", json=ALL_TIMES, headers={"Prefer": "wait=2"}))
    await until(is_ordered)
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute(fault)
        answer = await waiting
        other.execute(cure)

    assert answer.status_code == 202, answer.text
    assert await office.see(answer.json()) == answer.json()


async def test_hundreds_who_order_and_wait_keep_nobody_from_reading(office: Office, rows: Rows) -> None:
    await office.api.create("A")
    rows.run(UNDER_WAY, "anonymous", LIMITS.of_caller - 80)
    headers = {"Prefer": "wait=60"}
    orders = [
        asyncio.create_task(office.api.post("reports", json=ALL_TIMES, headers=headers)) for _ in range(150)
    ]

    async def the_others_are_answered() -> bool:
        return sum(order.done() for order in orders) >= len(orders) - MOST_WAITING

    await until(the_others_are_answered)
    assert (await office.api.get("segments/A")).status_code == 200  # while they wait
    rows.run("UPDATE reports SET status = 'failed'")
    statuses = Counter([answer.status_code for answer in await asyncio.gather(*orders)])
    assert statuses.keys() <= {200, 202, 429}
    assert [statuses[200] + statuses[202]] == rows.column("SELECT count(*) FROM procrastinate_jobs")
    assert statuses[202] == max(statuses[200] + statuses[202] - MOST_WAITING, 0)


# Room for files


MOST_BYTES: Final = 3 * A_REPORT


@pytest.fixture
async def small(database: Database, tmp_path: Path) -> AsyncIterator[Office]:
    """An office with room for three small reports."""
    settings = Settings(data_dir=str(tmp_path), report_store_bytes=MOST_BYTES)
    async with Api(await open_door(service(database, settings), database)) as api:
        office = Office(api, database, tmp_path)
        office.tasks = Tasks(database, office.files, store_bytes=MOST_BYTES)
        yield office


def files(folder: Path) -> list[str]:
    return [path.parent.name for path in folder.rglob("*.csv*")]


REGISTER: LiteralString = """
    WITH registered AS (
        INSERT INTO users (id, registered_at, last_at)
        SELECT id, now(), now() FROM generate_series(1, %s) AS id
        RETURNING id, registered_at
    )
    INSERT INTO registrations (user_id, registered_at) SELECT id, registered_at FROM registered
"""


async def cover(office: Office, rows: Rows, users: int) -> None:
    """Makes a row of 38 bytes in a report for each of so many users."""
    rows.run(REGISTER, users)
    await office.api.create("A", percent=100)


async def fill(office: Office, users: int) -> None:
    await office.api.create("A")
    for user_id in range(1, users + 1):
        await office.api.add(user_id, "A")


async def test_an_order_is_refused_while_there_is_no_room(small: Office, clock: Clock) -> None:
    await fill(small, 1)
    kept = [await small.make() for _ in range(3)]
    refused = await small.api.post("reports", json=ALL_TIMES)

    assert problem(refused) == (429, "report-store-full")
    assert int(refused.headers["Retry-After"]) >= 1
    assert "report_store_bytes" in refused.json()["detail"]
    assert [(await small.file(report)).status_code for report in kept] == [200] * 3

    clock.advance(days=8)
    await small.tasks.purge_reports()
    await small.make()


async def test_a_report_that_there_is_no_room_for_fails_with_its_reason_and_leaves_no_file(
    small: Office, rows: Rows, tmp_path: Path
) -> None:
    await cover(small, rows, users=2000)
    first = await small.make(**ALL_TIMES, user_id=1)
    report = await small.order()

    await small.build(report)  # it is not tried again: the job has no error

    seen = await small.see(report)
    assert seen["status"] == "failed"
    assert f"all of the {MOST_BYTES} bytes" in seen["reason"]
    assert files(tmp_path) == [first["id"]]
    assert (await small.file(report)).json()["detail"] == seen["reason"]
    assert rows.column("SELECT report_bytes()") == [2 * A_REPORT]


async def test_a_report_leaves_the_last_bytes_of_a_disk_to_the_database(
    office: Office, tmp_path: Path
) -> None:
    await fill(office, 1)
    with small_disk(tmp_path / "disk", "64m") as disk:
        office.tasks = Tasks(office.database, ReportFiles.at(None, disk / "reports"), store_bytes=0)
        filler = disk / "filler"
        filler.write_bytes(bytes(50 * 2**20))
        refused = await office.see(await built(office))
        filler.unlink()
        made = await office.see(await built(office))

    assert (refused["status"], made["status"]) == ("failed", "done")
    assert re.search(r"has 1\d{7} bytes left, of which 3355443 are kept", refused["reason"])


async def built(office: Office) -> Json:
    report = await office.order()
    await office.build(report)  # it is not tried again: the job has no error
    return report


async def test_what_has_expired_makes_room_for_a_report_that_needs_it(
    small: Office, clock: Clock, rows: Rows, tmp_path: Path
) -> None:
    old = [await small.make() for _ in range(2)]
    clock.advance(days=6)
    await cover(small, rows, users=1000)
    report = await small.order()
    clock.advance(days=2)

    await small.build(report)

    assert (await small.see(report))["status"] == "done"
    assert files(tmp_path) == [report["id"]]
    assert [(await small.file(each)).status_code for each in old] == [410] * 2


async def test_builds_at_once_share_what_room_there_is(small: Office, database: Database) -> None:
    one, other = [ReportId(UUID((await small.order())["id"])) for _ in range(2)]
    room = MOST_BYTES - A_REPORT

    assert await reports.claim(database, one, 10, MOST_BYTES) == room
    assert await reports.claim(database, other, A_REPORT, MOST_BYTES) == A_REPORT
    assert await reports.claim(database, other, A_REPORT + 1, MOST_BYTES) is None
    await reports.fail(database, one, "stopped")
    assert await reports.claim(database, other, A_REPORT + 1, MOST_BYTES) == room
    assert await reports.claim(database, ReportId(uuid4()), 1, MOST_BYTES) is None


async def test_no_bound_is_no_bound(database: Database, tmp_path: Path) -> None:
    settings = Settings(data_dir=str(tmp_path), report_store_bytes=0)
    async with Api(await open_door(service(database, settings), database)) as api:
        office = Office(api, database, tmp_path)
        office.tasks = Tasks(database, ReportFiles.at(None, tmp_path), store_bytes=0)
        await fill(office, 1)
        assert [(await office.make())["status"] for _ in range(5)] == ["done"] * 5


async def test_an_order_is_forgotten_a_year_after_its_link_has_expired(office: Office, clock: Clock) -> None:
    report = await office.make()
    for days, status in ((8, 410), (360, 410), (10, 404)):
        clock.advance(days=days)
        await office.tasks.purge_reports()
        await office.tasks.maintain()
        assert (await office.file(report)).status_code == status, days


def test_the_bounds_are_those_of_the_settings() -> None:
    assert Settings().report_store_bytes == LIMITS.store_bytes
    assert Settings().reports_per_caller == LIMITS.of_caller
