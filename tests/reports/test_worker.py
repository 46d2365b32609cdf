"""The worker and its queue: what happens once in a cluster, and what survives the death of a worker."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from obstore.store import MemoryStore

from segmentd.jobs import ATTEMPTS, Tasks, work
from segmentd.reports.files import ReportFiles
from segmentd.storage.database import Database
from segmentd.storage.job_queue import REPORTS_AT_ONCE
from tests.support.client import Json
from tests.support.clock import Clock
from tests.support.office import ALL_TIMES, Office, until, worker_process
from tests.support.rows import Rows, rows_of

A_DEAD_WORKER: LiteralString = """
    INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 hour') RETURNING id
"""


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    with rows_of(database_url) as rows:
        yield rows


@asynccontextmanager
async def worker(database_url: str, tasks: Tasks) -> AsyncIterator[None]:
    """A worker that lives as long as the context."""
    stop = asyncio.Event()
    working = asyncio.create_task(work(database_url, tasks, stop, 5))
    try:
        yield
    finally:
        stop.set()
        await working


async def final(office: Office, report: Json) -> Json:
    """The report, once it is done or has failed."""

    async def is_final() -> bool:
        return (await office.see(report))["status"] in {"done", "failed"}

    await until(is_final)
    return await office.see(report)


async def test_a_report_is_made_by_the_worker_and_waited_for_by_the_client(
    office: Office, database_url: str
) -> None:
    await office.api.create("A")
    await office.api.add(1000, "A")
    async with worker(database_url, office.tasks):
        answer = await office.api.post("reports", json=ALL_TIMES, headers={"Prefer": "wait=30"})
    assert answer.status_code == 200
    report = answer.json()
    assert (report["status"], report["rows"]) == ("done", 1)
    assert (await office.file(report)).text.startswith("1000;A;add;")


async def test_nothing_is_left_in_the_queue_of_what_is_done(
    office: Office, database_url: str, rows: Rows
) -> None:
    report = await office.order()
    async with worker(database_url, office.tasks):
        await final(office, report)
    assert rows("SELECT * FROM procrastinate_jobs WHERE task_name = 'build_report'") == []


WATCH: LiteralString = """
    CREATE TABLE seen (what text, id text);
    CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_TABLE_NAME = 'reports' THEN
            INSERT INTO seen VALUES (NEW.status, NEW.id);
        ELSE
            INSERT INTO seen VALUES (NEW.task_name, NEW.args ->> 'timestamp');
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER see AFTER INSERT ON procrastinate_jobs FOR EACH ROW
        WHEN (NEW.args ? 'timestamp') EXECUTE FUNCTION see();
    CREATE TRIGGER see AFTER UPDATE OF status ON reports FOR EACH ROW EXECUTE FUNCTION see();
"""


async def test_of_two_workers_one_does_what_is_periodic_and_one_makes_a_report(
    office: Office, database_url: str, rows: Rows
) -> None:
    rows.run(WATCH)

    async def two_ticks_have_passed() -> bool:
        return rows.column("SELECT count(DISTINCT id) >= 2 FROM seen WHERE what = 'settle'") == [True]

    async with worker(database_url, office.tasks), worker(database_url, office.tasks):
        reports = [await office.order() for _ in range(5)]
        for report in reports:
            assert (await final(office, report))["status"] == "done"
        await until(two_ticks_have_passed)
        assert rows.column("SELECT count(*) FROM procrastinate_workers") == [6]  # one for each queue

    assert rows("SELECT what, id, count(*) FROM seen GROUP BY 1, 2 HAVING count(*) > 1") == []
    for status in ("running", "done"):
        made = rows.column("SELECT id FROM seen WHERE what = %s", status)
        assert sorted(made) == sorted(report["id"] for report in reports)


async def test_a_worker_makes_partitions_as_soon_as_it_starts(
    office: Office, database_url: str, clock: Clock, rows: Rows
) -> None:
    clock.advance(days=3660)
    now = clock.now()

    async def are_there() -> bool:
        return rows.column("SELECT to_regclass(%s)", f"membership_events_{now:%Y_%m}") != [None]

    async with worker(database_url, office.tasks):
        await until(are_there)


async def test_a_term_is_settled_by_the_worker(
    office: Office, database_url: str, clock: Clock, rows: Rows
) -> None:
    await office.api.create("A")
    await office.api.add(1, {"slug": "A", "ttl_seconds": 60})
    clock.advance(days=1)

    async def is_settled() -> bool:
        return rows.column("SELECT count(*) FROM memberships WHERE ended_at IS NULL") == [0]

    async with worker(database_url, office.tasks):
        await until(is_settled)


async def test_jobs_of_a_dead_worker_are_taken_over_and_periodic_ones_go_on(
    office: Office, database_url: str, rows: Rows
) -> None:
    # It died in a report and in all that is periodic, and the next tick has queued the latter again.
    report = await office.order()
    [dead] = rows.column(A_DEAD_WORKER)
    rows.run("UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s", dead)
    for status in ("doing", "todo"):
        rows.run(
            "INSERT INTO procrastinate_jobs"
            "  (queue_name, task_name, lock, queueing_lock, args, status, worker_id)"
            " SELECT 'upkeep', name, CASE WHEN name <> 'retry_stalled' THEN name END, name,"
            "  '{\"timestamp\": 1}', %s::procrastinate_job_status,"
            "  CASE WHEN %s = 'doing' THEN %s END"
            " FROM unnest(ARRAY ['settle', 'purge_reports', 'retry_stalled']) AS name",
            status, status, dead,
        )  # fmt: skip

    async def nothing_of_it_is_left() -> bool:
        return rows.column("SELECT count(*) FROM procrastinate_jobs WHERE args ->> 'timestamp' = '1'") == [0]

    async with worker(database_url, office.tasks):
        assert (await final(office, report))["status"] == "done"
        await until(nothing_of_it_is_left)


async def test_the_last_attempt_of_the_queue_is_the_one_that_fails_the_report(
    office: Office, database: Database, database_url: str, rows: Rows
) -> None:
    class FullDisk(ReportFiles):
        async def write(self, name: str, chunks: AsyncIterator[bytes]) -> None:
            del name, chunks
            raise OSError(28, "No space left on device")

    early, last = await office.order(), await office.order()
    rows.run(
        "UPDATE procrastinate_jobs SET attempts = %s WHERE args ->> 'report_id' = %s", ATTEMPTS, last["id"]
    )

    async def is_to_be_tried_again() -> bool:
        return rows.column("SELECT attempts FROM procrastinate_jobs WHERE args ? 'report_id'") == [1]

    async with worker(database_url, Tasks(database, FullDisk(MemoryStore()))):
        seen = await final(office, last)
        await until(is_to_be_tried_again)
    assert (seen["status"], seen["reason"]) == (
        "failed",
        "The file could not be written: No space left on device.",
    )
    seen = await office.see(early)
    assert (seen["status"], seen["reason"]) == ("running", None)
    assert rows.column("SELECT args ->> 'report_id' FROM procrastinate_jobs WHERE args ? 'report_id'") == [
        early["id"]
    ]


async def test_a_worker_that_stops_gives_its_report_back(
    office: Office, database_url: str, rows: Rows
) -> None:
    report = await office.order()
    with psycopg.connect(database_url) as other:
        other.execute("LOCK TABLE registrations")
        stop = asyncio.Event()
        working = asyncio.create_task(work(database_url, office.tasks, stop, 0.1))
        await until(lambda: has_status(office, report, "running"))
        stop.set()
        async with asyncio.timeout(20):
            await working
    assert rows("SELECT status, attempts FROM procrastinate_jobs WHERE args ? 'report_id'") == [("todo", 1)]
    rows.run("UPDATE procrastinate_jobs SET scheduled_at = NULL")
    async with worker(database_url, office.tasks):
        assert (await final(office, report))["status"] == "done"


async def has_status(office: Office, report: Json, status: str) -> bool:
    return bool((await office.see(report))["status"] == status)


async def test_a_worker_outlives_the_loss_of_its_connections(
    office: Office, database_url: str, rows: Rows
) -> None:
    async def is_there() -> bool:
        return rows.column("SELECT count(*) FROM procrastinate_workers") == [3]

    async with worker(database_url, office.tasks):
        await until(is_there)
        rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'segmentd jobs'"
        )
        report = await office.order()
        assert (await final(office, report))["status"] == "done"


EVENTS: LiteralString = """
    INSERT INTO membership_events (user_id, segment_id, at, operation, effective, cause, actor)
    SELECT 1 + number / 10, 1, clock_instant() - number * interval '1 microsecond',
           (CASE WHEN number %% 2 = 0 THEN 'add' ELSE 'remove' END)::event_operation,
           true, 'request', 'anonymous'
    FROM generate_series(1, 200000) AS number
"""


# No report can be said to be done while somebody holds lock 1.
HOLD_BACK: LiteralString = """
    CREATE FUNCTION hold_back() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock(1);
        RETURN NEW;
    END
    $$;
    CREATE TRIGGER hold_back BEFORE UPDATE ON reports
        FOR EACH ROW WHEN (NEW.status = 'done') EXECUTE FUNCTION hold_back()
"""
END_WHO_WAITS_FOR: LiteralString = """
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))
"""


async def test_reports_that_take_long_do_not_hold_up_the_upkeep(
    office: Office, database_url: str, clock: Clock, rows: Rows
) -> None:
    await office.api.create("A")
    await office.api.add(1, {"slug": "A", "ttl_seconds": 60})
    rows.run(HOLD_BACK)
    ordered = [await office.order() for _ in range(6)]

    async def as_many_are_made_as_can_be() -> bool:
        waiting = rows.column("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        return waiting == [REPORTS_AT_ONCE]

    async def is_settled() -> bool:
        return rows.column("SELECT count(*) FROM memberships WHERE ended_at IS NULL") == [0]

    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(1)")
        async with worker(database_url, office.tasks):
            await until(as_many_are_made_as_can_be)
            clock.advance(days=1)
            await until(is_settled)
            other.execute("SELECT pg_advisory_unlock(1)")
            for report in ordered:
                assert (await final(office, report))["status"] == "done"


async def test_a_report_whose_worker_was_killed_is_made_whole_by_another(
    office: Office, database_url: str, clock: Clock, rows: Rows, tmp_path: Path
) -> None:
    await office.api.create("AVITO_VOICE_MESSAGES")
    clock.advance(days=40)
    rows.run("SELECT make_event_partitions(0)")
    rows.run(EVENTS)
    rows.run(HOLD_BACK)
    folder = tmp_path / "reports"

    async def has_begun_its_file() -> bool:
        return any(folder.rglob("*.csv*"))

    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(1)")
        with worker_process(database_url, tmp_path):
            report = await office.order()
            await until(has_begun_its_file)
        # What the dead process sent last would be done once the lock is free.
        rows(END_WHO_WAITS_FOR, other.info.backend_pid)
    assert (await office.see(report))["status"] == "running"
    assert (await office.file(report)).status_code == 409

    rows.run("UPDATE procrastinate_workers SET last_heartbeat = last_heartbeat - interval '1 minute'")
    async with worker(database_url, office.tasks):
        report = await final(office, report)

    answer = await office.file(report)
    assert (report["status"], report["rows"]) == ("done", 200_000)
    assert sha256(answer.content).hexdigest() == report["sha256"]
    assert answer.text.count("\n") == 200_000
    assert list(folder.rglob("*#*")) == []
