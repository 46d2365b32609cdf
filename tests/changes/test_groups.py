"""Groups of changes in PostgreSQL, with what can go wrong in the middle of one."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import LiteralString

import httpx
import psycopg
import pytest

from segmentd.storage.sessions import PINNED
from tests.support.client import Api, Json
from tests.support.node import node
from tests.support.rows import Rows
from tests.support.workers import eventually

GOOD = range(100, 130)


class Other:
    """A transaction of somebody else, which holds what it has locked until it ends."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def does(self, statement: LiteralString, *parameters: object) -> None:
        self._connection.execute(statement, parameters)

    def ends(self) -> None:
        self._connection.rollback()


@contextmanager
def other(url: str, statement: LiteralString, *parameters: object) -> Iterator[Other]:
    with psycopg.connect(url) as connection:
        transaction = Other(connection)
        transaction.does(statement, *parameters)
        yield transaction
        transaction.ends()


CATALOG: LiteralString = "SELECT pg_advisory_xact_lock(catalog_lock())"
"""Stops every group that begins, as a change of segments does for a moment."""


def waiting(rows: Rows) -> list[int]:
    """The sessions that wait for the catalog's lock."""
    return rows.column(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )


async def are_waiting(rows: Rows, least: int) -> None:
    async def enough() -> bool:
        return len(waiting(rows)) >= least

    await eventually(enough)


def post(api: Api, user_id: int, body: Json) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(api.post(f"users/{user_id}/segments", json=body))


async def busy(api: Api, rows: Rows) -> list[asyncio.Task[httpx.Response]]:
    """While the catalog is locked: two transactions that wait, so that what comes now is one group."""
    tasks = []
    for place, user_id in enumerate((1, 2), 1):
        tasks.append(post(api, user_id, {"add": ["A"]}))
        await are_waiting(rows, place)
    return tasks


def statuses(answers: Sequence[httpx.Response]) -> list[int]:
    return [answer.status_code for answer in answers]


def transactions(rows: Rows) -> list[int]:
    """In how many transactions the users of GOOD were changed, and how many of these there are."""
    [counts] = rows(
        "SELECT count(DISTINCT xid), count(DISTINCT user_id) FROM membership_events WHERE user_id = ANY (%s)",
        [*GOOD],
    )
    return [*counts]


@pytest.fixture
async def segments(api: Api) -> Api:
    for slug in ("A", "B"):
        await api.create(slug)
    return api


async def test_in_a_group_each_change_keeps_its_own_answer_and_error_and_no_locked_user_holds_up_others(
    segments: Api, rows: Rows, database_url: str
) -> None:
    api = segments
    await api.add(50, "B")
    soon = (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat()
    with other(database_url, "SELECT FROM users WHERE id = 50 FOR UPDATE") as somebody:
        with other(database_url, CATALOG):
            tasks = await busy(api, rows)
            locked = post(api, 50, {"add": ["A"]})
            behind = post(api, 50, {"remove": ["A"]})
            bad = [
                post(api, 60, {"add": ["A", "UNKNOWN"], "remove": ["OTHER"]}),
                post(api, 61, {"add": ["B", {"slug": "A", "until": soon}]}),
                post(api, 62, {"add": ["A"], "remove": ["A"]}),
            ]
            good = [post(api, user_id, {"add": ["A", "B"]}) for user_id in GOOD]
            # The term of user 61 goes past while the change waits.
            rows("SELECT pg_sleep_until(%s)", soon)

        assert statuses(await asyncio.gather(*tasks, *good)) == [200] * (2 + len(GOOD))
        unknown, past, twice = await asyncio.gather(*bad)
        assert not locked.done()
        assert not behind.done()
        somebody.ends()

        assert (await locked).json()["added"] == ["A"]
        assert (await behind).json()["removed"] == ["A"]

    assert (unknown.status_code, unknown.json()["segments"]) == (404, ["OTHER", "UNKNOWN"])
    assert (past.status_code, past.json()["errors"][0]["pointer"]) == (422, "/add/1/until")
    assert twice.status_code == 422
    assert [task.result().json()["user_id"] for task in good] == [*GOOD]
    assert transactions(rows) == [1, len(GOOD)]
    assert rows("SELECT FROM users WHERE id = ANY ('{60,61,62}')") == []


async def test_a_user_whom_another_transaction_registers_holds_up_nobody_else_for_long(
    segments: Api, rows: Rows, database_url: str
) -> None:
    api = segments
    registering: LiteralString = (
        "INSERT INTO users (id, registered_at, last_at) VALUES (70, now(), now() + interval '1 second')"
    )
    with other(database_url, registering) as somebody:
        with other(database_url, CATALOG):
            tasks = await busy(api, rows)
            tasks += [post(api, user_id, {"add": ["A"]}) for user_id in GOOD]
            new = post(api, 70, {"add": ["A"]})

        assert statuses(await asyncio.gather(*tasks)) == [200] * (2 + len(GOOD))
        assert not new.done()
        somebody.ends()
        assert (await new).json()["added"] == ["A"]


async def test_a_lost_connection_fails_the_changes_of_its_group_alone_and_nothing_of_them_is_done(
    segments: Api, rows: Rows, database_url: str
) -> None:
    api = segments
    with other(database_url, CATALOG):
        lost = [post(api, user_id, {"add": ["A", "B"]}) for user_id in GOOD[:5]]
        await are_waiting(rows, 1)
        [session] = waiting(rows)
        others = [post(api, user_id, {"add": ["A", "B"]}) for user_id in GOOD[5:]]
        await are_waiting(rows, 2)

        rows("SELECT pg_terminate_backend(%s)", session)

        answers = await asyncio.gather(*lost)
        assert {*statuses(answers)} <= {200, 503}
        assert all(answer.headers["Retry-After"] for answer in answers if answer.status_code == 503)

    assert statuses(await asyncio.gather(*others)) == [200] * len(others)
    done = [200] * len(others)
    for user_id, answer in zip(GOOD, [*answers, *[task.result() for task in others]], strict=True):
        assert await api.segments(user_id) == (["A", "B"] if answer.status_code == 200 else [])
    assert len(done) == len(others)


async def test_after_a_lock_timeout_each_change_of_a_group_is_tried_alone(
    database_url: str, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PINNED, "lock_timeout", "150ms")
    async with node(database_url, tmp_path) as api:
        await api.create("A")
        with other(database_url, CATALOG):
            tasks = [post(api, user_id, {"add": ["A"]}) for user_id in GOOD]
            unknown = post(api, 90, {"add": ["UNKNOWN"]})
            # More than the two transactions of groups.
            await are_waiting(rows, 3)

        assert statuses(await asyncio.gather(*tasks)) == [200] * len(GOOD)
        assert (await unknown).status_code == 404


async def test_a_client_that_goes_away_changes_nothing_for_the_others(
    segments: Api, rows: Rows, database_url: str
) -> None:
    api = segments
    with other(database_url, CATALOG):
        under_way = [post(api, user_id, {"add": ["A", "B"]}) for user_id in GOOD[:3]]
        await are_waiting(rows, 1)
        tasks = await busy(api, rows)
        queued = [post(api, user_id, {"add": ["A", "B"]}) for user_id in GOOD[3:]]
        await asyncio.sleep(0)
        for gone in (under_way[1], queued[1]):
            gone.cancel()

    left = [task for task in (*tasks, *under_way, *queued) if task not in (under_way[1], queued[1])]
    assert statuses(await asyncio.gather(*left)) == [200] * len(left)
    for user_id in GOOD:
        assert await api.segments(user_id) in ([["A", "B"]] if user_id != GOOD[4] else [[], ["A", "B"]])


async def test_changes_of_one_user_are_applied_in_the_order_in_which_they_came(
    segments: Api, rows: Rows
) -> None:
    api = segments
    sent = [{"add": ["A"]} if number % 2 else {"remove": ["A"]} for number in range(1, 41)]

    answers = await asyncio.gather(*(post(api, 7, body) for body in sent))

    assert statuses(answers) == [200] * 40
    assert [answer.json()["added"] for answer in answers] == [["A"], []] * 20
    assert [answer.json()["removed"] for answer in answers] == [[], ["A"]] * 20
    operations = rows.column("SELECT operation::text FROM membership_events WHERE user_id = 7 ORDER BY at")
    assert operations == ["add", "remove"] * 20
