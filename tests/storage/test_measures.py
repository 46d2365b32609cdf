"""Figures of the work that is to be done and was done, as the database knows them."""

from functools import partial

import pytest

from segmentd.domain.reports import Status
from segmentd.storage import measures
from segmentd.storage.database import Database
from segmentd.storage.measures import JobMeasures
from segmentd.storage.upkeep import settle_due_terms
from tests.support.changing import CHANGE
from tests.support.client import Api
from tests.support.clock import Clock
from tests.support.rows import Rows

# What is measured, not how soon.
measure = partial(measures.measure, patience_s=60)

EVER = {"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T00:00:00Z"}


async def order(api: Api, count: int) -> None:
    for _ in range(count):
        assert (await api.post("reports", json=EVER)).status_code == 202


async def test_where_there_is_nothing_to_do_there_is_nothing_to_tell(database: Database) -> None:
    found = await measure(database)

    assert (found.jobs, found.reports) == ([], [])
    assert (found.terms_due, found.term_due_oldest_seconds, found.events_written) == (0, 0, 0)
    assert (found.segments, found.audit_entries) == (0, 0)


async def test_living_segments_and_entries_of_the_audit_log_are_counted(api: Api, database: Database) -> None:
    for slug in ("A", "B", "C"):
        await api.create(slug)
    assert (await api.delete("segments/B")).status_code == 204

    found = await measure(database)

    assert (found.segments, found.audit_entries) == (2, 4)


async def test_jobs_are_counted_by_task_those_that_wait_and_those_that_are_worked_on(
    api: Api, database: Database, rows: Rows
) -> None:
    await order(api, 3)
    rows.run(
        "UPDATE procrastinate_jobs SET status = 'doing' WHERE id = (SELECT min(id) FROM procrastinate_jobs)"
    )

    [job] = (await measure(database)).jobs

    assert (job.task, job.todo, job.doing) == ("build_report", 2, 1)


async def test_the_oldest_job_is_that_which_could_be_worked_on_for_the_longest_time(
    api: Api, database: Database, rows: Rows
) -> None:
    await order(api, 2)
    rows.run("UPDATE procrastinate_events SET at = at - interval '1 hour' * job_id")
    assert await waits(database) == pytest.approx(2 * 3600, abs=600)

    # A job that failed is tried again at a moment of its own.
    rows.run("UPDATE procrastinate_jobs SET scheduled_at = now() - interval '3 hours' WHERE id = 1")
    assert await waits(database) == pytest.approx(3 * 3600, abs=600)
    rows.run("UPDATE procrastinate_jobs SET scheduled_at = now() + interval '3 hours'")
    assert await waits(database) == 0


async def waits(database: Database) -> float:
    [job] = (await measure(database)).jobs
    return job.oldest_seconds


async def test_jobs_that_are_worked_on_wait_no_more(api: Api, database: Database, rows: Rows) -> None:
    await order(api, 1)
    rows.run("UPDATE procrastinate_jobs SET status = 'doing'")

    assert (await measure(database)).jobs == [JobMeasures("build_report", 0, 1, 0)]


async def test_reports_are_counted_by_how_far_they_are_until_they_are_purged(
    api: Api, database: Database, rows: Rows
) -> None:
    await order(api, 3)
    rows.run("UPDATE reports SET status = 'failed' WHERE id = (SELECT id FROM reports LIMIT 1)")

    counted = {each.status: each.count for each in (await measure(database)).reports}
    assert counted == {Status.PENDING: 2, Status.FAILED: 1}

    rows.run("UPDATE reports SET purged_at = now()")
    assert (await measure(database)).reports == []


async def test_a_term_is_due_from_its_end_until_it_is_written_down(
    api: Api, database: Database, clock: Clock
) -> None:
    await api.create("A")
    await api.add(1, {"slug": "A", "ttl_seconds": 1000})
    await api.add(2, {"slug": "A", "ttl_seconds": 5000})
    await api.add(3, {"slug": "A", "ttl_seconds": 90_000})
    await api.add(4, "A")
    assert (await measure(database)).terms_due == 0

    clock.advance(seconds=50_000)

    found = await measure(database)
    assert found.terms_due == 2
    assert found.term_due_oldest_seconds == pytest.approx(49_000, abs=600)
    await settle_due_terms(database)
    found = await measure(database)
    assert (found.terms_due, found.term_due_oldest_seconds) == (0, 0)


async def test_terms_that_are_due_are_counted_up_to_a_hundred_thousand(
    database: Database, rows: Rows
) -> None:
    rows.run("INSERT INTO users (id, registered_at, last_at) VALUES (1, '2025-01-01Z', '2025-01-01Z')")
    rows.run(
        "INSERT INTO memberships (user_id, segment_id, included, since, until)"
        " SELECT 1, number, true, '2025-01-01Z', timestamptz '2025-01-02Z' + number * interval '1 s'"
        " FROM generate_series(0, 100001) AS number"
    )

    found = await measure(database)

    assert found.terms_due == 100_000
    first = rows.column("SELECT extract(epoch FROM now() - '2025-01-02Z')::float8")
    assert found.term_due_oldest_seconds == pytest.approx(first[0], abs=600)


async def test_events_are_counted_in_all_months_together(database: Database, rows: Rows) -> None:
    rows.run("SELECT create_segment('A', '', NULL, 1)")
    for user_id in (1, 2, 3):
        rows.run(CHANGE, user_id, "A", "true", 60)
    rows.run("SELECT ensure_event_partition('2001-02-03Z')")
    rows.run(
        "INSERT INTO membership_events (user_id, segment_id, at, operation, effective, cause, actor)"
        " VALUES (1, 1, '2001-02-03Z', 'add', true, 'request', 'test')"
    )
    rows("SELECT pg_stat_force_next_flush()")

    assert (await measure(database)).events_written == 4
