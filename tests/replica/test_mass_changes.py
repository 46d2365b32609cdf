"""In a mass change the replica stays fresh: it knows who changed, and only of those asks the database."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from segmentd.domain.errors import Unavailable
from segmentd.domain.identifiers import UserId
from segmentd.observability.metrics import Metrics
from segmentd.replica.behind import Outdated
from segmentd.replica.fallback import Fallback
from segmentd.replica.files import Unusable
from segmentd.replica.follower import Follower
from segmentd.replica.node import Node
from segmentd.replica.notifications import Notifier
from segmentd.replica.replica import Replica
from segmentd.replica.status import ReplicaStatus, boot_time
from segmentd.replica.watching import Watchers
from segmentd.storage.database import Database
from segmentd.storage.memberships import look_up, segments_of
from segmentd.storage.replication import ChangedUsers, Reading, UserState
from segmentd.storage.snapshots import Window
from segmentd.storage.upkeep import settle_deleted_segments, settle_due_terms
from tests.support.client import Api
from tests.support.clock import Clock
from tests.support.rows import Rows
from tests.support.workers import Worker, replicas, tells_its_age

SECOND = 1_000_000
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
EVERYONE = 30_000

# As bulk changes do it: all users of a range in one transaction, a few statements for all of them.
ADD = """
    WITH users AS (
        INSERT INTO users AS u (id, registered_at, last_at)
        SELECT n, clock_instant(), clock_instant() FROM generate_series(%(first)s::bigint, %(last)s) n
        ON CONFLICT (id) DO UPDATE SET version = u.version + 1
        RETURNING id
    ), events AS (
        INSERT INTO membership_events (user_id, segment_id, at, operation, effective, cause, actor, until)
        SELECT id, %(segment)s, clock_instant(), 'add', true, 'request', 'me', %(until)s FROM users
    )
    INSERT INTO memberships (user_id, segment_id, included, since, until)
    SELECT id, %(segment)s, true, clock_instant() - interval '1 second', %(until)s FROM users
"""


def add(rows: Rows, slug: str, first: int, last: int, until: object = None) -> None:
    """Adds all users of a range to a segment."""
    [segment] = rows.column("SELECT id FROM segments WHERE slug = %s", slug)
    rows.run(ADD, segment=segment, first=first, last=last, until=until)


async def catch_up(follower: Follower, status: ReplicaStatus) -> None:
    """Rounds until nobody is behind."""
    await follower.round()
    while status.behind:
        await follower.round()


async def assert_equal(database: Database, worker: Worker, *user_ids: int) -> None:
    stored = await segments_of(database, [UserId(user_id) for user_id in user_ids])
    assert await worker.replicated(*user_ids) == [[*user.segments] for user in stored]


@pytest.fixture
async def alone(http_processes: Sequence[Worker], folder: Path, database_url: str) -> AsyncIterator[Worker]:
    """Another process of the node, which cannot reach the database: it answers from the replica, or not."""
    async with http_processes[1].open_node(
        NOWHERE, folder, patience_s=0.2, access_url=database_url
    ) as worker:
        yield worker


def too_old(status: ReplicaStatus) -> None:
    """The states of before are too old to be answers: the database is asked at once of users who change."""
    status.fresh_at = boot_time() - 60 * SECOND


async def read(worker: Worker, *user_ids: int) -> tuple[int, list[list[str]]]:
    """The age and the segments of several users, by a lookup, or by a read where there is only one."""
    if len(user_ids) > 1:
        answer = await worker.send("POST", "lookup", {"user_ids": user_ids})
        assert answer.status == 200, answer
        users: list[dict[str, Any]] = json.loads(answer.body)["users"]
        assert [user["user_id"] for user in users] == [*user_ids]
        return int(answer.headers["age"]), [user["segments"] for user in users]
    answer = await worker.send("GET", f"users/{user_ids[0]}/segments")
    assert answer.status == 200, answer
    return int(answer.headers["age"]), [json.loads(answer.body)["segments"]]


async def test_during_a_mass_change_the_database_is_asked_of_the_changed_users_alone(
    api: Api,
    follower: Follower,
    folder: Path,
    worker: Worker,
    alone: Worker,
    status: ReplicaStatus,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed, unchanged = range(1, EVERYONE // 2 + 1), range(EVERYONE // 2 + 1, EVERYONE + 1)
    await api.create("A")
    await api.create("B")
    add(rows, "A", 1, EVERYONE)
    await catch_up(follower, status)
    made = replicas(folder)
    too_old(status)
    add(rows, "B", changed[0], changed[-1])
    with monkeypatch.context() as patch:
        patch.setattr("segmentd.replica.renewal.WORK_SECONDS", 0)

        for extra in range(3):  # new changes are shown while the earlier ones are not written yet
            await follower.round()
            assert status.behind == len(changed)
            assert boot_time() - status.fresh_at < 5 * SECOND
            assert await tells_its_age(alone, status)
            assert (await read(alone, *unchanged[100:900]))[1] == [["A"]] * 800
            assert (await read(alone, unchanged[-1]))[1] == [["A"]]
            assert await alone.replicated(*unchanged[: extra + 1]) == [["A", "B"]] * extra + [["A"]]
            await api.add(unchanged[extra], "B")
        with pytest.raises(Unusable):
            await alone.replicated(changed[7])
        for user_id in changed[::3000]:
            assert await read(worker, user_id) == (0, [["A", "B"]])
        # One lookup of both kinds, and somebody twice.
        mixed = [changed[5], unchanged[500], changed[5], unchanged[501]]
        assert (await read(worker, *mixed))[1] == [["A", "B"], ["A"]] * 2

    await catch_up(follower, status)
    assert replicas(folder) == made
    assert await alone.replicated(*changed[::31]) == [["A", "B"]] * len(changed[::31])
    assert await alone.replicated(*unchanged[3::31]) == [["A"]] * len(unchanged[3::31])


async def test_states_are_read_ahead_in_bounded_batches_after_the_replica_is_fresh(
    api: Api,
    follower: Follower,
    worker: Worker,
    status: ReplicaStatus,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("segmentd.replica.renewal.BATCH_USERS", 250)
    monkeypatch.setattr("segmentd.replica.renewal.WORK_SECONDS", 3600)
    await api.create("A")
    await api.create("B")
    add(rows, "A", 1, 3000)
    await catch_up(follower, status)
    too_old(status)
    add(rows, "B", 1, 3000)
    begun = boot_time()
    behind: list[int] = []
    states = Reading.states

    async def watched(reading: Reading, user_ids: Sequence[UserId]) -> Sequence[UserState]:
        assert len(user_ids) == 250
        assert status.fresh_at >= begun
        behind.append(status.behind)
        for user_id in (1, user_ids[0], user_ids[-1]):
            assert await worker.get(user_id) == ["A", "B"]
        return await states(reading, user_ids)

    monkeypatch.setattr(Reading, "states", watched)
    await follower.round()

    # The first batch is being read; each further one while the one before is not written yet.
    assert behind == [3000, *range(3000, 250, -250)]
    assert status.behind == 0


async def test_a_round_that_takes_too_long_leaves_the_rest_to_the_next_one(
    api: Api,
    database: Database,
    follower: Follower,
    worker: Worker,
    status: ReplicaStatus,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("segmentd.replica.moments.FEW_USERS", 0)
    monkeypatch.setattr("segmentd.replica.renewal.BATCH_USERS", 100)
    await api.create("A")
    await follower.round()
    add(rows, "A", 1, 1000)
    states = Reading.states

    async def slow(reading: Reading, user_ids: Sequence[UserId]) -> Sequence[UserState]:
        await asyncio.sleep(0.05)
        return await states(reading, user_ids)

    monkeypatch.setattr(Reading, "states", slow)
    monkeypatch.setattr("segmentd.replica.renewal.WORK_SECONDS", 0.01)
    behind: list[int] = []
    shown: list[int] = []
    for _ in range(3):
        before = boot_time()
        await follower.round()
        behind.append(status.behind)
        shown.append(status.fresh_at)
        assert status.fresh_at >= before
        # The round found this one too: it goes on behind the place that it had reached.
        await api.add(1, {"slug": "A", "ttl_seconds": 60 + len(shown)})
    monkeypatch.setattr("segmentd.replica.renewal.WORK_SECONDS", 3600)
    assert behind == sorted(behind, reverse=True)
    assert 1000 > behind[0] > behind[-1] > 0

    await catch_up(follower, status)

    assert shown == sorted(shown)
    await assert_equal(database, worker, *range(1, 1000, 7))


async def test_ends_of_terms_and_deleted_segments_send_nobody_to_the_database_when_they_are_written_down(
    api: Api,
    database: Database,
    clock: Clock,
    follower: Follower,
    alone: Worker,
    status: ReplicaStatus,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for slug in ("A", "GONE", "TERM"):
        await api.create(slug)
    add(rows, "A", 1, 3000)
    add(rows, "GONE", 1, 2000)
    add(rows, "TERM", 1001, 3000, clock.now())
    await api.delete("segments/GONE")
    clock.advance(seconds=1)
    await catch_up(follower, status)
    assert await settle_due_terms(database) == 2000
    assert await settle_deleted_segments(database) == 1000
    with monkeypatch.context() as patch:
        patch.setattr("segmentd.replica.renewal.WORK_SECONDS", 0)

        await follower.round()

        assert status.behind == 3000
        assert await alone.replicated(*range(1, 3001)) == [["A"]] * 3000
        await api.remove(1, "A")  # this one's answer changes
        await follower.round()
        await api.remove(3000, "A")
        monkeypatch.setattr("segmentd.replica.moments.FEW_USERS", 0)
        await follower.round()
        assert await alone.replicated(1, 2, 2999) == [[], ["A"], ["A"]]
        with pytest.raises(Unusable):
            await alone.replicated(3000)

    await catch_up(follower, status)
    await assert_equal(database, alone, *range(1, 3001, 7), 3000)


@pytest.fixture
async def changing(
    api: Api, follower: Follower, status: ReplicaStatus, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], Awaitable[None]]:
    """Users 1 and 2 are in A. Then 1 gets into B as well, so many seconds after the replica was fresh.

    The replica knows that there was a change, and its next rounds do not write it.
    """
    monkeypatch.setattr("segmentd.replica.moments.FEW_USERS", 0)
    for slug in ("A", "B"):
        await api.create(slug)
    for user_id in (1, 2):
        await api.add(user_id, "A")
    await catch_up(follower, status)

    async def change(seconds: int) -> None:
        monkeypatch.setattr("segmentd.replica.renewal.WORK_SECONDS", 0)
        await api.add(1, "B")
        status.fresh_at = boot_time() - seconds * SECOND
        await follower.round()

    return change


async def test_a_user_who_changed_just_now_is_answered_as_before_with_the_age_of_that(
    changing: Callable[[int], Awaitable[None]],
    api: Api,
    follower: Follower,
    worker: Worker,
    alone: Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await changing(2)
    for process in (worker, alone):
        assert (await read(process, 2))[1] == [["A"]]
        for users in ((1,), (1, 2)):
            age, segments = await read(process, *users)
            assert age >= 2
            assert segments == [["A"]] * len(users)

    await worker.change(1, ["B"])  # which changes nothing, but what is committed here is shown here
    assert (await read(worker, 1))[1] == [["A", "B"]]
    await api.change_segment("A", slug="Z")  # this segment was never together with the state of before
    await follower.round()
    assert await read(worker, 1) == (0, [["B", "Z"]])
    assert (await alone.send("GET", "users/1/segments")).status == 503
    assert (await read(alone, 2))[1] == [["Z"]]

    monkeypatch.setattr("segmentd.replica.renewal.WORK_SECONDS", 3600)
    await follower.round()
    assert (await read(alone, 1))[1] == [["B", "Z"]]


async def test_when_that_is_too_old_the_database_is_asked_of_this_user_alone(
    changing: Callable[[int], Awaitable[None]], worker: Worker, alone: Worker
) -> None:
    await changing(60)

    assert await read(worker, 1) == (0, [["A", "B"]])
    assert (await read(worker, 1, 2))[1] == [["A", "B"], ["A"]]
    assert (await read(alone, 2))[1] == [["A"]]
    for method, path, body in (("GET", "users/1/segments", None), ("POST", "lookup", {"user_ids": [2, 1]})):
        assert (await alone.send(method, path, body)).status == 503


@pytest.mark.parametrize("serve_stale", [False, True])
async def test_without_the_database_an_operator_may_choose_the_state_of_before_however_old(
    changing: Callable[[int], Awaitable[None]],
    follower: Follower,
    folder: Path,
    status: ReplicaStatus,
    *,
    serve_stale: bool,
) -> None:
    await changing(60)
    follower.close()
    async with Database(NOWHERE) as away:
        with closing(Replica(folder, 50)) as replica:
            node = Node(replica, Notifier(away), Watchers(replica), serve_stale, Fallback(2), Metrics())
            answering = node.look_up([UserId(1), UserId(2)], partial(look_up, away))
            if serve_stale:
                age, found = await answering
                assert 60 <= age <= 120
                assert found == [b'"A"'] * 2
            else:
                with pytest.raises(Unavailable):
                    await answering
            status.spoilt_at = boot_time() - 59 * SECOND  # an own write that the old state lacks
            with pytest.raises(Unavailable):
                await node.look_up([UserId(1)], partial(look_up, away))


async def test_after_a_start_of_the_machine_the_times_of_before_it_say_nothing(
    changing: Callable[[int], Awaitable[None]], follower: Follower, folder: Path, database: Database
) -> None:
    await changing(1)
    follower.close()
    (folder / "status").unlink()

    with closing(Follower(database, folder)) as next_follower:
        await next_follower.round()

    with closing(Replica(folder, 50)) as replica:
        assert replica.age() is not None
        assert replica.segments(2) == b'"A"'
        with pytest.raises(Outdated) as caught:
            replica.segments(1)
        assert replica.older(caught.value) is None


async def test_while_another_replica_is_built_the_present_one_stays_fresh_and_no_own_write_is_lost(
    api: Api,
    database: Database,
    folder: Path,
    follower: Follower,
    worker: Worker,
    status: ReplicaStatus,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("segmentd.replica.follower.SMALLEST_REBUILD", 1000)
    monkeypatch.setattr("segmentd.replica.follower.WHILE_BUILDING_SECONDS", 0.01)
    await api.create("A")
    await api.create("B")
    await api.create("OWN")
    add(rows, "A", 1, 3000)
    await follower.round()
    [old] = replicas(folder)
    too_old(status)
    add(rows, "B", 1, 2999)
    begun: list[str] = []
    all_states, changed_users = Reading.all_states, Reading.changed_users

    async def fresher() -> None:
        before = status.fresh_at
        while status.fresh_at == before:  # noqa: ASYNC110 - the follower makes it fresher
            await asyncio.sleep(0.01)

    async def filling(reading: Reading) -> AsyncGenerator[list[tuple[bytes, bytes]]]:
        states = [state async for batch in all_states(reading) for state in batch]
        for number in (500, 1500, 2500):
            yield states[number - 500 : number]
            begun.append("filling")
            await fresher()
            assert await worker.replicated(3000) == [["A"]]
            assert await worker.get(number) == ["A", "B"]
            # Before and behind the place that was reached.
            await worker.change(number - 400, ["OWN"])
            await worker.change(number + 400, ["OWN"])
            await worker.change(5000 + number, ["OWN"])
            yield states[number : number + 500]

    async def catching_up(reading: Reading, window: Window) -> AsyncGenerator[ChangedUsers]:
        if status.filling:
            begun.append("catching up")
            # After the snapshot: this write reaches the new replica only as an own write.
            await worker.change(7, ["OWN"])
            await worker.change(9000, ["OWN"])
            assert await worker.get(9000) == ["OWN"]
        async for changed in changed_users(reading, window):
            yield changed

    monkeypatch.setattr(Reading, "all_states", filling)
    monkeypatch.setattr(Reading, "changed_users", catching_up)
    await follower.round()

    assert begun == ["filling", "filling", "filling", "catching up"]
    assert not old.exists()
    assert status.filling == status.behind == 0
    await assert_equal(database, worker, *range(1, 3001), 5500, 6500, 7500, 9000)
    assert await worker.get(7) == ["A", "B", "OWN"]
    assert await worker.get(9000) == ["OWN"]
    if sys.platform == "linux":  # the room that the removed replica took is free again
        assert [link for link in open_replicas(worker.pid) if "(deleted)" in link] == []


def open_replicas(pid: int) -> list[str]:
    found: list[str] = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(path.readlink()))
    return [link for link in found if "replica-" in link]


async def test_a_measure_is_a_share_of_the_users_where_they_are_many(
    api: Api,
    folder: Path,
    follower: Follower,
    worker: Worker,
    status: ReplicaStatus,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("segmentd.replica.follower.SMALLEST_REBUILD", 10)
    await api.create("A")
    await api.create("B")
    add(rows, "A", 1, 3000)
    await follower.round()
    [first] = replicas(folder)

    add(rows, "B", 1, 800)  # more than 10, and less than 30 % of 3,000
    await catch_up(follower, status)

    assert replicas(folder) == [first]
    assert await worker.replicated(800, 801) == [["A", "B"], ["A"]]
    add(rows, "B", 801, 3000)
    await follower.round()
    assert replicas(folder) != [first]
    assert await worker.replicated(99, 2000) == [["A", "B"]] * 2


async def test_bulk_changes_wait_until_the_replica_has_kept_up(
    api: Api, follower: Follower, status: ReplicaStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmentd.replica.moments.FEW_USERS", 0)
    await follower.keep_pace()  # there is no replica yet
    await api.create("A")
    await catch_up(follower, status)
    await follower.round()
    await follower.keep_pace()
    await api.add(1, "A")
    status.fresh_at = boot_time() - 3 * SECOND
    with monkeypatch.context() as patch:
        patch.setattr("segmentd.replica.renewal.WORK_SECONDS", 0)
        await follower.round()
    waiting = asyncio.create_task(follower.keep_pace())
    await follower.keep_pace(patience_s=0.1)
    assert not waiting.done()

    await follower.round()  # it ends the walk that began while the state was old
    await follower.round()
    await waiting
