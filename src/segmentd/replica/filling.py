"""Fills a new replica: from the database, or from another node's replica."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec
import structlog

from segmentd.replica import timelines
from segmentd.replica.catalog import CatalogState
from segmentd.replica.environment import FORMAT, completed
from segmentd.replica.files import Unusable
from segmentd.replica.moments import facts_of
from segmentd.replica.neighbour import CopyNeeded, Neighbour, NeighbourAway
from segmentd.replica.source import Head
from segmentd.replica.store import Store
from segmentd.storage import replication
from segmentd.storage.database import Database

PROGRESS_EVERY: Final = 1_000_000
# A copy that breaks off goes on where it was, unless it gets no further so many times.
MOST_BREAKS: Final = 5
_AFTER_BREAK_S: Final = 0.2

Fill = Callable[[Store], Coroutine[Any, Any, int]]
"""Fills a new replica and returns the number of its users."""

_log = structlog.get_logger(__name__)


def from_database(database: Database) -> Fill:
    """Streams all users of one snapshot."""

    async def fill(store: Store) -> int:
        progress = _Progress()
        async with replication.reading(database) as reading:
            moment = await timelines.present(store, reading)
            progress.expected = await reading.approximate_users()
            version = await reading.catalog_version()
            store.put_catalog(CatalogState(version, await reading.segments()))
            async with contextlib.aclosing(reading.all_states()) as batches:
                async for batch in batches:
                    store.append(batch)
                    progress.add(len(batch))
        store.put([], [*completed(), *facts_of(store, moment)])
        return progress.users

    return fill


def from_neighbour(neighbour: Neighbour) -> Fill:
    """Copies a neighbour's users, none of them older than a position of the database, but for those it marks.

    So a follower of the database goes on from there. Raises Unusable.
    """

    async def fill(store: Store) -> int:
        try:
            head = checked(await neighbour.head())
            if head.position is None:
                raise Unusable("the neighbour follows no database, or is right after a fail-over")
            users = await copy_users(store, neighbour, head, marking=True)
        except (NeighbourAway, CopyNeeded) as error:
            raise Unusable(f"no copy of the neighbour's replica: {error}") from error
        _log.info("users came from the neighbour", users=users)
        store.begin_notes()
        store.put([], [*completed(), *timelines.facts_of_copy(head.position)])
        return users

    return fill


def checked(head: Head) -> Head:
    """The same head. Raises Unusable if this version of segmentd cannot read that replica."""
    if head.format != FORMAT:
        raise Unusable(f"the neighbour's replica is {head.format!r}, and this node reads {FORMAT!r}")
    return head


async def copy_users(store: Store, neighbour: Neighbour, head: Head, *, marking: bool) -> int:
    """Copies the segments and all users; marks those who are outdated there, if `marking`. Counts the users.

    Raises NeighbourAway, CopyNeeded.
    """
    store.put_catalog(msgspec.msgpack.decode(head.catalog, type=CatalogState))
    after, breaks, progress = b"", 0, _Progress()
    while True:
        reason = "its answer ended too early"
        try:
            async with contextlib.aclosing(neighbour.pages(head.identity, after)) as pages:
                async for page in pages:
                    store.append(page.states)
                    if marking and (page.outdated or page.settled):
                        store.mark(page.outdated, page.settled, 0)
                    progress.add(len(page.states))
                    if page.last is None:
                        return progress.users
                    after, breaks = page.last, 0
        except NeighbourAway as error:
            reason = str(error)
        breaks += 1
        if breaks > MOST_BREAKS:
            raise NeighbourAway(reason)
        _log.info("a copy goes on where it broke off", reason=reason, users=progress.users)
        await asyncio.sleep(_AFTER_BREAK_S * 2**breaks)


class _Progress:
    """Counts users, and logs each million."""

    def __init__(self) -> None:
        self.users = 0
        self.expected: int | None = None

    def add(self, users: int) -> None:
        self.users += users
        if self.users % PROGRESS_EVERY < users:
            _log.info("building the replica", users=self.users, of_about=self.expected)
