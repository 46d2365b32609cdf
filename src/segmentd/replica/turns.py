"""Turns of the follower and of imports: on a machine with few cores they leave one to hot reads."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

# From so many cores on, an import and the follower leave enough of them to the reads.
ENOUGH_CORES: Final = 4

# How often it is looked whether hot reads are being answered; how many of them count, as somebody may look
# how an import gets on; and for how long they count: it takes a while to notice the first ones of a wave.
LOOK_EVERY_S: Final = 0.5
FEW_READS: Final = 5
REMEMBERED_S: Final = 30.0

# The other one may wait for a lock or for a slow database; then both go on.
BATCH_PATIENCE_S: Final = 0.6
ROUND_PATIENCE_S: Final = 0.1


class Turns:
    """While hot reads are answered, one batch of an import or one round of the follower is under way.

    Both are short work that keeps a process of PostgreSQL or of this node busy. A process that becomes ready
    to run waits until another one has had its time slice, which is longer than a hundred hot reads; so they
    need a core to themselves. Where there are enough cores, or few reads, all go at once.

    `hot_calls` counts the answers of the node's processes; None: nobody counts them, there may be some.
    """

    def __init__(self, hot_calls: Callable[[], int] | None, cores: int) -> None:
        self._hot_calls = hot_calls
        self._has_few_cores = cores < ENOUGH_CORES
        self._turn = asyncio.Lock()
        self._counted = 0
        self._looked_at = self._answered_at = float("-inf")

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[None]:
        """Within it a batch may be applied."""
        async with self._one_turn(BATCH_PATIENCE_S):
            yield

    @asynccontextmanager
    async def round(self) -> AsyncIterator[None]:
        """Within it the follower may work."""
        async with self._one_turn(ROUND_PATIENCE_S):
            yield

    @asynccontextmanager
    async def _one_turn(self, patience_s: float) -> AsyncIterator[None]:
        taken = False
        if self._has_few_cores and self._looks_busy():
            try:
                async with asyncio.timeout(patience_s):
                    taken = await self._turn.acquire()
            except TimeoutError:
                taken = False
        try:
            yield
        finally:
            if taken:
                self._turn.release()

    def _looks_busy(self) -> bool:
        now = time.monotonic()
        if self._hot_calls is None:
            return True
        if now - self._looked_at >= LOOK_EVERY_S:
            counted = self._hot_calls()
            if counted - self._counted > FEW_READS:
                self._answered_at = now
            self._counted, self._looked_at = counted, now
        return now - self._answered_at <= REMEMBERED_S
