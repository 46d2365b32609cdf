"""What is older than the history has to be goes, and no answer about the time since then changes."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Final

import psycopg
import pytest

from segmentd.domain.instants import rfc3339
from segmentd.jobs import Tasks
from segmentd.reports.files import ReportFiles
from segmentd.storage import measures, retention
from segmentd.storage.database import Database
from segmentd.storage.upkeep import settle_deleted_segments, settle_due_terms
from tests.support.client import Api, Json
from tests.support.clock import Clock
from tests.support.office import Office
from tests.support.rows import Rows, rows_of

NOW: Final = timedelta(0)
USERS: Final = range(1, 5)
SLUGS: Final = ("A", "B", "C")
MONTHS: Final = 1
CHANGE: Final = """
    SELECT change_memberships(
        '{2}', '{x}', '{null}', '{null}', '{1}', '{A}', '{t}', '{null}', '{null}', p_together => true
    )
"""


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    with rows_of(database_url) as rows:
        yield rows


def earliest_month(rows: Rows) -> datetime:
    """The beginning of the first month that has a partition."""
    months: list[datetime] = rows.column("SELECT ends_at - interval '1 month' FROM event_partitions")
    return min(months)


async def keep_a_month(database: Database) -> datetime | None:
    """Shortens the history to the month before this one, and removes what was before."""
    await settle_due_terms(database)
    await settle_deleted_segments(database)
    begins_at = await retention.shorten(database, MONTHS)
    await retention.remove(database, NOW)
    return begins_at


def beginning(clock: Clock) -> datetime:
    """The beginning of the month before this one."""
    first = clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first - timedelta(days=1)).replace(day=1)


class Story:
    """Users and segments change by chance; whatever happens is told by the seed."""

    def __init__(self, api: Api, clock: Clock, seed: int) -> None:
        self.api, self.clock, self.chance = api, clock, Random(seed)

    async def begin(self) -> None:
        for slug, percent in zip(SLUGS, (None, 50, 20), strict=True):
            await self.api.create(slug, percent=percent, salt=str(self.chance.getrandbits(40)))

    async def go_on(self, days: int) -> None:
        until = self.clock.now() + timedelta(days=days)
        while self.clock.now() < until:
            self.clock.advance(days=self.chance.uniform(0.1, 3))
            await self.act()

    async def act(self) -> None:
        chance, user, slug = self.chance, self.chance.choice(USERS), self.chance.choice(SLUGS)
        match chance.randrange(20):
            case 0:
                await self.api.delete(f"users/{user}")
            case 1:
                await self.api.change_segment(slug, percent=chance.choice([None, 0, 20, 60, 100]))
            case 2:
                await self.api.delete(f"segments/{slug}")
                await self.api.create(slug, percent=chance.choice([None, 40]), salt="7")
            case 3 | 4 | 5 | 6 | 7 | 8:
                await self.api.remove(user, slug)
            case 9 | 10 | 11 | 12:
                await self.api.add(user, {"slug": slug, "ttl_seconds": chance.randrange(1, 60 * 86400)})
            case _:
                await self.api.add(user, slug)


async def told(api: Api, office: Office, since: datetime, until: datetime, instants: list[datetime]) -> Json:
    """All that can be asked about the time from one instant to another, at the first, at these, and now."""

    async def ask(path: str, **query: str) -> Json:
        answer = await api.get(path, params=query)
        assert answer.status_code in {200, 404}, answer.text
        return answer.text if "export" in path else answer.json()

    end = rfc3339(until)
    found: dict[str, Json] = {}
    for at in [*map(rfc3339, [since, *instants]), None]:
        when = {} if at is None else {"at": at}
        for slug in SLUGS:
            for path in ("users", "counts", "export"):
                found[f"{path} of {slug} at {at}"] = await ask(f"segments/{slug}/{path}", **when)
            if at is None:
                del found[f"counts of {slug} at {at}"]["at"]
        for user in USERS:
            found[f"{user} at {at}"] = await ask(f"users/{user}/segments", detail="true", **when)
            for slug in SLUGS:
                found[f"why {user} {slug} at {at}"] = await ask(f"users/{user}/segments/{slug}", **when)
    for user in USERS:
        found[f"history of {user}"] = await api.walk(
            f"users/{user}/history", "events", 50, **{"from": rfc3339(since), "to": end}
        )
    report = await office.make(**{"from": rfc3339(since), "to": end})
    found["report"] = (await office.file(report)).text
    return json.loads(json.dumps(found))


@pytest.fixture
def office(api: Api, database: Database, tmp_path: Path) -> Office:
    return Office(api, database, tmp_path)


async def break_off_in_the_sums(rows: Rows, url: str) -> None:  # noqa: ARG001 - as the other one
    """As a process that is killed after two batches."""
    for _ in range(2):
        rows("SELECT sum_up_earlier(1)")


async def break_off_detaching(rows: Rows, url: str) -> None:
    """As a process that is killed while a month waits to be detached; and another one before the drop."""
    while rows.column("SELECT sum_up_earlier(100)") != [None]:
        pass
    [(name, state)] = rows("SELECT * FROM partition_to_drop()")
    assert state == "attached"
    with closing(psycopg.connect(url)) as reader:
        reader.execute("SELECT FROM membership_events LIMIT 1")
        rows.run("SET statement_timeout = '100ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            rows.run(f"ALTER TABLE membership_events DETACH PARTITION {name} CONCURRENTLY")
        rows.run("SET statement_timeout = 0")
    assert rows("SELECT state FROM partition_to_drop()") == [("pending",)]
    rows.run(f"ALTER TABLE membership_events DETACH PARTITION {name} FINALIZE")
    assert rows("SELECT state FROM partition_to_drop()") == [("detached",)]


async def prove(
    api: Api,
    office: Office,
    clock: Clock,
    database: Database,
    rows: Rows,
    seed: int,
    instants: int,
    times: int,
) -> None:
    """Some times some months pass, and then all that was told of the last ones is told again."""
    story = Story(api, clock, seed)
    await story.begin()
    for days, break_off in ((70, break_off_in_the_sums), (40, break_off_detaching), (75, None))[:times]:
        await story.go_on(days)
        since, now = beginning(clock), clock.now()
        chosen = [since + (now - since) * story.chance.random() for _ in range(instants)]
        before = await told(api, office, since, now, chosen)

        await settle_due_terms(database)
        await settle_deleted_segments(database)
        assert await retention.shorten(database, MONTHS) == since
        if break_off is not None:
            await break_off(rows, database.url)
            assert await told(api, office, since, now, chosen) == before
        assert await retention.remove(database, NOW)

        assert await told(api, office, since, now, chosen) == before
        assert earliest_month(rows) >= since
        assert rows("SELECT FROM memberships WHERE ended_at < %s", since) == []
        assert rows("SELECT FROM registrations WHERE ended_at < %s", since) == []
    assert rows("SELECT FROM earlier_changes") != []


async def test_no_answer_about_the_time_since_then_changes_wherever_it_is_broken_off(
    api: Api, office: Office, clock: Clock, database: Database, rows: Rows
) -> None:
    await prove(api, office, clock, database, rows, seed=10, instants=0, times=2)


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(11))
async def test_the_same_of_other_stories(
    api: Api, office: Office, clock: Clock, database: Database, rows: Rows, seed: int
) -> None:
    await prove(api, office, clock, database, rows, seed, instants=3, times=3)


EARLIER: Final[dict[str, Callable[[Api, str, str], object]]] = {
    "segments": lambda api, at, _: api.get("users/1/segments", params={"at": at}),
    "why": lambda api, at, _: api.get("users/1/segments/A", params={"at": at}),
    "history from": lambda api, at, _: api.get("users/1/history", params={"from": at}),
    "history to": lambda api, _, since: api.get("users/1/history", params={"to": since}),
    "members": lambda api, at, _: api.get("segments/A/users", params={"at": at}),
    "counts": lambda api, at, _: api.get("segments/A/counts", params={"at": at}),
    "export": lambda api, at, _: api.get("segments/A/export", params={"at": at}),
    "report": lambda api, at, since: api.post("reports", json={"from": at, "to": since}),
}


async def test_what_was_removed_is_refused_and_the_beginning_is_said(
    api: Api, office: Office, clock: Clock, database: Database
) -> None:
    await api.create("A")
    await api.add(1, "A")
    ordered = await office.order()
    clock.advance(days=70)
    await api.add(1, {"slug": "A", "ttl_seconds": 86400})
    since = await keep_a_month(database)
    assert since == beginning(clock)
    at, text = rfc3339(since - timedelta(microseconds=1)), rfc3339(since)

    for what, ask in EARLIER.items():
        answer = await ask(api, at, text)  # type: ignore[misc]
        assert (answer.status_code, answer.json()["type"]) == (410, "/problems/gone"), what
        assert answer.json()["begins_at"] == text
        assert text in answer.json()["detail"]
    page = (await api.get("users/1/history")).json()
    assert (page["events"], page["begins_at"]) == ([], text)
    # The event is gone, and the membership that it began is not.
    assert (await api.explain(1, "A"))["since"] < at
    await office.build(ordered)
    assert (await office.see(ordered))["status"] == "failed"
    [entry] = (await api.get("audit")).json()["entries"][:1]
    assert (entry["operation"], entry["after"]) == ("history-shortened", {"begins_at": text})


async def test_a_position_that_lacks_removed_changes_has_expired_and_others_go_on(
    api: Api, clock: Clock, database: Database
) -> None:
    async def follow(after: str) -> Json:
        return await api.get("changes", params={"after": after})

    await api.create("A")
    early = (await follow("now")).json()["next"]
    await api.add(1, "A")
    level = (await follow("now")).json()["next"]
    clock.advance(days=70)
    await api.add(2, "A")
    assert len((await follow("begin")).json()["changes"]) == 3

    await keep_a_month(database)

    for after in ("begin", early):
        answer = await follow(after)
        assert (answer.status_code, answer.json()["type"]) == (410, "/problems/position-expired")
        assert rfc3339(beginning(clock)) in answer.json()["detail"]
    assert [change["user_id"] for change in (await follow(level)).json()["changes"]] == [2]
    assert (await follow("now")).json()["changes"] == []


async def test_the_job_refuses_what_is_too_old_an_hour_before_it_removes_it(
    api: Api, clock: Clock, database: Database, tmp_path: Path, rows: Rows
) -> None:
    tasks = Tasks(database, ReportFiles.at(None, tmp_path), history_months=MONTHS)
    await api.create("A")
    await api.add(1, "A")
    clock.advance(days=70)
    for _ in range(2):
        await tasks.retain()
    assert (await api.get("users/1/history")).json()["begins_at"] == rfc3339(beginning(clock))
    assert earliest_month(rows) < beginning(clock)

    rows.run("UPDATE kept_history SET moved_at = moved_at - interval '1 hour'")
    await Tasks(database, ReportFiles.at(None, tmp_path)).retain()  # switched off meanwhile
    assert earliest_month(rows) >= beginning(clock)


async def test_nothing_is_removed_while_somebody_reads_who_began_before(
    api: Api, clock: Clock, database: Database, rows: Rows
) -> None:
    await api.create("A")
    await api.add(1, "A")
    clock.advance(days=70)
    await api.add(
        1,
        "A",
    )
    with closing(psycopg.connect(database.url)) as reader:
        reader.execute("SELECT")
        await keep_a_month(database)
        assert earliest_month(rows) < beginning(clock)
    while not await retention.remove(database, NOW):  # until the reader's connection is gone
        pass
    assert earliest_month(rows) >= beginning(clock)


async def test_writers_and_readers_go_on_while_a_month_waits_to_be_removed(
    api: Api, clock: Clock, database: Database, rows: Rows
) -> None:
    await api.create("A")
    await api.add(1, "A")
    clock.advance(days=70)
    await retention.shorten(database, MONTHS)
    with closing(psycopg.connect(database.url)) as reader:
        reader.execute("SELECT FROM membership_events LIMIT 1")
        removing = asyncio.create_task(retention.remove(database, NOW))
        while not rows("SELECT FROM pg_inherits WHERE inhdetachpending"):  # noqa: ASYNC110 - PostgreSQL's
            await asyncio.sleep(0)
        rows.run("SET lock_timeout = '1ms'")  # no lock is waited for
        rows.run(CHANGE)
        assert [event["segment"] for event in await api.history(2)] == ["A"]
    assert await removing >= 1


async def test_terms_that_are_not_written_down_keep_the_history_long(
    api: Api, clock: Clock, database: Database
) -> None:
    await api.create("A")
    await api.add(1, {"slug": "A", "ttl_seconds": 60})
    clock.advance(days=70)
    assert await retention.shorten(database, MONTHS) is None
    assert await keep_a_month(database) == beginning(clock)


async def test_an_erased_user_has_nothing_left_of_the_time_before_either(
    api: Api, clock: Clock, database: Database, rows: Rows
) -> None:
    await api.create("A")
    await api.create("B")
    await api.add(1, "A", "B")
    await api.remove(1, "A")
    clock.advance(days=70)
    await keep_a_month(database)
    assert rows.column("SELECT user_id FROM earlier_changes") == [1]
    now = (await api.get("changes", params={"after": "now"})).json()["next"]

    await api.delete("users/1", params={"erase": "true"})

    assert rows("SELECT FROM earlier_changes") == []
    left = (await api.get("changes", params={"after": now})).json()["changes"]
    assert [change["segment"] for change in left] == ["A", "B"]


async def test_an_operator_s_own_tables_stay_and_the_count_of_events_does_not_fall(
    api: Api, clock: Clock, database: Database, rows: Rows
) -> None:
    await api.create("A")
    await api.add(1, "A")
    rows.run("SELECT ensure_event_partition('2020-01-01Z'), ensure_event_partition('2020-02-01Z')")
    rows.run("ALTER TABLE membership_events DETACH PARTITION membership_events_2020_01")
    clock.advance(days=70)
    await api.add(1, "A")
    written = (await measures.measure(database)).events_written

    since = await keep_a_month(database)

    assert rows("SELECT to_regclass('membership_events_2020_01') IS NULL") == [(False,)]
    assert rows("SELECT to_regclass('membership_events_2020_02') IS NULL") == [(True,)]
    found = await measures.measure(database)
    assert found.events_written >= written
    assert since is not None
    assert datetime.fromtimestamp(found.history_begins_at, UTC) == since
