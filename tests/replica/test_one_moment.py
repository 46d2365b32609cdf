"""What a reader sees is one moment of the database: users and segments go together, and nothing goes back."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from segmentd.domain.access import Actor
from segmentd.domain.identifiers import Slug, UserId
from segmentd.domain.memberships import Addition, Change
from segmentd.replica.catalog import CatalogState
from segmentd.replica.follower import Follower
from segmentd.replica.replica import Replica
from segmentd.replica.status import ReplicaStatus
from segmentd.replica.store import Store
from segmentd.storage import changes, users
from segmentd.storage.changes import Wanted
from segmentd.storage.database import Database
from segmentd.storage.replication import Feed, OwnWrite, Position, Snapshot, UserState
from tests.support.client import Api
from tests.support.rows import Rows
from tests.support.workers import Worker, replicas, tells_its_age

ME = Actor("me", None)


def watched(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> list[list[list[str]]]:
    """What users 1 and 2 are shown in, before each reading of states and after each write into a replica."""
    seen: list[list[list[str]]] = []
    states, put = Feed.states, Store.put

    async def looked_at(feed: Feed, user_ids: Sequence[UserId]) -> Sequence[UserState]:
        seen.append(await worker.replicated(1, 2))
        return await states(feed, user_ids)

    def written(
        store: Store,
        states: Iterable[tuple[int, bytes]],
        facts: Iterable[tuple[bytes, bytes]] = (),
        catalog: CatalogState | None = None,
    ) -> None:
        put(store, states, facts, catalog)
        seen.append(worker.replicated_now(1, 2))

    monkeypatch.setattr(Feed, "states", looked_at)
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


@pytest.mark.parametrize(("limit", "value"), [("MOMENT_USERS", 9), ("MOMENT_BYTES", 100)])
async def test_more_than_one_transaction_may_hold_goes_into_a_new_replica(
    api: Api,
    follower: Follower,
    worker: Worker,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    value: int,
) -> None:
    await api.create("A", percent=0)
    await follower.round()
    [old] = replicas(folder)
    for user_id in range(1, 11):
        await api.remove(user_id, "A")
    await follower.round()
    assert replicas(folder) == [old]
    for user_id in range(1, 11):
        await api.add(user_id, "A")
    await api.change_segment("A", percent=100)
    monkeypatch.setattr(f"segmentd.replica.moments.{limit}", value)

    await follower.round()

    assert not old.exists()
    assert await worker.replicated(1, 10, 11) == [["A"]] * 3


async def rebuilt(follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round that makes a new replica, for something has changed."""
    with monkeypatch.context() as patch:
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

    assert await worker.age() == 0
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
    clock = Feed.clock

    async def shown_now(feed: Feed) -> int:
        if status.filling:
            await worker.show_user(1, paused)
        return await clock(feed)

    monkeypatch.setattr(Feed, "clock", shown_now)
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
    users_changed_since = Feed.users_changed_since

    async def too_late(feed: Feed, snapshot: Snapshot, limit: int | None) -> Sequence[UserId]:
        if status.filling:
            await worker.change(1, ["A"])
        return await users_changed_since(feed, snapshot, limit)

    monkeypatch.setattr(Feed, "users_changed_since", too_late)
    await rebuilt(follower, monkeypatch)

    assert await worker.replicated(1) == [["A"]]


async def test_a_cancelled_request_leaves_no_replica_that_lacks_the_changed_segments(
    database: Database, folder: Path, status: ReplicaStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def hangs(_: Feed) -> Position:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(Feed, "position", hangs)
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
