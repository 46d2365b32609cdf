"""The database goes and comes back: 503 meanwhile, never 500, never a request that hangs, and no restart."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import httpx
import psycopg
import pytest

from segmentd.domain.errors import Unavailable
from segmentd.storage import measures
from segmentd.storage.database import Database
from segmentd.storage.embedded import EmbeddedPostgres, start
from segmentd.storage.migrate import migrate
from tests.support.client import Api
from tests.support.node import node
from tests.support.postgres import execute
from tests.support.relay import Relay, relay_to

# Far more than the service itself allows a request: a request that waits longer hangs.
HANGS_AFTER_S = 30
WAITS_FOR_SEVEN = """
    SELECT FROM pg_locks JOIN pg_database ON oid = database
    WHERE datname = current_database() AND locktype = 'advisory' AND objid = 7 AND NOT granted
"""
QUESTIONS = ["segments", "segments/A", "users", "users/1/history", "users/1/segments/A", "/readyz"]


@dataclass
class Outage:
    """A PostgreSQL that can be stopped and started behind the service's back."""

    folder: Path
    server: EmbeddedPostgres
    relay: Relay

    async def stop(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def start(self) -> None:
        self.server = await asyncio.to_thread(start, self.folder)
        self.relay.lead_to(self.server.url)


@pytest.fixture
async def outage(used_dir: Path) -> AsyncIterator[Outage]:
    server = await asyncio.to_thread(start, used_dir)
    try:
        await migrate(server.url)
        async with relay_to(server.url) as relay:
            outage = Outage(used_dir, server, relay)
            yield outage
            server = outage.server
    finally:
        await asyncio.to_thread(server.stop)


async def asked(api: Api, path: str) -> httpx.Response:
    async with asyncio.timeout(HANGS_AFTER_S):
        return await api.get(path)


async def added(api: Api, user_id: int) -> httpx.Response:
    async with asyncio.timeout(HANGS_AFTER_S):
        return await api.post(f"users/{user_id}/segments", json={"add": ["A"]})


def assert_unavailable(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["type"] == "/problems/unavailable"
    assert answer.headers["Retry-After"].isdecimal()
    assert int(answer.headers["Retry-After"]) >= 1


async def comes_back(api: Api) -> None:
    """Waits until each kind of request succeeds again, several times over."""
    async with asyncio.timeout(HANGS_AFTER_S):
        good = 0
        while good < 10:
            answers = [await asked(api, path) for path in QUESTIONS] + [await added(api, 1)]
            for answer in answers:
                if answer.status_code != 200:
                    assert_unavailable(answer)
            good = good + 1 if all(answer.status_code == 200 for answer in answers) else 0


async def test_while_the_database_is_away_requests_get_503_and_afterwards_succeed_without_a_restart(
    outage: Outage, tmp_path: Path
) -> None:
    async with node(outage.relay.url, tmp_path / "node") as api:
        await api.create("A")
        await api.add(1, "A")

        await outage.stop()
        answers = await asyncio.gather(
            *(asked(api, path) for path in QUESTIONS * 3), added(api, 1), added(api, 2)
        )
        for answer in answers:
            assert_unavailable(answer)

        await outage.start()
        await comes_back(api)
        assert [event["operation"] for event in await api.history(1)] == ["add"]


async def test_a_stop_in_the_middle_of_writes_loses_nothing_that_was_answered(
    outage: Outage, tmp_path: Path
) -> None:
    answered: set[int] = set()
    refused: set[int] = set()
    enough = asyncio.Event()

    async def write(user_ids: range) -> None:
        for user_id in user_ids:
            answer = await added(api, user_id)
            if answer.status_code == 200:
                answered.add(user_id)
            else:
                assert_unavailable(answer)
                refused.add(user_id)
            if len(answered) > 100:
                enough.set()
            if len(refused) > 20:
                return

    async with node(outage.relay.url, tmp_path / "node") as api:
        await api.create("A")
        async with asyncio.TaskGroup() as writers:
            for client in range(8):
                writers.create_task(write(range(1 + client * 10_000, 10_000 + client * 10_000)))
            await enough.wait()
            await outage.stop()

        await outage.start()
        await comes_back(api)
        members = set(await api.walk("segments/A/users", "user_ids", limit=1000))
        # A refused write may have been done, when the answer was what got lost; nothing else may.
        assert answered <= members <= answered | refused | {1}
        assert refused


async def test_a_service_that_starts_before_its_database_serves_once_it_is_there(
    outage: Outage, tmp_path: Path
) -> None:
    await outage.stop()
    async with node(outage.relay.url, tmp_path / "node") as api:
        assert_unavailable(await asked(api, "/readyz"))
        assert (await asked(api, "/livez")).status_code == 200
        await outage.start()
        async with asyncio.timeout(HANGS_AFTER_S):
            while (await api.post("segments", json={"slug": "A"})).status_code == 503:  # noqa: ASYNC110 - asked each time
                await asyncio.sleep(0)
        await comes_back(api)


async def test_figures_are_not_waited_for_on_a_database_that_has_fallen_silent(outage: Outage) -> None:
    async with Database(outage.relay.url) as database:
        await asyncio.gather(*(database.execute("SELECT pg_sleep(0.1)") for _ in range(3)))
        outage.relay.hush()
        other = asyncio.create_task(database.execute("SELECT"))
        with pytest.raises(Unavailable):
            await measures.measure(database)
        # By now this one is sent; to take it back needs an answer, for which psycopg waits a while.
        other.cancel()

        with pytest.raises(Unavailable):
            await measures.measure(database)

        assert not other.done()
        outage.relay.flowing.set()
        await asyncio.wait([other])


@asynccontextmanager
async def taken_to_be_away(
    database_url: str, statement: LiteralString
) -> AsyncIterator[tuple[Database, asyncio.Task[int], Callable[[], Awaitable[object]]]]:
    """A database after a wait in vain for its one connection, at which a statement waits for lock 7.

    With it that statement, which was not answered yet, and what lets it go on.
    """
    async with (
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as blocking,
        Database(database_url, pool_size=1) as database,
    ):
        await blocking.execute("SELECT pg_advisory_lock(7)")
        waiting = asyncio.create_task(database.execute(statement))
        async with asyncio.timeout(HANGS_AFTER_S):
            while not (await blocking.execute(WAITS_FOR_SEVEN)).rowcount:
                await blocking.execute("SELECT pg_sleep(0.01)")
        # Waits for the one connection in vain; later statements fail at once.
        for _ in range(2):
            with pytest.raises(Unavailable):
                await database.execute("SELECT")
        assert not waiting.done()
        yield database, waiting, lambda: blocking.execute("SELECT pg_advisory_unlock(7)")


async def test_an_answer_of_a_slow_database_ends_the_time_in_which_it_is_taken_to_be_away(
    database_url: str,
) -> None:
    async with taken_to_be_away(database_url, "SELECT pg_advisory_lock(7)") as (database, slow, go_on):
        await go_on()
        await slow

        assert await database.execute("SELECT 1") == 1


async def test_a_database_that_answers_with_errors_is_not_taken_to_be_away(database_url: str) -> None:
    failure = "SELECT pg_advisory_lock(7), 1 / count(*) FROM segments"
    async with taken_to_be_away(database_url, failure) as (database, failing, go_on):
        await go_on()
        with pytest.raises(psycopg.errors.DivisionByZero):
            await failing

        assert await database.execute("SELECT 1") == 1


async def test_connections_that_an_operator_ends_are_replaced(database_url: str, tmp_path: Path) -> None:
    async with node(database_url, tmp_path / "node") as api:
        await api.create("A")
        await asyncio.gather(*(added(api, user_id) for user_id in range(1, 20)))

        execute(
            database_url,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )

        answers = await asyncio.gather(*(asked(api, path) for path in QUESTIONS * 3))
        assert {answer.status_code for answer in answers} <= {200, 503}
        await comes_back(api)
