"""After each round the replica shows what is committed, whatever happened in between."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import psycopg
import pytest

from segmentd.domain.identifiers import UserId
from segmentd.replica.files import Unusable
from segmentd.replica.follower import LONGEST_REST_SECONDS, REST_ROUNDS, Follower
from segmentd.replica.status import ReplicaStatus
from segmentd.storage.database import Database
from segmentd.storage.memberships import segments_of
from segmentd.storage.replication import Reading
from segmentd.storage.upkeep import settle_deleted_segments, settle_due_terms
from tests.support.changing import CHANGE
from tests.support.client import Api
from tests.support.clock import Clock
from tests.support.workers import Worker, replicas, tells_its_age


async def assert_equal(database: Database, worker: Worker, *user_ids: int) -> None:
    """The replica has the same segments of the users as the database."""
    stored = await segments_of(database, [UserId(user_id) for user_id in user_ids])
    assert dict(zip(user_ids, await worker.replicated(*user_ids), strict=True)) == {
        user.user_id: [*user.segments] for user in stored
    }


async def test_the_first_round_builds_a_replica_of_everything(
    api: Api, database: Database, follower: Follower, worker: Worker, status: ReplicaStatus
) -> None:
    await api.create("PLAIN")
    await api.create("HALF", percent=50)
    await api.create("GONE")
    for user_id in range(1, 50):
        await api.change(user_id, add=["GONE", "PLAIN"][: 1 + user_id % 2], remove=["HALF"][user_id % 2 :])
    await api.delete("segments/GONE")
    assert await worker.age() is None

    await follower.round()

    await assert_equal(database, worker, *range(1, 60))
    assert await tells_its_age(worker, status)


async def test_a_replica_of_an_empty_database_has_nobody_in_it(follower: Follower, worker: Worker) -> None:
    await follower.round()

    assert await worker.replicated(1, 2**63 - 1) == [[], []]


async def test_later_rounds_show_every_kind_of_change(
    api: Api, clock: Clock, database: Database, follower: Follower, worker: Worker
) -> None:
    users = range(1, 40)
    await api.create("A")
    await api.create("B")
    await api.create("HALF", percent=50)
    await follower.round()

    async def shown() -> None:
        await follower.round()
        await assert_equal(database, worker, *users)

    for user_id in users:
        await api.add(user_id, "A", {"slug": "B", "ttl_seconds": 60})
    await shown()
    await api.change(1, add=["HALF"], remove=["A", "B"])
    await api.remove(2, "HALF")
    await shown()
    assert "HALF" in (await worker.replicated(1))[0]
    clock.advance(seconds=61)
    await shown()
    assert all("B" not in segments for segments in await worker.replicated(*users))
    assert await settle_due_terms(database) == len(users) - 1
    await shown()
    await api.change_segment("A", slug="Z")
    await shown()
    assert (await worker.replicated(3))[0][-1] == "Z"
    for percent in (70, 0, 100, None):
        await api.change_segment("HALF", percent=percent)
        await shown()
    await api.create("NEW", percent=30)
    await shown()
    await api.delete("segments/Z")
    await shown()
    await settle_deleted_segments(database)
    await shown()
    await api.create("Z")
    await api.add(4, "Z")
    await shown()
    assert "Z" in (await worker.replicated(4))[0]
    await api.delete("users/4")
    await shown()
    await api.delete("users/5?erase=true")
    await shown()
    await api.add(5, "NEW")
    await shown()


async def test_a_replica_catches_up_with_an_erased_user(api: Api, follower: Follower, worker: Worker) -> None:
    await api.create("A")
    await api.add(5, "A")
    await follower.round()

    answer = await api.delete("users/5?erase=true")

    assert answer.status_code == 204
    await follower.round()
    assert await worker.replicated(5) == [[]]
    await api.add(5, "A")
    await follower.round()
    assert await worker.replicated(5) == [["A"]]


class Writers:
    """Clients whose transactions are open for as long as the test wants."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack

    async def begin(self) -> psycopg.AsyncConnection:
        return await self._stack.enter_async_context(await psycopg.AsyncConnection.connect(self._url))


@pytest.fixture
async def writers(database_url: str) -> AsyncIterator[Writers]:
    async with AsyncExitStack() as stack:
        yield Writers(database_url, stack)


async def test_a_transaction_that_stays_open_over_many_rounds_is_not_skipped(
    api: Api, database: Database, follower: Follower, worker: Worker, writers: Writers
) -> None:
    await api.create("A")
    await follower.round()
    slow = await writers.begin()
    await slow.execute(CHANGE, [1, "A", True, None])

    for user_id in range(2, 12):
        await api.add(user_id, "A")
        await follower.round()
        await assert_equal(database, worker, *range(1, 15))
    await slow.commit()
    await follower.round()

    assert await worker.replicated(1) == [["A"]]
    await assert_equal(database, worker, *range(1, 15))


async def test_a_transaction_that_had_no_number_before_a_round_is_not_skipped(
    api: Api, follower: Follower, worker: Worker, writers: Writers
) -> None:
    await api.create("A")
    slow = await writers.begin()
    await slow.execute("SELECT 1")
    await follower.round()
    await slow.execute(CHANGE, [1, "A", True, None])
    await follower.round()

    await slow.commit()

    await follower.round()
    assert await worker.replicated(1) == [["A"]]


async def test_a_transaction_within_a_transaction_is_not_skipped(
    api: Api, follower: Follower, worker: Worker, writers: Writers
) -> None:
    await api.create("A")
    await follower.round()
    slow = await writers.begin()
    await slow.execute("SAVEPOINT one")
    await slow.execute(CHANGE, [1, "A", True, None])
    await slow.execute("SAVEPOINT two")
    await slow.execute(CHANGE, [2, "A", True, None])
    await slow.execute("ROLLBACK TO two")
    await slow.execute(CHANGE, [3, "A", True, None])
    await follower.round()

    await slow.commit()

    await follower.round()
    assert await worker.replicated(1, 2, 3) == [["A"], [], ["A"]]


@pytest.mark.usefixtures("few_users")
@pytest.mark.parametrize(
    ("seed", "steps", "few_users"),
    [(1, 150, 500), (2, 150, 0), pytest.param(3, 5000, 3, marks=pytest.mark.proof, id="proof")],
    indirect=["few_users"],
)
async def test_nothing_is_skipped_in_whatever_order_transactions_begin_and_end(
    api: Api, database: Database, follower: Follower, worker: Worker, writers: Writers, seed: int, steps: int
) -> None:
    slugs = ["A", "B", "HALF"]
    await api.create("A")
    await api.create("B")
    await api.create("HALF", percent=50)
    chance = random.Random(seed)
    free = [await writers.begin() for _ in range(6)]
    open_: dict[int, psycopg.AsyncConnection] = {}
    users = range(1, 20)
    late = 0
    await follower.round()

    for _ in range(steps):
        kind = chance.random()
        if kind < 0.45:
            user_id = chance.choice(users)
            if user_id not in open_ and free:
                open_[user_id] = free.pop()
            if user_id in open_:
                await open_[user_id].execute(
                    CHANGE, [user_id, chance.choice(slugs), chance.random() < 0.6, None]
                )
        elif kind < 0.7 and open_:
            user_id = chance.choice([*open_])
            free.append(connection := open_.pop(user_id))
            await (connection.rollback() if chance.random() < 0.2 else connection.commit())
        else:
            await follower.round()
            late += bool(open_)
            await assert_equal(database, worker, *users)
    for connection in open_.values():
        await connection.commit()
    await follower.round()

    await assert_equal(database, worker, *users)
    assert late > 10


def files(folder: Path) -> list[tuple[str, int]]:
    """The names of the replicas, with their inodes."""
    return [(path.name, path.stat().st_ino) for path in replicas(folder)]


@asynccontextmanager
async def restarted(database: Database, folder: Path) -> AsyncIterator[Follower]:
    with closing(Follower(database, folder)) as follower:
        yield follower


async def test_after_a_restart_the_replica_is_resumed_and_only_the_missed_part_is_read(
    api: Api, database: Database, folder: Path, worker: Worker, writers: Writers
) -> None:
    await api.create("A")
    slow = await writers.begin()
    await slow.execute(CHANGE, [3, "A", True, None])
    async with restarted(database, folder) as follower:
        await api.add(1, "A")
        await follower.round()
        made = files(folder)

    await api.add(2, "A")
    await slow.commit()
    await api.create("ALL", percent=100)

    async with restarted(database, folder) as follower:
        assert await worker.age() is not None  # what is there goes on serving
        await follower.round()
        assert files(folder) == made
        assert await worker.replicated(1, 2, 3, 4) == [["A", "ALL"]] * 3 + [["ALL"]]


async def test_a_follower_killed_between_two_batches_repeats_them(
    api: Api,
    database: Database,
    folder: Path,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("segmentd.replica.moments.FEW_USERS", 0)
    monkeypatch.setattr("segmentd.replica.renewal.BATCH_USERS", 10)
    await api.create("A")
    async with restarted(database, folder) as follower:
        await follower.round()
        made = files(folder)
        for user_id in range(1, 36):
            await api.add(user_id, "A")
        batches = 0
        states = Reading.states

        async def failing(reading: Reading, user_ids: Sequence[UserId]) -> object:
            nonlocal batches
            batches += 1
            if batches == 4:  # it is read while the third is being written
                raise asyncio.CancelledError
            return await states(reading, user_ids)

        with monkeypatch.context() as patch:
            patch.setattr("segmentd.storage.replication.Reading.states", failing)
            with pytest.raises(asyncio.CancelledError):
                await follower.round()
        assert await worker.replicated(*range(1, 31)) == [["A"]] * 30
        with pytest.raises(Unusable):
            await worker.replicated(31)
        assert [await worker.get(user_id) for user_id in (3, 33)] == [["A"], []]  # the one of before
        await api.remove(3, "A")

    async with restarted(database, folder) as follower:
        await follower.round()

        assert files(folder) == made
        await assert_equal(database, worker, *range(1, 40))


@pytest.mark.parametrize("round_seconds", [0.002, 0.02])
async def test_a_follower_that_is_woken_all_the_time_rests_after_each_round(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, round_seconds: float
) -> None:
    stop, wake = asyncio.Event(), asyncio.Event()
    sleep = asyncio.sleep
    rests: list[float] = []

    class Busy(Follower):
        async def round(self) -> None:
            time.sleep(round_seconds)  # noqa: ASYNC251 - a round that takes so long
            wake.set()

    async def rest(seconds: float) -> None:
        rests.append(seconds)
        if len(rests) == 3:
            stop.set()
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", rest)
    with closing(Busy(database, tmp_path / "replicas")) as follower:
        await follower.follow(stop, wake, 3600)

    assert len(rests) == 3
    assert all(min(REST_ROUNDS * round_seconds, LONGEST_REST_SECONDS) <= rested for rested in rests)
    assert max(rests) <= LONGEST_REST_SECONDS
