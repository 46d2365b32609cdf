"""Waits for what background jobs make: one statement at a time asks for all, however many requests wait."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Generic, TypeVar

import psycopg
import structlog
from prometheus_client import Gauge

from segmentd.domain.errors import Unavailable
from segmentd.observability.throttled import ThrottledLog

Key = TypeVar("Key")
Item = TypeVar("Item")

# Each waiting request counts as one in progress, so they may only be a part of max_requests.
MOST_WAITING: Final = 64
LOOK_EVERY_S: Final = 0.1

_log = structlog.get_logger(__name__)


class Waiting(Generic[Key, Item]):
    """The requests of one process that wait for reports, or for imports.

    `final` gives those of the items with these keys that are final.
    """

    def __init__(
        self, what: str, final: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Item]]], waiters: Gauge
    ) -> None:
        self._what = what
        self._ask = final
        self._waiters = waiters
        self._throttled = ThrottledLog(_log)
        self._awaited: dict[asyncio.Future[Item | None], Key] = {}
        self._looking: asyncio.Task[None] | None = None
        self._ended = False

    async def wait(self, key: Key, seconds: float) -> Item | None:
        """The item once it is final; None if that takes longer, or if too many requests wait already."""
        if self._ended or len(self._awaited) >= MOST_WAITING:
            return None
        found: asyncio.Future[Item | None] = asyncio.get_running_loop().create_future()
        self._awaited[found] = key
        self._waiters.set(len(self._awaited))
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name=f"look for final {self._what}")
        try:
            async with asyncio.timeout(seconds):
                return await found
        except TimeoutError:
            return None
        finally:
            del self._awaited[found]
            self._waiters.set(len(self._awaited))

    def end(self) -> None:
        """Answers all waiting requests now, and lets none wait from now on."""
        self._ended = True
        for found in self._awaited:
            _tell(found, None)

    async def _look(self) -> None:
        while self._awaited:
            final = await self._final()
            for found, key in self._awaited.items():
                if key in final:
                    _tell(found, final[key])
            await asyncio.sleep(LOOK_EVERY_S)

    async def _final(self) -> Mapping[Key, Item]:
        try:
            return await self._ask([*{*self._awaited.values()}])
        except (Unavailable, psycopg.Error) as error:  # the waiting requests go on to the next look
            self._throttled.warning(f"cannot look for final {self._what}", error=type(error).__name__)
            return {}


def _tell(found: asyncio.Future[Item | None], item: Item | None) -> None:
    if not found.done():
        found.set_result(item)
