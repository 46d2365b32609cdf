"""Keeps a node's replica fresh: builds it, follows the database round by round, rebuilds it if needed."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, NamedTuple

import lmdb
import psycopg
import structlog

from segmentd.background import end
from segmentd.domain.errors import Unavailable
from segmentd.observability.metrics import Metrics
from segmentd.observability.throttled import ThrottledLog
from segmentd.replica import timelines
from segmentd.replica.files import Unusable, remove
from segmentd.replica.filling import Fill, from_database
from segmentd.replica.moments import follow, shown_by
from segmentd.replica.renewal import Renewal
from segmentd.replica.replica import store_path
from segmentd.replica.resuming import number_of, resumed
from segmentd.replica.status import ReplicaStatus, boot_time, status_path
from segmentd.replica.store import Store
from segmentd.replica.timelines import Moment, Parted
from segmentd.storage import replication
from segmentd.storage.database import Database
from segmentd.storage.replication import Position, Reading

# If more users than this share of all are behind, rebuilding the replica is cheaper.
REBUILD_SHARE: Final = 0.3
SMALLEST_REBUILD: Final = 50_000

# After a round the follower rests for three times as long as the round took, because rounds slow down writes
# (docs/decisions/0034); but never for longer than this.
REST_ROUNDS: Final = 3
LONGEST_REST_SECONDS: Final = 0.05
# While a replica is being built, the present one learns at this interval which users changed.
WHILE_BUILDING_SECONDS: Final = 1.0
# Bulk changes wait while any state in the replica is older: so the age of hot reads stays below five seconds.
PACE_AGE_SECONDS: Final = 2.5
PACE_POLL_SECONDS: Final = 0.02
LONGEST_PACE_SECONDS: Final = 5.0

# For so long after a fail-over, an own write that is shown may be one that the new primary lacks.
LATE_WRITES_SECONDS: Final = 2

_USELESS: Final = (Unusable, lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError)

Turn = Callable[[], AbstractAsyncContextManager[None]]
"""Within it the follower may work."""

_log = structlog.get_logger(__name__)


class _FailOver(NamedTuple):
    """The replica went on after a fail-over: the number of its latest write then, and a boot time."""

    until: int
    write: int


class _Version(NamedTuple):
    """Of the segments in the replica, and a boot time before the round that first saw it there."""

    number: int
    since: int


class Follower:
    """Builds and updates a node's replicas; other processes write only their own writes into them."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        metrics: Metrics | None = None,
        turn: Turn = contextlib.nullcontext,
        copy: Fill | None = None,
    ) -> None:
        self._database = database
        self._turn = turn
        self._copy = copy
        self._metrics = metrics or Metrics()
        self._throttled = ThrottledLog(_log)
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._status = ReplicaStatus.open(status_path(folder))
        self._status.take_over()
        self._store: Store | None = None
        self._renewal: Renewal | None = None
        self._number = 0
        self._fail_over: _FailOver | None = None
        self._version = _Version(-1, 0)

    async def follow(self, stop: asyncio.Event, wake: asyncio.Event, round_seconds: float) -> None:
        """Runs rounds until `stop`: one whenever `wake` is set, and one `round_seconds` after each rest."""
        while not stop.is_set():
            wake.clear()
            self._status.share()
            begun = time.monotonic()
            more = False
            try:
                await self.round()
            except (Unavailable, Unusable, psycopg.Error, lmdb.Error, OSError) as error:
                self._metrics.round_failed()
                self._throttled.warning("round failed, the replica ages", error=str(error))
            else:
                self._metrics.round_done()
                more = self._status.behind > 0
            await asyncio.sleep(min(REST_ROUNDS * (time.monotonic() - begun), LONGEST_REST_SECONDS))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), 0 if more else round_seconds)

    async def round(self) -> None:
        """Brings the replica up to date, or builds one. Raises Unavailable, lmdb.Error.

        After so many changes that they take longer than half a second, the replica is fresh all the same: it
        knows whose states are old, and later rounds write the new ones.
        """
        if self._store is None:
            await self._resume()
        if self._store is not None:
            async with self._turn():
                if await self._advance(self._store):
                    return
        await self._rebuild()

    async def keep_pace(self, patience_s: float = LONGEST_PACE_SECONDS) -> None:
        """For bulk changes between two batches: returns when the replica has kept up with them.

        That is when no answer from it is older than a few seconds; at the latest after so many seconds. A
        replica that is built for the first time holds nobody up.
        """
        give_up = time.monotonic() + patience_s
        while self._renewal is not None and time.monotonic() < give_up:
            if boot_time() - self._renewal.oldest <= PACE_AGE_SECONDS * 1_000_000:
                return
            await asyncio.sleep(PACE_POLL_SECONDS)

    async def _advance(self, store: Store, *, renewing: bool = True) -> bool:
        """Publishes one moment of the database in the serving replica, and renews users who are behind.

        False: another replica has to be built.
        """
        try:
            begun = boot_time()
            async with replication.reading(self._database) as reading:
                moment = await timelines.present(store, reading)
                offset = await _clock_offset(reading)
                version = await self._follow(store, reading, moment)
                self._status.behind = store.behind()
                self._publish(begun, offset)
                if self._status.behind > max(SMALLEST_REBUILD, int(REBUILD_SHARE * store.users())):
                    _log.info("so many changes that rebuilding is cheaper", users=self._status.behind)
                    return False
                if renewing and self._renewal is not None:
                    await self._renewal.work(reading, version)
                self._note_whole(store, begun, version)
            store.forget_dead_readers()
        except lmdb.PanicError:  # this process can no longer write; the file is unchanged
            store.close()
            self._store = None
            raise
        except Parted as error:
            _log.info("the replica cannot go on", reason=str(error))
            return False
        except _USELESS as error:
            self._give_up(store, str(error))
            return False
        return True

    async def _follow(self, store: Store, reading: Reading, moment: Moment) -> int:
        """Brings the replica to this moment, also after a fail-over. Raises Parted if it cannot."""
        if self._fail_over is not None and boot_time() > self._fail_over.until:
            write, self._fail_over = self._fail_over.write, None
            self._expect_forgetting(store)
            store.forget(timelines.written_since(store, write))
            self._status.late_until = 0
        try:
            return await follow(store, reading, moment, self._status.fresh_at)
        except Parted as error:
            until = boot_time() + LATE_WRITES_SECONDS * 1_000_000
            self._status.late_until = until
            self._expect_forgetting(store)
            forgotten = await timelines.go_back(store, reading, moment.position.timeline)
            _log.warning("the replica goes on after a fail-over", reason=str(error), users_again=forgotten)
            self._fail_over = _FailOver(until, store.last_write)
        return await follow(store, reading, moment, 0)

    def _expect_forgetting(self, store: Store) -> None:
        """Before states are removed: until all users were looked through, some may be missing."""
        self._status.set_whole(0, self._version.number)
        self._renewal = Renewal(store, self._status)

    def _note_whole(self, store: Store, begun: int, version: int) -> None:
        """Publishes since when all states are right with this version of the segments, if that is known."""
        if (
            self._renewal is None or store.catalog_version != version
        ):  # another process changed them meanwhile
            return
        if version != self._version.number:
            self._version = _Version(version, begun)
        # A walk over all users that began before this version came may have left states that need it.
        oldest = self._renewal.oldest
        self._status.set_whole(oldest if oldest >= self._version.since else 0, version)

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
        """Resumes the replica of an earlier run, if it is usable."""
        async with replication.reading(self._database) as reading:
            position = await reading.position()
        found = resumed(self._folder, self._status, lambda path: _usable(path, position))
        if found is not None:
            self._store, self._number = found, number_of(found)
            self._renewal = Renewal(found, self._status)

    def _give_up(self, store: Store, reason: str) -> None:
        """Discards the replica, so that the database answers until another one is built."""
        _log.warning("replica discarded", reason=reason)
        self._status.clear()
        self._store = None
        store.delete()

    def _publish(self, begun: int, clock_offset: int) -> None:
        """Shows in the status that the replica is as of the boot time at which a round began."""
        self._status.clock_offset = clock_offset
        self._status.serving = self._number
        self._status.fresh_at = begun

    async def _rebuild(self) -> None:
        """Builds a new replica while the old one, or the database, answers; swaps it in once it caught up."""
        started = time.monotonic()
        number = self._status.made = max(self._status.made, self._number) + 1
        remove(store_path(self._folder, number))
        store = Store(store_path(self._folder, number))
        try:
            store.expect_writes()
            users = await self._fill_while_following(store)
            # From here on own writes go into both replicas; the catch-up below sees all earlier ones.
            self._status.filling = number
            begun = boot_time()
            async with replication.reading(self._database) as reading:
                moment = await timelines.present(store, reading)
                offset = await _clock_offset(reading)
                await follow(store, reading, moment, 0)
        except BaseException:
            self._status.filling = 0
            store.delete()
            raise
        old, self._store, self._number = self._store, store, number
        self._fail_over = None
        self._status.late_until = 0
        self._version = _Version(-1, 0)
        self._renewal = Renewal(store, self._status)
        self._status.behind = store.behind()
        self._publish(begun, offset)
        self._status.filling = 0
        if old is not None:
            old.delete()
        self._metrics.replica_built()
        _log.info("replica built", users=users, seconds=round(time.monotonic() - started, 1))

    async def _fill_while_following(self, store: Store) -> int:
        """Fills a new replica; meanwhile the present one stays fresh, and learns who changed."""
        # Only the first replica is a copy, and if that fails, the next round asks the database.
        fill, self._copy = self._copy if self._store is None else None, None
        filling = asyncio.create_task((fill or from_database(self._database))(store), name="fill a replica")
        try:
            while not (await asyncio.wait([filling], timeout=WHILE_BUILDING_SECONDS))[0]:
                if self._store is not None:
                    try:
                        await self._advance(self._store, renewing=False)
                    except (Unavailable, psycopg.Error, lmdb.Error, OSError) as error:
                        self._throttled.warning("the replica ages while another is built", error=str(error))
            return await filling
        finally:
            await end(filling)


async def _clock_offset(reading: Reading) -> int:
    """PostgreSQL's clock minus ours; the error is at most half of the time that the statement takes."""
    before = boot_time()
    clock = await reading.clock()
    return clock - (before + boot_time()) // 2


def _usable(path: Path, position: Position) -> Store:
    """The replica, if it can follow this database from where it is. Raises Unusable."""
    store = Store.checked(path)
    try:
        with contextlib.suppress(Parted):  # the first round goes back, or builds another one
            shown_by(store, position)
    except Unusable:
        store.close()
        raise
    return store
