"""Keeps a node's replica the same as that of another node (docs/decisions/0098)."""

import asyncio
import random
import time
from pathlib import Path
from typing import Final, NamedTuple

import lmdb
import msgspec
import structlog

from segmentd.background import background
from segmentd.observability.metrics import Metrics
from segmentd.observability.throttled import ThrottledLog
from segmentd.replica.environment import completed
from segmentd.replica.files import Unusable, remove
from segmentd.replica.filling import checked, copy_users
from segmentd.replica.neighbour import CopyNeeded, Neighbour, NeighbourAway
from segmentd.replica.replica import store_path
from segmentd.replica.resuming import number_of, resumed
from segmentd.replica.source import Freshness
from segmentd.replica.status import ReplicaStatus, boot_time, status_path
from segmentd.replica.store import Store

# Between two steps, so that a neighbour with many changes is asked about twenty times a second.
REST_SECONDS: Final = 0.05
# After a failure; twice as long each time.
SHORTEST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
# What is caught up with at once, in memory. For more, another copy is quicker.
MOST_PENDING_BYTES: Final = 64 * 2**20

_FACT: Final = b"followed"

_log = structlog.get_logger(__name__)


class Followed(msgspec.Struct, frozen=True, array_like=True):
    """Up to where a replica shows the one of a neighbour."""

    identity: bytes
    write: int


class _CaughtUp(NamedTuple):
    """What a replica lacks of the present moment of the neighbour's."""

    followed: Followed
    states: dict[bytes, bytes | None]
    catalog: bytes
    fresh_at: int
    """A boot time of this machine: the states are of that time, or of a later one."""
    clock_offset: int


class NeighbourFollower:
    """Copies a neighbour's replica, and then follows it step by step."""

    def __init__(self, neighbour: Neighbour, folder: Path, metrics: Metrics | None = None) -> None:
        self._neighbour = neighbour
        self._metrics = metrics or Metrics()
        self._throttled = ThrottledLog(_log)
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._status = ReplicaStatus.open(status_path(folder))
        self._status.take_over()
        self.store: Store | None = None
        """The replica that it keeps up to date; None before the first round."""
        self._followed = Followed(b"", 0)

    async def follow(self, stop: asyncio.Event) -> None:
        """Follows until `stop`."""
        async with background(self._keep_following(), "follow a neighbour") as following:
            stopping = asyncio.create_task(stop.wait(), name="wait for the stop")
            await asyncio.wait([stopping, following], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if following.done():
                following.result()

    async def round(self) -> None:
        """Brings the replica to the present moment of the neighbour's, or makes a copy.

        Waits about a second for a change. Raises NeighbourAway, CopyNeeded, Unusable, lmdb.Error, OSError.
        """
        if self.store is None:
            self._resume()
        if self.store is not None:
            try:
                await self._advance(self.store)
            except CopyNeeded as reason:
                _log.info("another copy is needed", reason=str(reason))
            else:
                return
        await self._copy()

    def close(self) -> None:
        """Syncs the replica to the disk, so that the next start goes on from it."""
        if self.store is not None:
            try:
                self.store.sync()
            except (lmdb.Error, OSError) as error:
                _log.warning("the replica was not synced to the disk", error=str(error))
            self.store.close()
            self.store = None
        self._status.close()

    async def _keep_following(self) -> None:
        pause = SHORTEST_PAUSE_S
        while True:
            self._status.share()
            try:
                await self.round()
            except (
                NeighbourAway, CopyNeeded, Unusable, lmdb.Error, OSError, msgspec.MsgspecError
            ) as error:  # fmt: skip
                self._metrics.round_failed()
                self._throttled.warning("the neighbour is not followed, the replica ages", error=str(error))
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads retries, no secret
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                self._metrics.round_done()
                pause = SHORTEST_PAUSE_S
                await asyncio.sleep(REST_SECONDS)

    def _resume(self) -> None:
        found = resumed(self._folder, self._status, _usable)
        if found is not None:
            self.store, self._followed = found, _followed(found)

    async def _advance(self, store: Store) -> None:
        try:
            caught_up = await self._caught_up(self._followed, store.catalog_version)
            if caught_up.states or caught_up.catalog:
                store.show(caught_up.states, caught_up.catalog, [_fact(caught_up.followed)])
            store.forget_dead_readers()
        except lmdb.PanicError:  # this process can no longer write; the file is unchanged
            store.close()
            self.store = None
            raise
        except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError) as error:
            _log.warning("replica discarded", reason=str(error))
            self._status.clear()
            self.store = None
            store.delete()
            raise
        self._publish(store, caught_up)

    async def _copy(self) -> None:
        """Makes a copy while the old replica answers, and ages."""
        started = time.monotonic()
        made = self._status.made if self.store is None else max(self._status.made, number_of(self.store))
        number = self._status.made = made + 1
        path = store_path(self._folder, number)
        remove(path)
        store = Store(path)
        try:
            store.expect_writes()
            head = checked(await self._neighbour.head())
            users = await copy_users(store, self._neighbour, head, marking=False)
            # Each page was of another moment; with all changes since the first one, all are of the same.
            caught_up = await self._caught_up(Followed(head.identity, head.write), None)
            store.show(caught_up.states, caught_up.catalog, [*completed(), _fact(caught_up.followed)])
        except BaseException:
            store.delete()
            raise
        old, self.store = self.store, store
        self._publish(store, caught_up)
        if old is not None:
            old.delete()
        self._metrics.replica_built()
        _log.info("replica copied", users=users, seconds=round(time.monotonic() - started, 1))

    async def _caught_up(self, followed: Followed, version: int | None) -> _CaughtUp:
        """Asks step by step, until the neighbour's replica is at a moment that may be shown.

        Nothing of it is shown before: segments of one moment with users of another would be a state that
        never was. Raises NeighbourAway, CopyNeeded.
        """
        identity, write = followed.identity, followed.write
        states: dict[bytes, bytes | None] = {}
        size, catalog = 0, b""
        while True:
            asked = boot_time()
            step = await self._neighbour.step(identity, write, version)
            answered = boot_time()
            for key, state in step.states:
                size += len(state or b"") - len(states.get(key) or b"")
                states[key] = state
            if size + len(states) * 16 > MOST_PENDING_BYTES:
                raise CopyNeeded("so much changed that a copy is quicker")
            if step.catalog:
                catalog, version = step.catalog, step.version
            write = step.write
            if step.freshness is not None:
                fresh_at, offset = _here(step.freshness, asked + step.held, answered)
                return _CaughtUp(Followed(identity, write), states, catalog, fresh_at, offset)
            if step.is_level:
                await asyncio.sleep(REST_SECONDS)

    def _publish(self, store: Store, caught_up: _CaughtUp) -> None:
        self._followed = caught_up.followed
        self._status.clock_offset = caught_up.clock_offset
        self._status.serving = number_of(store)
        self._status.fresh_at = caught_up.fresh_at


def _here(freshness: Freshness, earliest: int, latest: int) -> tuple[int, int]:
    """What was said between two boot times of this machine: how fresh that was, and the clock's offset.

    An age is never less than it is: it is counted from the earliest time at which it may have been said.
    """
    return earliest - freshness.age, freshness.clock - (earliest + latest) // 2


def _fact(followed: Followed) -> tuple[bytes, bytes]:
    return _FACT, msgspec.msgpack.encode(followed)


def _followed(store: Store) -> Followed:
    found = store.fact(_FACT)
    if found is None:
        raise Unusable("it does not follow a neighbour")
    return msgspec.msgpack.decode(found, type=Followed)


def _usable(path: Path) -> Store:
    """The replica, if it followed a neighbour. Raises Unusable."""
    store = Store.checked(path)
    try:
        _followed(store)
    except Unusable:
        store.close()
        raise
    return store
