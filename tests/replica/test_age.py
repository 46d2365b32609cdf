"""How old an answer may be, what answers if the replica is older, and what clients see of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from segmentd.config import Settings
from segmentd.domain.errors import Unavailable
from segmentd.observability.metrics import Metrics
from segmentd.replica.fallback import Fallback
from segmentd.replica.follower import Follower
from segmentd.replica.node import Node
from segmentd.replica.notifications import Notifier
from segmentd.replica.replica import Replica
from segmentd.replica.status import ReplicaStatus, boot_time
from segmentd.replica.watching import Watchers
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from segmentd.storage.embedded import EmbeddedPostgres, start
from segmentd.storage.migrate import migrate
from segmentd.storage.replication import Position, Reading
from tests.support.asgi import Answer
from tests.support.client import Api
from tests.support.relay import Relay, relay_to
from tests.support.workers import Worker, eventually, tells_its_age

SECOND = 1_000_000
# Nothing listens there.
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


def segments(answer: Answer) -> list[str]:
    assert answer.status == 200, answer
    found: list[str] = json.loads(answer.body)["segments"]
    return found


async def read(worker: Worker, age_s: int | None = None, status: ReplicaStatus | None = None) -> list[str]:
    """The segments of user 1, by a read and by a lookup, from a replica of this age, or from the database."""
    answers: list[Answer] = []
    for method, path, body in (("GET", "users/1/segments", None), ("POST", "lookup", {"user_ids": [1]})):
        if age_s is None or status is None:
            answers.append(await worker.send(method, path, body))
            assert answers[-1].headers["age"] == "0"
            continue
        set_age(status, age_s)
        answers.append(await worker.send(method, path, body))
        assert age_s <= int(answers[-1].headers["age"]) <= (boot_time() - status.fresh_at) // SECOND
    one, many = answers
    assert json.loads(many.body)["users"] == [json.loads(one.body)]
    return segments(one)


def set_age(status: ReplicaStatus, seconds: float) -> None:
    status.fresh_at = boot_time() - int(seconds * SECOND)


@pytest.fixture
async def outdated(api: Api, follower: Follower, worker: Worker) -> Worker:
    """The replica knows A, the database B as well."""
    await api.create("A")
    await api.create("B")
    await api.add(1, "A")
    await follower.round()
    await api.add(1, "B")
    return worker


@pytest.mark.parametrize("age", [0, 1, 7, 45])
async def test_a_hot_answer_says_how_old_it_is(outdated: Worker, status: ReplicaStatus, age: int) -> None:
    assert await read(outdated, age, status) == ["A"]


async def test_the_age_counts_from_before_the_snapshot(
    follower: Follower, status: ReplicaStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    position = Reading.position

    async def noted(reading: Reading) -> Position:
        taken.append(boot_time())
        return await position(reading)

    await follower.round()
    monkeypatch.setattr(Reading, "position", noted)
    await follower.round()

    assert 0 < status.fresh_at < taken[0]


async def test_with_a_replica_that_is_too_old_the_database_answers(
    outdated: Worker, status: ReplicaStatus
) -> None:
    set_age(status, 50)

    assert await read(outdated) == ["A", "B"]


async def test_the_bound_is_a_setting(
    outdated: Worker, status: ReplicaStatus, database_url: str, folder: Path
) -> None:
    del outdated
    worker = Worker()
    try:
        async with worker.open_node(database_url, folder, max_age_seconds=9.5):
            assert await read(worker, 3, status) == ["A"]
            set_age(status, 9.5)
            assert await read(worker) == ["A", "B"]
    finally:
        worker.end()


async def test_without_a_replica_and_without_a_database_there_is_no_answer(
    http_process: Worker, folder: Path, database_url: str
) -> None:
    async with http_process.open_node(NOWHERE, folder, patience_s=0.2, access_url=database_url) as worker:
        answers = [
            await worker.send("GET", "users/1/segments"),
            await worker.send("POST", "lookup", {"user_ids": [1]}),
        ]

    for answer in answers:
        assert answer.status == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert json.loads(answer.body)["type"] == "/problems/unavailable"
        assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("serve_stale", [False, True])
async def test_when_the_database_is_gone_as_well_an_old_answer_is_given_only_where_the_operator_chose_so(
    api: Api,
    follower: Follower,
    status: ReplicaStatus,
    http_process: Worker,
    folder: Path,
    database_url: str,
    *,
    serve_stale: bool,
) -> None:
    await api.create("A")
    await api.add(1, "A")
    await follower.round()
    # No age here may be above the time since the machine started: the clock counts from there.
    settings: dict[str, float | bool] = {"max_age_seconds": 9.5, "serve_stale": serve_stale}
    async with http_process.open_node(
        NOWHERE, folder, patience_s=0.2, access_url=database_url, **settings
    ) as worker:
        assert await read(worker, 3, status) == ["A"]

        if serve_stale:
            assert await read(worker, 45, status) == ["A"]
        else:
            set_age(status, 45)
            assert (await worker.send("GET", "users/1/segments")).status == 503
        status.spoilt_at = boot_time()  # nor is a write ever forgotten that was answered
        assert (await worker.send("GET", "users/1/segments")).status == 503


@pytest.mark.parametrize("serve_stale", [False, True])
async def test_while_the_database_is_known_to_be_away_a_stale_replica_answers_at_once(
    folder: Path, status: ReplicaStatus, *, serve_stale: bool
) -> None:
    set_age(status, 45)
    async with Database(NOWHERE) as database:
        with closing(Replica(folder, 9.5)) as replica:
            node = Node(replica, Notifier(database), Watchers(replica), serve_stale, Fallback(10), Metrics())
            use_cases = service(database, Settings(data_dir=str(folder)), node)
            assert replica.age() is None

            async def is_known() -> bool:
                return (replica.age() is not None) == serve_stale

            async with use_cases.watching():
                with pytest.raises(Unavailable):
                    await use_cases.check_ready()
                await eventually(is_known)
            assert replica.age() is None


@pytest.fixture
async def server(used_dir: Path) -> AsyncIterator["Server"]:
    server = Server(used_dir)
    await server.start()
    try:
        await migrate(server.running.url)
        async with relay_to(server.running.url) as server.relay:
            yield server
    finally:
        await server.stop()


class Server:
    """A PostgreSQL that goes and comes back behind the service's back."""

    running: EmbeddedPostgres
    relay: Relay

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def start(self) -> None:
        self.running = await asyncio.to_thread(start, self._folder)

    async def stop(self) -> None:
        await asyncio.to_thread(self.running.stop)

    async def come_back(self) -> None:
        await self.start()
        self.relay.lead_to(self.running.url)


async def test_the_database_may_go_and_come_back_under_load_and_no_hot_read_fails(
    server: Server, folder: Path, status: ReplicaStatus, http_process: Worker
) -> None:
    url, stop, ages = server.relay.url, asyncio.Event(), list[int]()

    async def load(worker: Worker) -> None:
        while not stop.is_set():
            answer = await worker.send("GET", f"users/{1 + len(ages) % 20}/segments")
            assert segments(answer)[:1] == ["A"]
            ages.append(int(answer.headers["age"]))

    async def renewed() -> None:
        seen = status.fresh_at

        async def is_newer() -> bool:
            return status.fresh_at != seen

        await eventually(is_newer)

    async def read_often() -> bool:
        assert not loading.done(), loading.exception()
        return len(ages) > before + 200

    async with Database(url) as database, http_process.open_node(url, folder) as worker:
        with closing(Follower(database, folder)) as follower:
            assert (await worker.send("POST", "segments", {"slug": "A"})).status == 201
            assert (await worker.send("POST", "segments", {"slug": "B"})).status == 201
            for user_id in range(1, 21):
                await worker.change(user_id, ["A"])
            await follower.round()
            following = asyncio.create_task(follower.follow(stop, asyncio.Event(), 0.05))
            loading = asyncio.create_task(load(worker))

            await renewed()
            await server.stop()
            # A round that had just been answered is over by then.
            assert (await worker.send("POST", "users/1/segments", {"add": ["B"]})).status == 503
            # As if half a minute had passed.
            gone_at, before = status.fresh_at - 30 * SECOND, len(ages)
            status.fresh_at = gone_at
            await eventually(read_often)
            assert status.fresh_at == gone_at
            assert {*ages[before + 1 :]} <= {*range(30, 50)}

            await server.come_back()
            await renewed()
            await worker.change(1, ["B"])
            assert await worker.get(1) == ["A", "B"]
            assert await tells_its_age(worker, status)
            stop.set()
            await asyncio.gather(following, loading)
