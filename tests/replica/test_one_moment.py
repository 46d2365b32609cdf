"""What a reader sees is one moment of the database: users and segments go together, and nothing goes back."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from segmentd.domain.access import Actor
from segmentd.domain.identifiers import Slug, UserId
from segmentd.domain.memberships import Addition, Change
from segmentd.replica.behind import Outdated
from segmentd.replica.catalog import CatalogState
from segmentd.replica.files import Unusable
from segmentd.replica.follower import Follower
from segmentd.replica.keys import KEY
from segmentd.replica.replica import Replica
from segmentd.replica.status import ReplicaStatus
from segmentd.replica.store import Store
from segmentd.storage import changes, users
from segmentd.storage.changes import Wanted
from segmentd.storage.database import Database
from segmentd.storage.replication import ChangedUsers, OwnWrite, Position, Reading, UserState
from segmentd.storage.snapshots import Window
from tests.support.client import Api
from tests.support.rows import Rows
from tests.support.workers import Worker, replicas, tells_its_age

ME = Actor("me", None)


def watched(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> list[list[list[str]]]:
    """What users 1 and 2 are shown in, before each reading of states and after each write into a replica."""
    seen: list[list[list[str]]] = []
    states, put = Reading.states, Store.put

    async def looked_at(reading: Reading, user_ids: Sequence[UserId]) -> Sequence[UserState]:
        seen.append(await worker.replicated(1, 2))
        return await states(reading, user_ids)

    def written(
        store: Store,
        states: Iterable[tuple[int, bytes]],
        facts: Iterable[tuple[bytes, bytes]] = (),
        catalog: CatalogState | None = None,
    ) -> None:
        put(store, states, facts, catalog)
        seen.append(worker.replicated_now(1, 2))

    monkeypatch.setattr(Reading, "states", looked_at)
    monkeypatch.setattr(Store, "put", written)
    return seen


async def test_who_was_excluded_before_a_percentage_came_is_never_shown_in(
    api: Api, follower: Follower, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.create("A", percent=0)
    await follower.round()
    seen = watched(worker, monkeypatch)
    await api.remove(1, "A")
    await api.change_segment("A", percent=100)

    await follower.round()

    assert [*dict.fromkeys(map(str, seen))] == ["[[], []]", "[[], ['A']]"]


async def test_whose_exclusion_went_after_the_percentage_had_ended_is_never_shown_in(
    api: Api, follower: Follower, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.create("A", percent=100)
    await api.remove(1, "A")
    await follower.round()
    seen = watched(worker, monkeypatch)
    await api.change_segment("A", percent=None)
    await api.delete("users/1")

    await follower.round()

    assert [*dict.fromkeys(map(str, seen))] == ["[[], ['A']]", "[[], []]"]


async def test_who_moved_to_a_new_segment_in_one_change_is_never_shown_in_neither(
    api: Api, follower: Follower, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.create("OLD")
    await api.change(1, add=["OLD"])
    await follower.round()
    seen = watched(worker, monkeypatch)
    await api.create("NEW")
    await api.change(1, add=["NEW"], remove=["OLD"])

    await follower.round()

    assert [*dict.fromkeys(map(str, seen))] == ["[['OLD'], []]", "[['NEW'], []]"]


async def test_a_process_that_changes_a_segment_shows_the_users_of_that_moment_too(
    api: Api, follower: Follower, worker: Worker
) -> None:
    await api.create("A", percent=0)
    await follower.round()
    await api.remove(1, "A")  # on another node

    answer = await worker.send("PATCH", "segments/A", {"percent": 100})

    assert answer.status == 200
    assert await worker.age() is not None
    assert await worker.replicated(1, 2) == [[], ["A"]]


async def test_an_own_write_after_a_change_of_segments_elsewhere_is_not_shown_with_the_segments_of_before(
    api: Api, follower: Follower, worker: Worker, status: ReplicaStatus
) -> None:
    await api.create("A", percent=100)
    await api.remove(1, "A")
    await follower.round()
    await api.change_segment("A", percent=None)  # on another node

    assert (await worker.send("DELETE", "users/1")).status == 204

    assert await worker.get(1) == []
    await follower.round()
    assert await tells_its_age(worker, status)
    assert await worker.replicated(1) == [[]]


async def test_of_more_users_than_are_written_at_once_the_database_is_asked_in_that_moment(
    api: Api,
    follower: Follower,
    worker: Worker,
    folder: Path,
    status: ReplicaStatus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await api.create("A", percent=0)
    await api.add(20, "A")
    await follower.round()
    [old] = replicas(folder)
    for user_id in range(1, 11):
        await api.remove(user_id, "A")
    await api.change_segment("A", percent=100)
    monkeypatch.setattr("segmentd.replica.moments.FEW_USERS", 9)
    monkeypatch.setattr("segmentd.replica.renewal.WORK_SECONDS", 0)

    await follower.round()

    assert replicas(folder) == [old]
    assert await tells_its_age(worker, status)
    assert await worker.replicated(11, 20) == [["A"]] * 2
    with pytest.raises(Unusable):
        await worker.replicated(10)
    assert [await worker.get(user_id) for user_id in (1, 10)] == [[], []]


async def test_a_process_that_changes_a_segment_leaves_many_changed_users_to_the_database_and_the_follower(
    database: Database, api: Api, worker: Worker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.create("A", percent=0)
    with closing(Follower(database, folder)) as follower:
        await follower.round()
    for user_id in range(1, 11):
        await api.remove(user_id, "A")
    await api.change_segment("A", percent=100)
    monkeypatch.setattr("segmentd.replica.moments.FEW_USERS", 9)
    with closing(Replica(folder, 50)) as replica:
        await replica.show_segments(database)

        assert replica.segments(11) == b'"A"'
        with pytest.raises(Outdated):
            replica.segments(10)
        monkeypatch.setattr("segmentd.replica.moments.MOST_USERS_OF_A_PROCESS", 9)
        await api.change_segment("A", percent=99)
        await replica.show_segments(database)
        assert replica.age() is None

    with closing(Follower(database, folder)) as follower:
        await follower.round()
        assert await worker.age() is not None
        assert await worker.replicated(10) == [[]]


def test_states_older_than_the_segments_leave_those_who_need_newer_ones_to_the_database(
    tmp_path: Path,
) -> None:
    with closing(Store(tmp_path / "replica-1.lmdb")) as store:
        store.put_catalog(CatalogState(1, []))
        store.mark([KEY.pack(1), KEY.pack(2)], [], fresh_at=7)
        # Another process changed a segment, and user 2 in the same moment.
        store.mark_in_need([KEY.pack(2)], version=2)
        store.put_catalog(CatalogState(2, []))

        store.renew([1, 2], [], version=1)

        assert store.outdated_after(0, 10) == [2]
        store.renew([2], [], version=2)
        assert store.outdated_after(0, 10) == []


async def rebuilt(follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round that makes a new replica, for something has changed."""
    with monkeypatch.context() as patch:
        patch.setattr("segmentd.replica.moments.FEW_USERS", 0)
        patch.setattr("segmentd.replica.follower.SMALLEST_REBUILD", 0)
        patch.setattr("segmentd.replica.follower.REBUILD_SHARE", 0)
        await follower.round()


async def added(database: Database) -> OwnWrite:
    """A process of this node adds user 1 to A, and is paused before it shows that."""
    change = Change((Addition(Slug("A")),), (), None)
    [applied] = await changes.change_together(database, [Wanted(UserId(1), change, ME)])
    return applied.write


Gone = Callable[[Api, Rows], Awaitable[None]]


async def removed(api: Api, _: Rows) -> None:
    await api.remove(1, "A")


async def deleted(api: Api, _: Rows) -> None:
    await api.delete("users/1")


async def erased(api: Api, _: Rows) -> None:
    await api.delete("users/1?erase=true")


async def erased_and_forgotten(api: Api, rows: Rows) -> None:
    await api.delete("users/1?erase=true")
    rows.run("DELETE FROM erasures")


@pytest.mark.parametrize("gone", [removed, deleted, erased, erased_and_forgotten])
async def test_a_new_replica_does_not_take_an_older_own_write_for_the_newest(
    api: Api,
    database: Database,
    follower: Follower,
    worker: Worker,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    gone: Gone,
) -> None:
    await api.create("A")
    await follower.round()
    paused = await added(database)
    await gone(api, rows)
    await rebuilt(follower, monkeypatch)

    await worker.show_user(1, paused)

    assert await worker.age() is not None
    assert await worker.replicated(1) == [[]]


async def test_a_resumed_replica_does_not_take_an_older_own_write_for_the_newest(
    api: Api, database: Database, folder: Path, worker: Worker
) -> None:
    await api.create("A")
    paused = await added(database)
    await api.remove(1, "A")
    for _ in range(2):
        with closing(Follower(database, folder)) as follower:
            await follower.round()

            await worker.show_user(1, paused)

            assert await worker.replicated(1) == [[]]


async def test_a_replica_that_is_being_built_does_not_take_an_older_own_write_for_the_newest(
    api: Api,
    database: Database,
    follower: Follower,
    worker: Worker,
    status: ReplicaStatus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await api.create("A")
    await follower.round()
    paused = await added(database)
    await api.remove(1, "A")
    clock = Reading.clock

    async def shown_now(reading: Reading) -> int:
        if status.filling:
            await worker.show_user(1, paused)
        return await clock(reading)

    monkeypatch.setattr(Reading, "clock", shown_now)
    await rebuilt(follower, monkeypatch)

    assert await worker.replicated(1) == [[]]


async def test_an_own_write_that_the_new_replica_has_not_seen_is_shown_in_it(
    api: Api,
    follower: Follower,
    worker: Worker,
    status: ReplicaStatus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await api.create("A")
    await follower.round()
    await api.add(2, "A")
    changed_users = Reading.changed_users

    async def too_late(reading: Reading, window: Window) -> AsyncGenerator[ChangedUsers]:
        if status.filling:
            await worker.change(1, ["A"])
        async for changed in changed_users(reading, window):
            yield changed

    monkeypatch.setattr(Reading, "changed_users", too_late)
    await rebuilt(follower, monkeypatch)

    assert await worker.replicated(1) == [["A"]]


async def test_a_cancelled_request_leaves_no_replica_that_lacks_the_changed_segments(
    database: Database, folder: Path, status: ReplicaStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def hangs(_: Reading) -> Position:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(Reading, "position", hangs)
    status.serving = 1
    with closing(Replica(folder, 50)) as replica:
        showing = asyncio.create_task(replica.show_segments(database))
        async with asyncio.timeout(60):
            await asked.wait()
        assert status.spoilt_at == 0

        showing.cancel()
        await asyncio.wait([showing])

    assert showing.cancelled()
    assert status.spoilt_at > 0


async def test_erasing_and_deleting_say_which_transaction_they_were(
    api: Api, database: Database, follower: Follower, worker: Worker
) -> None:
    await api.create("A")
    await api.add(1, "A")
    await api.add(2, "A")
    await follower.round()

    await worker.show_user(1, await users.delete(database, UserId(1), ME))
    await worker.show_user(2, await users.erase(database, UserId(2), ME))

    assert await worker.replicated(1, 2) == [[], []]
