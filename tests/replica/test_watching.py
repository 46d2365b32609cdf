"""Who watches a user is woken by every change of the decisions about the user, and by nothing else."""

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Final

import pytest

from segmentd.config import Settings
from segmentd.domain.errors import Overloaded, Unavailable
from segmentd.domain.identifiers import UserId
from segmentd.replica.catalog import CatalogState
from segmentd.replica.follower import Follower
from segmentd.replica.notes import USERS_NAMED, WRITES_WATCHED
from segmentd.replica.status import boot_time
from segmentd.replica.store import Store
from segmentd.replica.watching import Watcher, Watchers
from segmentd.serve.wiring import open_node, service
from segmentd.storage.database import Database
from tests.support.client import Api
from tests.support.door import open_door
from tests.support.workers import PATIENCE_S, eventually

USER: Final = UserId(1)
OTHER: Final = UserId(2)


class Place:
    """A service with a replica, and those who watch it."""

    def __init__(self, api: Api, watchers: Watchers, freshen: Callable[[], None]) -> None:
        self.api = api
        self.watchers = watchers
        self.freshen = freshen
        self._witness = 70

    async def is_woken_by(self, watcher: Watcher, change: Awaitable[object]) -> None:
        """The change wakes the watcher, once."""
        before = watcher.fingerprint
        await change
        self.freshen()
        assert await watcher.wait(PATIENCE_S)
        assert watcher.fingerprint != before

    async def is_not_woken_by(self, watcher: Watcher, change: Awaitable[object]) -> None:
        """The change does not wake the watcher: a later one of a segment of its own does."""
        before = watcher.fingerprint
        await change
        self.freshen()
        self._witness += 1
        with self.watchers.watch(UserId(self._witness)) as witness:
            await self.api.add(self._witness, "A")
            self.freshen()
            assert await witness.wait(PATIENCE_S)
        assert not await watcher.wait(0)
        assert watcher.fingerprint == before


@pytest.fixture
async def place(database: Database, folder: Path) -> AsyncIterator[Place]:
    settings = Settings(data_dir=str(folder.parent), max_streams=3)
    follower = Follower(database, folder)
    await follower.round()
    follower.close()
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(open_node(database, settings, folder))

        def freshen() -> None:
            node.replica.status.fresh_at = boot_time()
            node.replica.status.spoilt_at = 0

        freshen()
        door = await open_door(service(database, settings, node), database)
        api = await stack.enter_async_context(Api(door))
        await api.create("A")
        freshen()
        yield Place(api, node.watchers, freshen)


async def test_a_watcher_is_woken_by_what_changes_the_decisions_about_the_user(place: Place) -> None:
    api = place.api
    with place.watchers.watch(USER) as watcher:
        await place.is_woken_by(watcher, api.add(USER, "A"))
        await place.is_woken_by(watcher, api.remove(USER, "A"))
        await place.is_woken_by(watcher, api.create("B"))
        await place.is_woken_by(watcher, api.change_segment("B", percent=100))
        await place.is_woken_by(watcher, api.add(USER, "B"))
        await place.is_woken_by(watcher, api.change_segment("B", slug="C"))
        await place.is_woken_by(watcher, api.delete("segments/C"))
        await place.is_woken_by(watcher, api.add(USER, {"slug": "A", "ttl_seconds": 1}))
        in_term = watcher.fingerprint
        place.freshen()
        assert await watcher.wait(PATIENCE_S)  # and by the end of the term
        assert watcher.fingerprint != in_term


async def test_a_watcher_is_not_woken_by_anything_else(place: Place) -> None:
    api = place.api
    await api.add(USER, "A")
    place.freshen()
    with place.watchers.watch(USER) as watcher:
        await place.is_not_woken_by(watcher, api.add(OTHER, "A"))
        await place.is_not_woken_by(watcher, api.change_segment("A", description="another"))
        await place.is_not_woken_by(watcher, api.add(USER, "A"))


async def test_all_watchers_of_a_user_are_woken_up_to_the_bound(place: Place) -> None:
    with ExitStack() as stack:
        watchers = [stack.enter_context(place.watchers.watch(USER)) for _ in range(3)]
        with pytest.raises(Overloaded):
            stack.enter_context(place.watchers.watch(OTHER))
        await place.api.add(USER, "A")
        place.freshen()
        for watcher in watchers:
            assert await watcher.wait(PATIENCE_S)
    with place.watchers.watch(OTHER):
        """There is room again."""


async def test_at_the_end_every_wait_ends_and_nobody_else_may_watch(place: Place) -> None:
    with place.watchers.watch(USER) as watcher:
        place.watchers.end()
        assert await watcher.wait(PATIENCE_S)
        assert watcher.ended
    with pytest.raises(Unavailable), place.watchers.watch(USER):
        pass


async def test_what_happened_before_somebody_watched_wakes_nobody(place: Place) -> None:
    for _ in range(3):
        await place.api.add(USER, "A")
        await place.api.remove(USER, "A")
        place.freshen()
    with place.watchers.watch(USER) as watcher:

        async def has_looked() -> bool:
            place.freshen()
            return place.watchers.has_looked

        await eventually(has_looked)
        assert not await watcher.wait(0)


# The notes of changes


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "replica-1.lmdb")
    store.put_catalog(CatalogState(1, []))
    return store


def state(version: int) -> bytes:
    return struct.pack(">Q", version << 20)


def test_a_write_notes_the_users_that_it_changed(store: Store) -> None:
    number, _ = store.changed_since(0)

    store.put([(7, state(1)), (5, state(1))])
    store.put([(7, state(1))])  # nothing new
    store.put([(7, state(0))])  # older
    store.put([], [(b"seen", b"1")])
    store.put([(9, state(1))])

    latest, users = store.changed_since(number)
    assert users == [7, 5, 9]
    assert store.changed_since(latest) == (latest, [])
    store.close()


def test_a_write_of_segments_or_of_many_users_notes_that_any_may_have_changed(store: Store) -> None:
    number, _ = store.changed_since(0)
    store.put([(user_id, state(1)) for user_id in range(1, USERS_NAMED + 1)])
    named, users = store.changed_since(number)
    assert users == [*range(1, USERS_NAMED + 1)]

    store.put([(user_id, state(2)) for user_id in range(1, USERS_NAMED + 2)])
    many, users = store.changed_since(named)
    assert users is None

    store.put_catalog(CatalogState(2, []))
    assert store.changed_since(many)[1] is None
    store.close()


def test_who_watches_looks_back_a_bounded_number_of_writes(store: Store) -> None:
    number, _ = store.changed_since(0)
    for version in range(WRITES_WATCHED + 50):
        store.put([(1, state(version + 1))])

    latest, users = store.changed_since(number)
    assert users is None
    assert store.changed_since(latest - WRITES_WATCHED + 1)[1] == [1] * (WRITES_WATCHED - 1)
    store.close()
