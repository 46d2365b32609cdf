"""Writes the states of users who changed, batch by batch, in the order of their ids."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from segmentd.background import end
from segmentd.domain.identifiers import UserId
from segmentd.replica.status import ReplicaStatus
from segmentd.replica.store import Store
from segmentd.storage.replication import Reading, UserState

# Users that are read at once, and written at once. A write of so many takes some milliseconds, so that the
# own writes of the HTTP processes, which wait for it, stay quick.
BATCH_USERS: Final = 2_000
# After so long a new round begins: it finds the users who changed meanwhile, and the replica is fresh again.
WORK_SECONDS: Final = 0.5

TakeBatch = Callable[[int, int], list[int]]


class Renewal:
    """Renews one replica; it remembers between two rounds how far it came."""

    def __init__(self, store: Store, status: ReplicaStatus) -> None:
        self._store = store
        self._status = status
        self._place = 0
        self._begun = 0
        self.oldest = 0
        """A boot time at which the states of all users were right, or of a later one; 0: unknown."""

    async def work(self, reading: Reading, version: int) -> None:
        """Writes for half a second, or until nobody is behind.

        `version` is that of the segments in the reading; the replica was brought to its moment.
        """
        if not self._place:
            self._begun = self._status.fresh_at
        if self._store.behind():
            give_up = time.monotonic() + WORK_SECONDS
            outdated, settled = self._store.outdated_after, self._store.settled_after
            self._place = await self._walk(reading, version, outdated, self._place, give_up)
            if self._place:
                return
            await self._walk(reading, version, settled, 0, give_up)
        # The users who were outdated when this walk over all users began are not outdated any more.
        self.oldest = self._begun

    async def _walk(self, reading: Reading, version: int, take: TakeBatch, place: int, give_up: float) -> int:
        """Renews users from a place on; returns the place that it reached in time, 0 at the end.

        PostgreSQL reads each batch while the one before is being written.
        """

        def next_batch() -> list[int]:
            nonlocal place
            batch = take(place, BATCH_USERS) if time.monotonic() < give_up else []
            place = batch[-1] if batch else place
            return batch

        batch = next_batch()
        asking = _ask(reading, batch)
        try:
            while batch:
                states = await asking
                user_ids, batch = batch, next_batch()
                asking = _ask(reading, batch)
                await asyncio.sleep(0)  # it sends its statement
                self._store.renew(user_ids, states, version)
                self._status.behind = self._store.behind()
        finally:
            await end(asking)
        return place if take(place, 1) else 0


def _ask(reading: Reading, user_ids: list[int]) -> asyncio.Task[Sequence[UserState]]:
    return asyncio.create_task(_states(reading, [*map(UserId, user_ids)]), name="read states ahead")


async def _states(reading: Reading, user_ids: Sequence[UserId]) -> Sequence[UserState]:
    return await reading.states(user_ids) if user_ids else ()
