"""A node that follows another one has the same replica, whatever happens to either, and is never younger."""

import asyncio
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmentd.replica import filling, neighbour_follower, notes
from segmentd.replica.catalog import CatalogState
from segmentd.replica.environment import completed
from segmentd.replica.files import Unusable
from segmentd.replica.keys import KEY
from segmentd.replica.neighbour import CopyNeeded, NeighbourAway
from segmentd.replica.neighbour_follower import NeighbourFollower
from segmentd.replica.replica import store_path
from segmentd.replica.source import Source
from segmentd.replica.status import ReplicaStatus, boot_time, status_path
from segmentd.replica.store import Store
from segmentd.storage.replication import ReplicatedSegment
from tests.support.neighbours import LocalNeighbour, SharedReplica

SECOND: Final = 1_000_000


def state(version: int) -> bytes:
    return struct.pack(">Q", version << 20)


class Near:
    """A neighbour whose replica the test writes as a follower of a database and other processes do."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.status = ReplicaStatus.open(status_path(folder))
        self.replica = SharedReplica(folder, lambda: self.store)
        self.neighbour = LocalNeighbour(Source(self.replica))
        self.number = self.version = self.writes = 0
        self.store: Store
        self.make()

    def make(self, users: int = 5) -> None:
        """Makes a replica and lets it answer; one that was there is removed."""
        if self.number:
            self.store.delete()
        self.number += 1
        self.store = Store(store_path(self._folder, self.number))
        self.writes += 1
        self.store.append([(KEY.pack(user), state(self.writes)) for user in range(1, users + 1)])
        self.store.put([], completed(), self.catalog())
        self.status.set_whole(0, self.version)
        self.status.serving = self.number
        self.fresh()

    def catalog(self) -> CatalogState:
        return CatalogState(self.version, [ReplicatedSegment(1, f"v{self.version}", 0, None)])

    def fresh(self) -> None:
        self.status.fresh_at = boot_time()

    def write(self, *users: int) -> None:
        self.writes += 1
        self.store.put([(user, state(self.writes)) for user in users])

    def change_segments(self) -> None:
        self.version += 1
        self.store.put_catalog(self.catalog())

    def mark(self, *users: int) -> None:
        """These users change, and their states are not written yet."""
        self.store.mark(map(KEY.pack, users), [], self.status.fresh_at)

    def renew(self) -> None:
        """Writes the states of all users who are behind."""
        self.writes += 1
        users = self.store.outdated_after(0, 1000)
        self.store.renew(users, [(user, state(self.writes)) for user in users], self.version)
        self.status.set_whole(0, self.version)

    def forget(self, *users: int) -> None:
        """After a fail-over: their states are removed, and are to come again."""
        self.status.set_whole(0, self.version)
        self.store.forget(users)

    def close(self) -> None:
        self.store.close()
        self.replica.close()
        self.status.close()


class Far:
    """The node that follows it."""

    def __init__(self, near: Near, folder: Path) -> None:
        self._near = near
        self._folder = folder
        self.follower = NeighbourFollower(near.neighbour, folder)
        self.status = ReplicaStatus.open(status_path(folder))

    @property
    def store(self) -> Store:
        found = self.follower.store
        assert found is not None
        return found

    def restart(self, *, in_order: bool) -> None:
        """Ends the follower, in order or as a killed process ends; another one goes on."""
        if not in_order and self.follower.store is not None:
            self.follower.store.close()
            self.follower.store = None
        self.follower.close()
        self.follower = NeighbourFollower(self._near.neighbour, self._folder)

    def is_the_same(self) -> bool:
        here, there = self.store, self._near.store
        return (everybody(here), here.fact(b"catalog")) == (everybody(there), there.fact(b"catalog"))

    def close(self) -> None:
        self.follower.close()
        self.status.close()


@pytest.fixture
def near(tmp_path: Path) -> Iterator[Near]:
    with closing(Near(tmp_path / "near")) as near:
        yield near


@pytest.fixture
def far(near: Near, tmp_path: Path) -> Iterator[Far]:
    with closing(Far(near, tmp_path / "far")) as far:
        yield far


async def test_a_copy_is_followed_by_each_change_of_users_and_segments(near: Near, far: Far) -> None:
    await far.follower.round()
    assert far.is_the_same()
    first = far.store.path

    near.write(2, 7)
    near.change_segments()
    await far.follower.round()

    assert far.is_the_same()
    assert far.store.path == first
    assert far.store.changed_since(0)[1] is None  # those who watch users here are woken


async def test_the_age_is_counted_through_and_is_never_less_than_it_is(near: Near, far: Far) -> None:
    near.status.fresh_at = boot_time() - 7 * SECOND
    near.status.clock_offset = 1234 * SECOND

    await far.follower.round()

    age, now = far.status.age(), far.status.now()
    assert age is not None
    assert 7 * SECOND <= age < 8 * SECOND
    assert far.status.fresh_at <= near.status.fresh_at
    assert abs(now - near.status.now()) < SECOND


async def test_users_who_changed_are_shown_with_the_segments_of_their_moment_or_not_at_all(
    near: Near, far: Far
) -> None:
    await far.follower.round()
    shown = everybody(far.store), far.store.fact(b"catalog")

    near.mark(1, 2)
    near.change_segments()
    near.write(3)
    following = asyncio.create_task(far.follower.round())
    await asyncio.sleep(0.2)
    assert (everybody(far.store), far.store.fact(b"catalog")) == shown
    assert not following.done()

    near.renew()
    await following
    assert far.is_the_same()


async def test_in_a_mass_change_the_replica_goes_on_with_the_age_of_its_oldest_state(
    near: Near, far: Far
) -> None:
    await far.follower.round()
    since = near.status.fresh_at
    near.mark(1, 2)
    near.status.set_whole(since, near.version)
    near.fresh()
    near.write(3)

    await far.follower.round()

    assert everybody(far.store)[KEY.pack(3)] == state(near.writes)
    assert far.status.fresh_at <= since


async def test_states_that_a_new_primary_lacks_disappear_here_too(near: Near, far: Far) -> None:
    await far.follower.round()
    near.write(3)
    await far.follower.round()

    near.forget(3)
    following = asyncio.create_task(far.follower.round())
    await asyncio.sleep(0.1)
    assert KEY.pack(3) in everybody(far.store)  # what came of it is not known yet
    near.store.renew([3], [(3, state(1))], near.version)  # an earlier version than before
    await following

    assert everybody(far.store)[KEY.pack(3)] == state(1)


@pytest.mark.parametrize("pages_left", [0, 1, 3])
async def test_a_copy_that_breaks_off_goes_on_and_has_what_changed_meanwhile(
    near: Near, far: Far, monkeypatch: pytest.MonkeyPatch, pages_left: int
) -> None:
    monkeypatch.setattr(filling, "_AFTER_BREAK_S", 0)
    users_at_once(monkeypatch, 10)
    near.make(95)
    near.neighbour.pages_left = pages_left

    def between() -> None:
        near.write(near.neighbour.pages_sent, 50, 90, 200 + near.neighbour.pages_sent)
        near.change_segments()

    near.neighbour.between = between
    await far.follower.round()
    near.neighbour.between = lambda: None
    await far.follower.round()

    assert far.is_the_same()
    assert near.neighbour.pages_sent >= 10


async def test_what_does_not_come_leaves_the_replica_as_it_is_and_growing_older(
    near: Near, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    await far.follower.round()
    fresh_at = far.status.fresh_at
    near.neighbour.is_away = True
    with pytest.raises(NeighbourAway):
        await far.follower.round()
    near.neighbour.is_away = False

    near.make()
    monkeypatch.setattr("segmentd.replica.source.FORMAT", b"segmentd replica 0")
    with pytest.raises(Unusable, match="segmentd replica 0"):
        await far.follower.round()
    assert far.status.fresh_at == fresh_at

    monkeypatch.undo()
    await far.follower.round()
    assert far.is_the_same()


async def test_after_a_new_replica_or_too_many_changes_another_copy_is_taken(
    near: Near, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    await far.follower.round()
    near.make(9)
    await far.follower.round()
    assert far.is_the_same()

    monkeypatch.setattr(notes, "MOST_BYTES", 4096)
    for _ in range(400):
        near.write(1)
    assert near.store.changes(0, None) is None
    sent = near.neighbour.pages_sent
    await far.follower.round()
    assert near.neighbour.pages_sent > sent
    assert far.is_the_same()

    near.write(1, 2, 3)
    monkeypatch.setattr(neighbour_follower, "MOST_PENDING_BYTES", 40)
    sent = near.neighbour.pages_sent
    await far.follower.round()
    assert near.neighbour.pages_sent > sent
    assert far.is_the_same()


async def test_one_who_follows_a_follower_has_the_same_and_is_older(
    near: Near, far: Far, tmp_path: Path
) -> None:
    await far.follower.round()
    middle = SharedReplica(tmp_path / "far", lambda: far.store)
    end = NeighbourFollower(LocalNeighbour(Source(middle)), tmp_path / "end")
    with closing(middle), closing(end), closing(ReplicaStatus.open(status_path(tmp_path / "end"))) as status:
        await end.round()
        near.write(4)
        near.change_segments()
        await far.follower.round()
        await end.round()

        assert end.store is not None
        assert everybody(end.store) == everybody(near.store)
        assert status.fresh_at <= far.status.fresh_at <= near.status.fresh_at


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(st.integers(1, 40), min_size=1, max_size=8)),
        st.tuples(st.just("mark"), st.lists(st.integers(1, 40), min_size=1, max_size=8)),
        st.tuples(st.just("forget"), st.lists(st.integers(1, 40), min_size=1, max_size=3)),
        st.tuples(
            st.sampled_from(["segments", "renew", "make", "restart", "kill", "away", "break", "round"]),
            st.just([]),
        ),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_whatever_happens_to_either_the_replicas_are_the_same_in_the_end(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, list[int]]]
) -> None:
    folder = tmp_path_factory.mktemp("story")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filling, "_AFTER_BREAK_S", 0)
        patch.setattr(notes, "MOST_BYTES", 8192)
        users_at_once(patch, 7)
        with closing(Near(folder / "near")) as near, closing(Far(near, folder / "far")) as far:
            asyncio.run(live(near, far, steps))


async def live(near: Near, far: Far, steps: list[tuple[str, list[int]]]) -> None:
    for name, users in steps:
        if name in {"write", "mark", "forget"}:
            getattr(near, name)(*users)
        elif name in {"renew", "make"}:
            getattr(near, name)()
            near.fresh()
        elif name == "segments":
            near.change_segments()
        elif name in {"restart", "kill"}:
            far.restart(in_order=name == "restart")
        elif name == "away":
            near.neighbour.is_away = True
        elif name == "break":
            near.neighbour.pages_left = 1
        else:
            await some_time(near, far)
            near.neighbour.is_away = False
    near.neighbour.is_away = False
    near.renew()
    near.fresh()
    await far.follower.round()
    assert far.is_the_same()


async def some_time(near: Near, far: Far) -> None:
    """A round, given up where the neighbour's replica does not become what may be shown."""
    try:
        async with asyncio.timeout(0.03):
            await far.follower.round()
    except (TimeoutError, NeighbourAway, CopyNeeded):
        return
    # It was shown, so nobody was outdated.
    assert near.store.behind() == 0
    assert far.is_the_same()


def users_at_once(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Makes pages and steps of so few users."""
    page, changes = Store.page, Store.changes
    monkeypatch.setattr(Store, "page", lambda store, after, _=0: page(store, after, most))
    monkeypatch.setattr(Store, "changes", lambda store, after, version: changes(store, after, version, most))


def everybody(store: Store) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    after = b""
    while True:
        page = store.page(after)
        found.update(page.states)
        if page.last is None:
            return found
        after = page.last
