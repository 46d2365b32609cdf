"""A mass change is applied while reads go on: in batches, or by rebuilding if it is very large."""

import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from segmentd.domain.identifiers import UserId
from segmentd.replica.follower import Follower
from segmentd.replica.status import ReplicaStatus
from segmentd.storage.database import Database
from segmentd.storage.memberships import segments_of
from segmentd.storage.replication import Feed, Snapshot, UserState
from tests.support.client import Api
from tests.support.rows import Rows
from tests.support.workers import Worker, replicas

USERS = range(1, 3001)
ADD_TO_ALL = """
    SELECT change_memberships(
        ARRAY [n::bigint], '{me}', '{NULL}', '{NULL}', '{1}', %s, '{t}', '{NULL}', '{NULL}', true
    )
    FROM generate_series(1, 3000) n
"""


def is_in(user_id: int, segments: Sequence[str]) -> Sequence[str]:
    """Every user was in A; B came later, as a whole for each user."""
    assert segments in (["A"], ["A", "B"]), user_id
    return segments


async def test_a_mass_change_goes_in_bounded_batches_while_reads_go_on(
    api: Api,
    database: Database,
    follower: Follower,
    worker: Worker,
    status: ReplicaStatus,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("segmentd.replica.follower.BATCH_USERS", 250)
    await api.create("A")
    await api.create("B")
    rows.run(ADD_TO_ALL, ["A"])
    await follower.round()
    rows.run(ADD_TO_ALL, ["B"])
    sizes: list[int] = []
    overdue: list[int] = []
    changed: list[int] = []
    states = Feed.states

    async def watched(feed: Feed, user_ids: Sequence[UserId]) -> Sequence[UserState]:
        sizes.append(len(user_ids))
        overdue.append(status.overdue)
        found = [is_in(user_id, await worker.get(user_id)) for user_id in USERS[:: len(USERS) // 12]]
        changed.append(sum("B" in segments for segments in found))
        return await states(feed, user_ids)

    monkeypatch.setattr(Feed, "states", watched)
    await follower.round()

    assert sizes == [250] * 12
    assert overdue == [*range(3000, 0, -250)]
    assert changed == [*range(12)]
    assert status.overdue == 0
    stored = await segments_of(database, [UserId(user_id) for user_id in USERS])
    assert await worker.replicated(*USERS) == [[*user.segments] for user in stored]


async def test_after_a_mass_change_the_replica_is_rebuilt_while_the_old_one_serves_and_no_own_write_is_lost(
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
    await api.create("A")
    await api.create("B")
    await api.create("OWN")
    rows.run(ADD_TO_ALL, ["A"])
    await follower.round()
    [old] = replicas(folder)
    rows.run(ADD_TO_ALL, ["B"])
    begun: list[str] = []
    all_states, users_changed_since = Feed.all_states, Feed.users_changed_since

    async def filling(feed: Feed) -> AsyncGenerator[list[tuple[bytes, bytes]]]:
        states = [state async for batch in all_states(feed) for state in batch]
        for number in (500, 1500, 2500):
            yield states[number - 500 : number]
            begun.append("filling")
            assert await worker.age() is not None
            assert await worker.get(3000) == ["A"]
            # Before and behind the place that was reached.
            await worker.change(number - 400, ["OWN"])
            await worker.change(number + 400, ["OWN"])
            await worker.change(5000 + number, ["OWN"])
            yield states[number : number + 500]

    async def catching_up(feed: Feed, snapshot: Snapshot, limit: int | None) -> Sequence[UserId]:
        if status.filling:
            begun.append("catching up")
            # After the snapshot: this write reaches the new replica only as an own write.
            assert await worker.get(3000) == ["A"]
            await worker.change(7, ["OWN"])
            await worker.change(9000, ["OWN"])
            assert await worker.get(9000) == ["OWN"]
        return await users_changed_since(feed, snapshot, limit)

    monkeypatch.setattr(Feed, "all_states", filling)
    monkeypatch.setattr(Feed, "users_changed_since", catching_up)
    await follower.round()

    assert begun == ["filling", "filling", "filling", "catching up"]
    assert not old.exists()
    assert status.filling == 0
    everyone = [*USERS, 5500, 6500, 7500, 9000]
    stored = await segments_of(database, [UserId(user_id) for user_id in everyone])
    assert await worker.replicated(*everyone) == [[*user.segments] for user in stored]
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
    api: Api, folder: Path, follower: Follower, worker: Worker, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmentd.replica.follower.SMALLEST_REBUILD", 10)
    await api.create("A")
    await api.create("B")
    rows.run(ADD_TO_ALL, ["A"])
    await follower.round()
    [first] = replicas(folder)

    for user_id in range(1, 100):  # more than 10, and less than 30 % of 3,000
        await api.add(user_id, "B")
    await follower.round()

    assert replicas(folder) == [first]
    assert await worker.replicated(99, 100) == [["A", "B"], ["A"]]
    rows.run(ADD_TO_ALL, ["B"])
    await follower.round()
    assert replicas(folder) != [first]
    assert await worker.replicated(99, 100) == [["A", "B"]] * 2
