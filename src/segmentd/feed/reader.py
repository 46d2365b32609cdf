"""The one reader of a process: it looks for changes at each notification, only while somebody follows."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import psycopg
import structlog

from segmentd.background import background
from segmentd.domain.errors import PositionExpired, Unavailable
from segmentd.feed.recent import Recent
from segmentd.observability.metrics import FeedReader, Metrics
from segmentd.observability.throttled import ThrottledLog
from segmentd.replica.notifications import listen
from segmentd.storage import feed
from segmentd.storage.database import Database
from segmentd.storage.positions import Position

# What no notification tells, such as what a background job wrote, is found so late.
LOOK_EVERY_S: Final = 1.0
# For so long it goes on when nobody follows: between two requests of somebody who waits in each.
LINGER_S: Final = 5.0
# After a look it rests for as long as that took, so that many writes do not mean many looks.
LONGEST_REST_S: Final = 0.02
_AT_A_TIME: Final = 1000

_log = structlog.get_logger(__name__)


class Reader:
    """Reads what is new once for all who are level."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self.recent = Recent()
        self._database = database
        self._metrics = metrics
        self._throttled = ThrottledLog(_log)
        self._followers = 0
        self._left_at = 0.0
        self._position: Position | None = None
        self._is_level = False
        self._is_looking = False
        self.is_failing = False
        """Whether the database did not answer the last look."""
        self._wake = asyncio.Event()
        self._came = asyncio.Event()
        self._looked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Somebody follows while the context lives."""
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1
            self._left_at = time.monotonic()

    @property
    def level(self) -> Position | None:
        """The position up to which it has read everything; None while it reads or does not run."""
        return self._position if self._is_level and self.is_running else None

    def begin(self, position: Position) -> None:
        """Begins where somebody has read up to the present, and waits for what comes."""
        self._position, self._is_level, self.is_failing = position, True, False
        self.recent.begin(position)
        self._task = asyncio.create_task(self._run(), name="read the feed")

    async def changes(self, seconds: float) -> None:
        """Waits for the next changes, or for the end, up to so many seconds."""
        await _wait(self._came, seconds)

    async def look(self, seconds: float) -> None:
        """Has it look now, and waits for that; up to so many seconds, and as long for a look under way."""
        for _ in range(1 + self._is_looking):
            self._wake.set()
            await _wait(self._looked, seconds)

    def end(self) -> None:
        """Ends it, and every wait."""
        if self._task is not None:
            self._task.cancel()
        self._say()

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def _run(self) -> None:
        listening = listen(self._database.url, self._wake, asyncio.Event())
        async with background(listening, "listen for the feed"):
            while self._followers or time.monotonic() - self._left_at < LINGER_S:
                begun = time.monotonic()
                self._is_looking = True
                try:
                    await self._look()
                    self.is_failing = False
                except PositionExpired:  # each follower learns it from a reading of its own
                    break
                except (Unavailable, psycopg.Error) as error:
                    self._throttled.warning("cannot read the feed", error=type(error).__name__)
                    self.is_failing = True
                    self._say()
                finally:
                    self._is_looking = False
                await asyncio.sleep(min(time.monotonic() - begun, LONGEST_REST_S))
                await self._woken()
        self._is_level = False
        self._say()

    async def _woken(self) -> None:
        await _wait(self._wake, LOOK_EVERY_S)
        self._wake.clear()

    async def _look(self) -> None:
        while True:
            self._metrics.feed_read(FeedReader.SHARED)
            reading = await feed.read(self._database, self._position, _AT_A_TIME)
            self._position, self._is_level = reading.position, reading.is_level
            self.recent.add(reading.changes)
            if reading.changes:
                self._came = _told(self._came)
            if reading.is_level:
                # One who was alone until now may have read up to here.
                self.recent.note(reading.position.text())
                self._looked = _told(self._looked)
                return

    def _say(self) -> None:
        self._came, self._looked = _told(self._came), _told(self._looked)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _told(event: asyncio.Event) -> asyncio.Event:
    """Wakes all who wait; those who come later wait for another event."""
    event.set()
    return asyncio.Event()
