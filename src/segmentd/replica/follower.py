"""Keeps a node's replica fresh: builds it, follows the database round by round, rebuilds it if needed."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import lmdb
import psycopg
import structlog

from segmentd.domain.errors import Unavailable
from segmentd.domain.identifiers import UserId
from segmentd.observability.metrics import Metrics
from segmentd.observability.throttled import ThrottledLog
from segmentd.replica.catalog import CatalogState
from segmentd.replica.moments import BATCH_USERS, moment, newer_catalog, shown_by
from segmentd.replica.replica import store_path
from segmentd.replica.status import ReplicaStatus, boot_time, status_path
from segmentd.replica.store import FORMAT, Store, Unusable, remove
from segmentd.storage import replication
from segmentd.storage.database import Database
from segmentd.storage.replication import Feed, Position, UserState

# If a round has more users than this share of all, rebuilding the replica is cheaper.
REBUILD_SHARE: Final = 0.3
SMALLEST_REBUILD: Final = 50_000

# After a round the follower rests for three times as long as the round took, because rounds slow down writes
# (docs/decisions/0034); but never for longer than this.
REST_ROUNDS: Final = 3
LONGEST_REST_SECONDS: Final = 0.05

PROGRESS_EVERY: Final = 1_000_000

_USELESS: Final = (Unusable, lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError)

_log = structlog.get_logger(__name__)


class Follower:
    """Builds and updates a node's replicas; other processes write only their own writes into them."""

    def __init__(self, database: Database, folder: Path, metrics: Metrics | None = None) -> None:
        self._database = database
        self._metrics = metrics or Metrics()
        self._throttled = ThrottledLog(_log)
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._status = ReplicaStatus.open(status_path(folder))
        self._status.take_over()
        self._store: Store | None = None
        self._number = 0

    async def follow(self, stop: asyncio.Event, wake: asyncio.Event, round_seconds: float) -> None:
        """Runs rounds until `stop`: one whenever `wake` is set, and one `round_seconds` after each rest."""
        while not stop.is_set():
            wake.clear()
            self._status.share()
            begun = time.monotonic()
            try:
                await self.round()
            except (Unavailable, Unusable, psycopg.Error, lmdb.Error, OSError) as error:
                self._metrics.round_failed()
                self._throttled.warning("round failed, the replica ages", error=str(error))
            else:
                self._metrics.round_done()
            await asyncio.sleep(min(REST_ROUNDS * (time.monotonic() - begun), LONGEST_REST_SECONDS))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), round_seconds)

    async def round(self) -> None:
        """Brings the replica up to date, or builds one. Raises Unavailable, lmdb.Error."""
        if self._store is None:
            await self._resume()
        if self._store is not None:
            try:
                allowed = max(SMALLEST_REBUILD, int(REBUILD_SHARE * self._store.users()))
                seen = await self._catch_up(self._store, allowed)
            except lmdb.PanicError:  # this process can no longer write; the file is unchanged
                self._store.close()
                self._store = None
                raise
            except _USELESS as error:
                self._give_up(self._store, str(error))
            else:
                if seen is not None:
                    self._publish(seen)
                    self._store.forget_dead_readers()
                    return
        await self._rebuild()

    def close(self) -> None:
        """Syncs the replica to the disk, so that the next start resumes it."""
        if self._store is not None:
            try:
                self._store.sync()
            except (lmdb.Error, OSError) as error:
                _log.warning("the replica was not synced to the disk", error=str(error))
            self._store.close()
            self._store = None
        self._status.close()

    async def _resume(self) -> None:
        """Resumes the replica of an earlier run, if it is usable; removes all others."""
        async with replication.feed(self._database) as feed:
            position = await feed.position()
        serving = store_path(self._folder, self._status.serving)
        found: Store | None = None
        for path in sorted(
            self._folder.glob("replica-*.lmdb"),
            key=lambda path: (path == serving, _modified(path)),
            reverse=True,
        ):
            try:
                found = found or _usable(path, position)
            except Unusable as error:
                _log.info("replica not resumed", path=path.name, reason=str(error))
                if path == serving:
                    self._status.clear()
            if found is None or found.path != path:
                remove(path)
        if found is None:
            return
        try:
            found.expect_writes()
        except OSError:
            found.close()
            raise
        self._store, self._number = found, int(found.path.stem.partition("-")[2])
        if found.path != serving:
            self._status.fresh_at = 0  # it was another replica's
            # It is not fresh, so nobody reads it yet. But it has to get own writes from now on: the next
            # round may not see them.
            self._status.serving = self._number

    def _give_up(self, store: Store, reason: str) -> None:
        """Discards the replica, so that the database answers until another one is built."""
        _log.warning("replica discarded", reason=reason)
        self._status.clear()
        self._store = None
        store.delete()

    async def _catch_up(self, store: Store, allowed: int) -> "Seen | None":
        """Brings the serving replica up to one snapshot.

        None, and nothing is done: there is too much to do.
        """
        begun = boot_time()
        async with replication.feed(self._database) as feed:
            position = await feed.position()
            shown = shown_by(store, position)
            seen = Seen(begun, await _clock_offset(feed))
            changed = await feed.users_changed_since(shown, allowed + 1)
            if len(changed) > allowed:
                _log.info("so many changes that rebuilding is cheaper", users_above=allowed)
                return None
            catalog = await newer_catalog(store, feed)
            if catalog is None:
                await self._renew_users(store, feed, changed)
                store.put([], _facts_of(position))
                return seen
            newer = await moment(feed, catalog, changed)
        if newer is None:
            _log.info("segments changed, with more users than one transaction may hold", users=len(changed))
            return None
        store.put(map(_pair, newer.states), _facts_of(position), newer.catalog)
        return seen

    async def _catch_up_unread(self, store: Store) -> "Seen":
        """Brings a replica that nobody reads yet up to one snapshot, however long that takes."""
        begun = boot_time()
        async with replication.feed(self._database) as feed:
            position = await feed.position()
            seen = Seen(begun, await _clock_offset(feed))
            changed = await feed.users_changed_since(shown_by(store, position), None)
            if catalog := await newer_catalog(store, feed):
                store.put_catalog(catalog)
            await self._renew_users(store, feed, changed)
        store.put([], _facts_of(position))
        return seen

    def _publish(self, seen: "Seen") -> None:
        self._status.clock_offset = seen.clock_offset
        self._status.serving = self._number
        self._status.fresh_at = seen.begun

    async def _renew_users(self, store: Store, feed: Feed, changed: Sequence[UserId]) -> None:
        """Writes batch by batch. The stored snapshot changes last, so that a kill loses nothing."""
        left = len(changed)
        for batch in _batches(changed, BATCH_USERS):
            self._status.overdue = left
            states = await feed.states(batch)
            store.put(map(_pair, states))
            left -= len(batch)
            await asyncio.sleep(0)
        self._status.overdue = 0

    async def _rebuild(self) -> None:
        """Builds a new replica while the old one, or the database, answers; swaps it in once it caught up."""
        started = time.monotonic()
        number = self._status.made = max(self._status.made, self._number) + 1
        remove(store_path(self._folder, number))
        store = Store(store_path(self._folder, number))
        try:
            store.expect_writes()
            users = await self._fill(store)
            # From here on own writes go into both replicas; the catch-up below sees all earlier ones.
            self._status.filling = number
            seen = await self._catch_up_unread(store)
        except BaseException:
            self._status.filling = 0
            store.delete()
            raise
        old, self._store, self._number = self._store, store, number
        self._publish(seen)
        self._status.filling = 0
        if old is not None:
            old.delete()
        self._metrics.replica_built()
        _log.info("replica built", users=users, seconds=round(time.monotonic() - started, 1))

    async def _fill(self, store: Store) -> int:
        """Streams all users of one snapshot into the replica; returns their number. Logs its progress."""
        users = 0
        async with replication.feed(self._database) as feed:
            position = await feed.position()
            expected = await feed.approximate_users()
            version = await feed.catalog_version()
            store.put_catalog(CatalogState(version, await feed.segments()))
            async with contextlib.aclosing(feed.all_states()) as batches:
                async for batch in batches:
                    store.append(batch)
                    users += len(batch)
                    if users % PROGRESS_EVERY < len(batch):
                        _log.info("building the replica", users=users, of_about=expected)
        store.put([], [(b"format", FORMAT), *_facts_of(position)])
        return users


class Seen(NamedTuple):
    """When a round began, by the boot-time clock, and how far PostgreSQL's clock is ahead of it."""

    begun: int
    clock_offset: int


async def _clock_offset(feed: Feed) -> int:
    """PostgreSQL's clock minus ours; the error is at most half of the time that the statement takes."""
    before = boot_time()
    clock = await feed.clock()
    return clock - (before + boot_time()) // 2


def _batches(user_ids: Sequence[UserId], size: int) -> Iterator[Sequence[UserId]]:
    for begin in range(0, len(user_ids), size):
        yield user_ids[begin : begin + size]


def _modified(path: Path) -> float:
    return path.stat().st_mtime


def _usable(path: Path, position: Position) -> Store:
    """The replica, if it can follow this database from where it is. Raises Unusable."""
    store = Store.checked(path)
    try:
        shown_by(store, position)
    except Unusable:
        store.close()
        raise
    return store


def _facts_of(position: Position) -> list[tuple[bytes, bytes]]:
    return [
        (b"source", position.source.encode()),
        (b"snapshot", position.snapshot.encode()),
        (b"seen", str(position.instant).encode()),
    ]


def _pair(state: UserState) -> tuple[int, bytes]:
    return state.user_id, state.state
