"""Upkeep: what background tasks write down, and that nobody sees whether they did."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Final, LiteralString, TypeVar

import psycopg
import pytest

from segmentd import jobs
from segmentd.domain.errors import Unavailable
from segmentd.domain.instants import rfc3339
from segmentd.jobs import Tasks
from segmentd.reports.files import ReportFiles
from segmentd.storage.database import Database, Parameters
from segmentd.storage.upkeep import settle_deleted_segments, settle_due_terms
from tests.support.changing import CHANGE
from tests.support.client import Api, Json
from tests.support.clock import Clock
from tests.support.office import Office, until, waits_for_a_table
from tests.support.rows import Rows, rows_of

Row = TypeVar("Row")

MANY = 200_000
DAY_S: Final = 86_400


@pytest.fixture
def office(api: Api, database: Database, tmp_path: Path) -> Office:
    return Office(api, database, tmp_path)


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    with rows_of(database_url) as rows:
        yield rows


ENDS: LiteralString = """
    SELECT e.user_id, e.at, e.cause, e.effective, m.until, m.ended_at
    FROM membership_events e
    JOIN memberships m USING (user_id, segment_id)
    WHERE e.operation = 'remove'
    ORDER BY 1
"""
BATCHES: LiteralString = """
    SELECT count(DISTINCT user_id) FROM membership_events WHERE operation = 'remove' GROUP BY xid
"""
OPEN: LiteralString = "SELECT count(*) FROM memberships WHERE ended_at IS NULL"


@pytest.mark.parametrize("queue", [jobs.report_queue, jobs.import_queue])
async def test_where_the_database_goes_while_a_job_is_put_into_its_queue_that_is_said_as_everywhere(
    queue: Callable[[], Callable[..., Awaitable[None]]], database: Database, rows: Rows
) -> None:
    with pytest.raises(Unavailable):  # noqa: PT012 - the transaction ends in vain too
        async with database.transaction() as connection:
            rows("SELECT pg_terminate_backend(%s, 5000)", connection.info.backend_pid)
            await queue()(connection, 1, 0)


# The schedule


@pytest.mark.parametrize("step_s", [DAY_S, -3600])
async def test_the_schedule_begins_again_where_the_machine_slept_or_its_clock_was_set(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    starts, offset_s, stop = 0, 0.0, asyncio.Event()

    class Counted(Tasks):
        async def maintain(self) -> None:  # at every start of the upkeep
            nonlocal starts
            starts += 1

    async def have_begun(times: int) -> None:
        async def is_so() -> bool:
            return starts == times

        await until(is_so)

    monkeypatch.setattr(jobs, "_clock_offset", lambda: offset_s)
    monkeypatch.setattr(jobs, "CLOCK_LOOK_S", 0.01)
    working = asyncio.create_task(
        jobs.work(database_url, Counted(database, ReportFiles.at(None, tmp_path)), stop, 1)
    )
    await have_begun(1)
    offset_s += step_s
    await have_begun(2)
    stop.set()
    await working


# Terms


async def test_a_term_s_end_is_written_with_its_own_time_in_bounded_batches(
    api: Api, database: Database, clock: Clock, rows: Rows
) -> None:
    await api.create("A")
    await api.create("B")
    for user_id in range(1, 11):
        await api.add(
            user_id, {"slug": "A", "ttl_seconds": 60 + user_id % 3}, {"slug": "B", "ttl_seconds": 9999}
        )
    clock.advance(days=0.1)

    settled = await settle_due_terms(database, batch_users=3)

    assert settled == 10
    ends = rows(ENDS)
    assert [user_id for user_id, *_ in ends] == [*range(1, 11)]
    assert {(cause, effective) for _, _, cause, effective, _, _ in ends} == {("expiry", True)}
    assert all(at == until == ended_at for _, at, _, _, until, ended_at in ends)
    assert sorted(rows.column(BATCHES)) == [1, 3, 3, 3]
    assert await settle_due_terms(database, batch_users=3) == 0
    assert rows.column(OPEN) == [10]


async def test_terms_that_end_at_one_instant_are_all_written_whatever_the_batches(
    api: Api, database: Database, clock: Clock, rows: Rows
) -> None:
    for slug in ("A", "B", "C"):
        await api.create(slug)
    end = rfc3339(clock.now() + timedelta(hours=1))
    for user_id in range(1, 8):
        await api.add(user_id, *({"slug": slug, "until": end} for slug in ("A", "B", "C")))
    clock.advance(days=1)

    # A batch of two terms ends in the middle of a user.
    assert await settle_due_terms(database, batch_users=2) >= 7

    assert rows.column("SELECT count(*) FROM membership_events WHERE operation = 'remove'") == [21]
    assert rows.column(OPEN) == [0]


async def test_users_that_others_work_on_are_left_out_and_the_rest_goes_on(
    api: Api, database: Database, clock: Clock, rows: Rows, database_url: str
) -> None:
    await api.create("A")
    for user_id in range(1, 7):
        await api.add(user_id, {"slug": "A", "ttl_seconds": 60})
    clock.advance(days=1)

    with psycopg.connect(database_url) as other:
        other.execute("SELECT FROM users WHERE id IN (2, 3, 5) FOR UPDATE")
        assert await settle_due_terms(database, batch_users=2) == 3
        assert rows.column("SELECT user_id FROM memberships WHERE ended_at IS NULL ORDER BY 1") == [2, 3, 5]

    assert await settle_due_terms(database, batch_users=2) == 3
    assert rows.column(OPEN) == [0]


async def test_a_term_that_is_renewed_while_the_job_looks_at_it_is_not_touched(
    api: Api, database: Database, clock: Clock, rows: Rows, database_url: str
) -> None:
    await api.create("A")
    await api.add(1, {"slug": "A", "ttl_seconds": 60})
    await api.add(2, {"slug": "A", "ttl_seconds": 60})
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("LOCK TABLE users IN EXCLUSIVE MODE")
        await other.execute(CHANGE, [1, "A", True, 86400])
        clock.advance(seconds=61)
        settling = asyncio.create_task(settle_due_terms(database))
        # The job has found both terms, as they were before the renewal, and waits for their users.
        await until(lambda: waits_for_a_table(rows))
        await other.commit()
        await settling

    [(user_id, *_)] = rows(ENDS)
    assert user_id == 2
    assert await api.segments(1) == ["A"]
    assert [event["operation"] for event in await api.history(1)] == ["add"]


class Timed(Database):
    """The service's access to a database, which notes how long each statement took."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.seconds: list[float] = []

    async def all(self, row: type[Row], query: LiteralString, parameters: Parameters = None) -> list[Row]:
        begun = time.monotonic()
        answer = await super().all(row, query, parameters)
        self.seconds.append(time.monotonic() - begun)
        return answer


A_DAY_OF_TERMS: LiteralString = """
    INSERT INTO users (id, registered_at, last_at)
    SELECT id, clock_instant() - interval '1 day', clock_instant() - interval '1 day'
    FROM generate_series(1, %(users)s) AS id;
    INSERT INTO registrations (user_id, registered_at) SELECT id, registered_at FROM users;
    INSERT INTO memberships (user_id, segment_id, included, since, until)
    SELECT u.id, s.id, true, u.registered_at, u.registered_at + u.id * interval '1 day' / %(users)s
    FROM users u, segments s;
    INSERT INTO membership_events (user_id, segment_id, at, operation, effective, until, cause, actor)
    SELECT user_id, segment_id, since, 'add', true, until, 'request', 'anonymous' FROM memberships;
    ANALYZE;
"""


async def day_of_terms(api: Api, database_url: str, users: int) -> None:
    """So many users with a term each, that ended one after the other over the last day."""
    await api.create("DISCOUNT", salt="1")
    async with await psycopg.AsyncConnection.connect(
        database_url, cursor_factory=psycopg.AsyncClientCursor
    ) as connection:
        await connection.execute("SELECT make_event_partitions(1)")
        await connection.execute(A_DAY_OF_TERMS, {"users": users})


@pytest.mark.parametrize("users", [5_000, pytest.param(MANY, marks=pytest.mark.proof)])
async def test_a_day_s_pause_is_caught_up_with_and_nobody_is_kept_waiting(
    api: Api, database_url: str, clock: Clock, rows: Rows, users: int
) -> None:
    clock.advance(days=40)
    await day_of_terms(api, database_url, users)
    clock.advance(days=1)
    async with Timed(database_url) as database:
        settling = asyncio.create_task(settle_due_terms(database))
        written = 0
        while not settling.done():
            written += 1
            await api.add(1 + written * 7919 % users, {"slug": "DISCOUNT", "ttl_seconds": DAY_S})
        await settling

    assert rows.column(
        "SELECT count(*) FROM memberships WHERE until <= reading_instant() AND ended_at IS NULL"
    ) == [0]
    assert rows.column(
        "SELECT count(*) FROM membership_events e JOIN memberships m"
        " ON m.user_id = e.user_id AND m.ended_at = e.at AND m.until = e.at WHERE e.cause = 'expiry'"
    ) == [users]
    assert max(rows.column(BATCHES)) <= 500
    if users == MANY:
        # A lock lasts no longer than the statement that takes it.
        assert max(database.seconds) < 1


# Deleted segments


UNSETTLED: LiteralString = "SELECT settled_to FROM segments_to_settle"


async def test_memberships_of_a_deleted_segment_are_closed_in_batches_as_of_its_deletion(
    api: Api, database: Database, rows: Rows, database_url: str
) -> None:
    await api.create("GONE")
    await api.create("STAYS")
    for user_id in range(1, 21):
        await api.add(user_id, "GONE", "STAYS")
    await api.delete("segments/GONE")
    [deleted_at] = rows.column("SELECT deleted_at FROM segments WHERE deleted_at IS NOT NULL")

    with psycopg.connect(database_url) as other:
        other.execute("SELECT FROM users WHERE id IN (4, 5) FOR UPDATE")
        assert await settle_deleted_segments(database, batch_users=8) == 18
        assert rows(UNSETTLED) == [(3,)]
    assert await settle_deleted_segments(database, batch_users=8) == 2
    assert rows(UNSETTLED) == []
    assert await settle_deleted_segments(database, batch_users=8) == 0

    assert {(at, ended_at, cause) for _, at, cause, _, _, ended_at in rows(ENDS) if ended_at} == {
        (deleted_at, deleted_at, "segment-deleted")
    }
    assert sorted(rows.column(BATCHES)) == [2, 4, 6, 8]
    assert rows.column(OPEN) == [20]


# Nobody sees whether the job ran


async def what_anybody_reads(office: Office, times: list[datetime]) -> dict[str, Json]:
    """All answers about all segments and one user of each kind, now and at these times, and a report."""
    api = office.api
    users = [1, 2, 3, 12, 99]  # by the end of their terms; with removals; unknown
    slugs = ("TERM", "HALF", "GONE", "LIVE")
    seen: dict[str, Json] = {"report": await office.rows()}
    paths = ["segments", "users", "segments/TERM/users", "segments/HALF/users", "segments/LIVE/users"]
    for user in users:
        paths += [f"users/{user}/history", f"users/{user}/segments", f"users/{user}/segments?detail=true"]
        paths += [f"users/{user}/segments/{slug}" for slug in slugs]
        paths += [f"users/{user}/segments?detail=true&at={rfc3339(at)}" for at in times]
        paths += [f"users/{user}/segments/{slug}?at={rfc3339(at)}" for slug, at in product(slugs, times)]
    for path in paths:
        answer = await api.get(path, headers={"X-Request-Id": "one"})
        seen[path] = (answer.status_code, answer.json())
    seen["lookup"] = (await api.post("lookup", json={"user_ids": users})).json()
    return seen


async def test_whatever_anybody_reads_is_the_same_before_and_after_the_job(
    office: Office, clock: Clock, rows: Rows
) -> None:
    api = office.api
    times = [clock.now()]
    await api.create("TERM")
    await api.create("HALF", percent=50)
    await api.create("GONE", percent=30)
    await api.create("LIVE")
    ends = [clock.now() + timedelta(hours=hours) for hours in (1, 2, 3)]
    for user_id in range(1, 13):
        end = rfc3339(ends[user_id % 3])
        await api.add(user_id, {"slug": "TERM", "until": end}, {"slug": "HALF", "until": end}, "GONE", "LIVE")
    await api.remove(12, "GONE", "HALF")
    times.append(clock.now())
    clock.advance(seconds=5400)
    await api.change_segment("HALF", percent=20)
    await api.delete("segments/GONE")
    times.append(clock.now())
    clock.advance(days=1)
    times += [moment for end in ends for moment in (end - timedelta(microseconds=1), end)]

    before = await what_anybody_reads(office, times)
    events = rows.column("SELECT count(*) FROM membership_events")
    await office.tasks.settle()
    after = await what_anybody_reads(office, times)

    assert rows.column("SELECT count(*) FROM membership_events") > events
    assert rows.column(OPEN) == [13]  # in LIVE, and an exclusion from HALF
    assert after == before
    [event] = [
        event for event in await api.history(1) if event["cause"] == "expiry" and event["segment"] == "TERM"
    ]
    assert event["at"] == event["until"] == rfc3339(ends[1])


# Partitions


async def test_partitions_are_made_three_months_ahead(office: Office, clock: Clock, rows: Rows) -> None:
    clock.advance(days=366)
    await office.tasks.maintain()
    now = clock.now()
    months = [
        (now.year + (now.month - 1 + ahead) // 12, (now.month - 1 + ahead) % 12 + 1) for ahead in range(4)
    ]
    made = rows.column(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'membership_events'::regclass"
    )
    assert {f"membership_events_{year}_{month:02}" for year, month in months} <= {*made}
