"""What a node gives to those that follow it, or that copy its replica (docs/decisions/0098)."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Final

import lmdb
import msgspec

from segmentd.domain.errors import Overloaded, PositionExpired, Unavailable
from segmentd.replica import timelines
from segmentd.replica.copying import Changes, Page
from segmentd.replica.environment import FORMAT
from segmentd.replica.files import Unusable
from segmentd.replica.replica import Replica
from segmentd.replica.status import boot_time
from segmentd.replica.store import Store
from segmentd.storage.replication import Position

# Of one process: how many copies it sends at once, and how many nodes may wait for changes.
MOST_COPIES: Final = 2
MOST_FOLLOWERS: Final = 64
LONGEST_WAIT_S: Final = 1.0
# Pages are sent one after the other, each after its length in so many bytes.
LENGTH_BYTES: Final = 4
_LOOK_EVERY_S: Final = 0.02

_REPLACED: Final = "This node has another replica now; take another copy."
_FORGOTTEN: Final = "It is not known any more who changed since then; take another copy."
_UNUSABLE: Final = "The node's replica is not usable now; try again shortly."


class Head(msgspec.Struct, frozen=True, array_like=True):
    """A replica at one moment."""

    format: bytes
    identity: bytes
    write: int
    """The number of its latest write: where one who takes a copy begins to follow."""
    catalog: bytes
    position: Position | None
    """All of it is of this position of the database, or later; None: that cannot be said."""


class Freshness(msgspec.Struct, frozen=True, array_like=True):
    """How old a replica was when this was said. Durations, because two machines have two clocks."""

    age: int
    """In microseconds."""
    clock: int
    """PostgreSQL's clock at that time, in microseconds since 1970."""


class Step(msgspec.Struct, frozen=True, array_like=True):
    """The users who changed after a position, and how old all of the replica is then."""

    write: int
    states: list[tuple[bytes, bytes | None]]
    is_level: bool
    version: int
    catalog: bytes
    held: int
    """For how long the question was held back before all this was looked up, in microseconds."""
    freshness: Freshness | None
    """None: with this step the replica is no moment that may be shown; with a later one it is."""


class Source:
    """The replica of a process that answers other nodes."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._copies = 0
        self._followers = 0

    def head(self) -> Head:
        """The present replica. Raises Unavailable."""
        with self._usable() as store:
            write = store.last_write  # before the rest: what comes later is then sent again
            late = self._replica.status.late_until
            changes = store.changes(write, None)
            if changes is None:
                raise Unavailable(_UNUSABLE)
            position = timelines.shown(store) if late == 0 else None
            return Head(FORMAT, store.identity, write, changes.catalog, position)

    async def pages(self, identity: bytes, after: bytes) -> AsyncGenerator[Page]:
        """All users of this replica after a key, by id; others have their turn between two pages.

        Raises Overloaded, PositionExpired, Unavailable.
        """
        if self._copies >= MOST_COPIES:
            raise Overloaded("This process sends as many copies as it does at once; try again shortly.")
        self._copies += 1
        try:
            while True:
                with self._usable(identity) as store:
                    page = store.page(after)
                yield page
                if page.last is None:
                    return
                after = page.last
                await asyncio.sleep(0)
        finally:
            self._copies -= 1

    async def step(self, identity: bytes, after: int, version: int | None, wait_s: float) -> Step:
        """The users who changed after a write of this replica; waits a while for the first one.

        Raises Overloaded, PositionExpired, Unavailable.
        """
        if self._followers >= MOST_FOLLOWERS:
            raise Overloaded("As many nodes follow this process as it allows; follow another node.")
        self._followers += 1
        begun = time.monotonic()
        try:
            while True:
                with self._usable(identity) as store:
                    waited = time.monotonic() - begun
                    if store.latest_note() > after or waited >= min(wait_s, LONGEST_WAIT_S):
                        return self._step(store, after, version, begun)
                await asyncio.sleep(_LOOK_EVERY_S)
        finally:
            self._followers -= 1

    def _step(self, store: Store, after: int, version: int | None, begun: float) -> Step:
        status = self._replica.status
        # Before the users: what is read after it is of that time, or later.
        fresh_at, number = status.fresh_at, status.serving
        changes = store.changes(after, version)
        if changes is None:
            raise PositionExpired(_FORGOTTEN)
        since = self._since(changes, fresh_at)
        if status.serving != number or since <= status.spoilt_at:
            since = 0
        held, present = time.monotonic() - begun, boot_time()
        freshness = Freshness(present - since, present + status.clock_offset) if since else None
        return Step(
            changes.write,
            [*changes.states],
            changes.is_level,
            changes.version,
            changes.catalog,
            int(held * 1_000_000),
            freshness if changes.is_level else None,
        )

    def _since(self, changes: Changes, fresh_at: int) -> int:
        """A boot time at which all of the replica was right, or of a later one; 0: unknown."""
        return self._replica.status.whole_since(changes.version) if changes.some_outdated else fresh_at

    @contextmanager
    def _usable(self, identity: bytes | None = None) -> Iterator[Store]:
        try:
            if self._replica.status.age() is None:
                raise Unavailable(_UNUSABLE)
            store = self._replica.serving()
            if identity is not None and store.identity != identity:
                raise PositionExpired(_REPLACED)
            yield store
        except (lmdb.Error, Unusable) as error:
            raise Unavailable(_UNUSABLE) from error
