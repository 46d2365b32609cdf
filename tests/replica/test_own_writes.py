"""A node shows its own write in the very next read, whichever of its processes answers."""

import asyncio
import random
import resource
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import pytest

from segmentd.domain.identifiers import UserId
from segmentd.replica.follower import Follower
from segmentd.replica.status import ReplicaStatus, boot_time
from segmentd.storage.database import Database
from segmentd.storage.memberships import segments_of
from tests.support.client import Api
from tests.support.workers import Worker, tells_its_age


@asynccontextmanager
async def following(follower: Follower) -> AsyncIterator[None]:
    """Rounds in quick succession, as on a busy node."""
    await follower.round()
    stop = asyncio.Event()
    rounds = asyncio.create_task(follower.follow(stop, asyncio.Event(), 0.01))
    try:
        yield
    finally:
        stop.set()
        await rounds


class Client:
    """Writes anywhere, and then reads anywhere what it wrote."""

    def __init__(self, number: int, workers: Sequence[Worker]) -> None:
        self._chance = random.Random(number)
        self._workers = workers
        self._users = range(1 + number * 1000, 6 + number * 1000)
        self._number = number
        self._living: list[str] = []
        self._made = 0
        self.pairs = 0
        self.misses: list[str] = []

    @property
    def _any(self) -> Worker:
        return self._chance.choice(self._workers)

    async def act(self) -> None:
        kind = self._chance.random()
        if not self._living or kind < 0.05:
            await self._create()
        elif kind < 0.1:
            await self._delete()
        elif kind < 0.15:
            await self._change_percentage()
        elif kind < 0.2:
            await self._delete_user()
        else:
            await self._change()
        self.pairs += 1

    async def _expect(self, user_id: int, slug: str, *, member: bool, after: str) -> None:
        if (slug in await self._any.get(user_id)) != member:
            self.misses.append(f"{after}: {slug} of {user_id}")

    async def _create(self) -> None:
        self._made += 1
        slug = f"S{self._number}.{self._made}"
        answer = await self._any.send("POST", "segments", {"slug": slug, "percent": 100})
        assert answer.status == 201, answer
        self._living.append(slug)
        await self._expect(self._chance.choice(self._users), slug, member=True, after="created")

    async def _delete(self) -> None:
        slug = self._living.pop(self._chance.randrange(len(self._living)))
        answer = await self._any.send("DELETE", f"segments/{slug}")
        assert answer.status == 204, answer
        await self._expect(self._chance.choice(self._users), slug, member=False, after="deleted")

    async def _change_percentage(self) -> None:
        slug, unknown = self._chance.choice(self._living), 500_000 + self._number
        percent = self._chance.choice([0, 100, None])
        answer = await self._any.send("PATCH", f"segments/{slug}", {"percent": percent})
        assert answer.status == 200, answer
        await self._expect(unknown, slug, member=percent == 100, after=f"set to {percent}")

    async def _change(self) -> None:
        user_id, slug = self._chance.choice(self._users), self._chance.choice(self._living)
        adds = self._chance.random() < 0.5
        await self._any.change(user_id, *(([slug], []) if adds else ([], [slug])))
        # What a removal leaves depends on nothing else: the percentage no longer counts, or there is none.
        await self._expect(user_id, slug, member=adds, after="added" if adds else "removed")

    async def _delete_user(self) -> None:
        user_id, slug = self._chance.choice(self._users), self._chance.choice(self._living)
        answer = await self._any.send("PATCH", f"segments/{slug}", {"percent": None})
        assert answer.status == 200, answer
        await self._any.change(user_id, [slug])
        erased = "?erase=true" if self._chance.random() < 0.5 else ""
        answer = await self._any.send("DELETE", f"users/{user_id}{erased}")
        assert answer.status == 204, answer
        await self._expect(user_id, slug, member=False, after=f"user deleted {erased}")


@pytest.mark.usefixtures("few_users")
@pytest.mark.parametrize("few_users", [500, 0], indirect=True)
@pytest.mark.parametrize("pairs", [240, pytest.param(5_000, marks=pytest.mark.proof, id="proof")])
async def test_every_read_after_a_write_shows_it_on_any_of_four_processes(
    database: Database, follower: Follower, workers: Sequence[Worker], pairs: int
) -> None:
    clients = [Client(number, workers) for number in range(4)]

    async def keep_on(client: Client) -> None:
        for _ in range(pairs // len(clients)):
            await client.act()

    async with following(follower):
        await asyncio.gather(*map(keep_on, clients))
        assert [miss for client in clients for miss in client.misses] == []

    await follower.round()
    everyone = [UserId(n * 1000 + i) for n in range(4) for i in range(1, 6)]
    stored = [[*user.segments] for user in await segments_of(database, everyone)]
    for worker in workers:
        assert await worker.replicated(*everyone) == stored
    assert sum(client.pairs for client in clients) == pairs


async def test_a_user_who_was_erased_is_gone_at_once_and_comes_back_at_once(
    follower: Follower, workers: Sequence[Worker]
) -> None:
    await workers[0].send("POST", "segments", {"slug": "A"})
    await workers[0].send("POST", "segments", {"slug": "B"})
    async with following(follower):
        for user_id in range(1, 60):
            await workers[0].change(user_id, ["A"])
            answer = await workers[1].send("DELETE", f"users/{user_id}?erase=true")
            assert answer.status == 204
            assert await workers[2].get(user_id) == []
            await workers[3].change(user_id, ["B"])
            assert await workers[0].get(user_id) == ["B"]


async def test_a_write_with_a_segment_that_another_node_made_just_now_is_shown(
    api: Api, follower: Follower, workers: Sequence[Worker], status: ReplicaStatus
) -> None:
    await follower.round()
    await api.create("MADE_ELSEWHERE")

    await workers[0].change(1, ["MADE_ELSEWHERE"])

    assert await workers[1].get(1) == ["MADE_ELSEWHERE"]
    await follower.round()
    assert await tells_its_age(workers[1], status)
    assert await workers[1].replicated(1) == [["MADE_ELSEWHERE"]]


async def test_a_change_of_many_users_is_shown_at_once_on_its_node(
    api: Api, follower: Follower, workers: Sequence[Worker]
) -> None:
    await api.create("A")
    await follower.round()
    changes = [{"user_id": user, "add": ["A"]} for user in range(1, 101)]

    answer = await workers[0].send("POST", "changes", {"changes": changes})

    assert answer.status == 200, answer
    assert await workers[1].replicated(*range(1, 101)) == [["A"]] * 100


@contextmanager
def no_room_for(worker: Worker) -> Iterator[None]:
    """The process can write no file, as when the disk is full."""
    before = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits another process")
async def test_a_write_that_the_replica_cannot_take_succeeds_and_is_read_from_the_database(
    api: Api, follower: Follower, workers: Sequence[Worker], status: ReplicaStatus
) -> None:
    await api.create("A")
    await api.create("B")
    await follower.round()
    await workers[0].change(1, ["A"])
    assert status.spoilt_at == 0

    with no_room_for(workers[0]):
        await workers[0].change(1, ["B"])
        answer = await workers[0].send("POST", "segments", {"slug": "ALL", "percent": 100})

        assert answer.status == 201
        assert status.spoilt_at > status.fresh_at
        for worker in workers:
            assert await worker.age() is None
            assert await worker.get(1) == ["A", "ALL", "B"]

    await follower.round()
    for worker in workers:
        assert await tells_its_age(worker, status)
        assert await worker.replicated(1) == [["A", "ALL", "B"]]
        await worker.change(2, ["A"])
        assert await worker.get(2) == ["A", "ALL"]
        await worker.change(2, ["A"])
    assert status.spoilt_at < status.fresh_at


async def test_a_round_that_began_before_a_write_that_is_not_shown_makes_nothing_good(
    follower: Follower, worker: Worker, status: ReplicaStatus
) -> None:
    await follower.round()
    status.spoilt_at = boot_time()
    assert await worker.age() is None

    status.fresh_at = status.spoilt_at
    assert await worker.age() is None
    status.fresh_at = status.spoilt_at + 1
    assert await tells_its_age(worker, status)


async def test_before_there_is_a_replica_the_database_answers_reads_and_writes(
    api: Api, workers: Sequence[Worker]
) -> None:
    await api.create("A")

    await workers[0].change(1, ["A"])

    assert await workers[1].get(1) == ["A"]
