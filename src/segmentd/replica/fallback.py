"""How many hot reads ask the database at once, where the replica cannot answer.

More would not be answered sooner: they would take connections from changes, and the processor from the
follower, which is what makes the replica answer again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from segmentd.domain.errors import Overloaded, Unavailable

Found = TypeVar("Found")

MOST_AT_ONCE: Final = 4
MOST_WAITING: Final = 64
LONGEST_WAIT_SECONDS: Final = 1.0


class Fallback:
    """The reads of one process that ask the database instead of the replica."""

    def __init__(self, pool_size: int) -> None:
        # Half of the connections are for changes and everything else.
        self._at_once = asyncio.Semaphore(max(1, min(MOST_AT_ONCE, pool_size // 2)))
        self._waiting = 0

    async def ask(self, read: Callable[[], Awaitable[Found]]) -> Found:
        """The result of `read`, when it is its turn.

        Raises Overloaded at once where too many wait already, or where its turn does not come in time.
        """
        if self._waiting >= MOST_WAITING:
            raise Overloaded
        self._waiting += 1
        try:
            async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                await self._at_once.acquire()
        except TimeoutError:
            raise Overloaded from None
        finally:
            self._waiting -= 1
        try:
            return await read()
        finally:
            self._at_once.release()


class NoFallback(Fallback):
    """On a node without a database: nothing but the replica answers."""

    def __init__(self) -> None:
        super().__init__(pool_size=1)

    async def ask(self, read: Callable[[], Awaitable[Found]]) -> Found:  # noqa: ARG002 - as in Fallback
        """Raises Unavailable."""
        raise Unavailable(
            "The replica of this node is not usable now: its neighbour is away; try again shortly."
        )
