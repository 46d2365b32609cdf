"""Follows the feed: what came after a position, at once or as soon as there is something."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Final, NamedTuple

from segmentd.domain.errors import Overloaded, Unavailable
from segmentd.domain.feed import BEGIN, EVERYTHING, NOW, Wanted
from segmentd.domain.pages import Limit
from segmentd.feed.reader import LOOK_EVERY_S, Reader
from segmentd.feed.recent import Entry
from segmentd.observability.metrics import FeedReader, Metrics
from segmentd.storage import feed
from segmentd.storage.database import Database
from segmentd.storage.positions import Position, read_position
from segmentd.storage.recent_changes import RecentChanges, recent
from segmentd.streams import Streams

# Readings of those who are behind, at once: with hundreds of them, connections remain for other requests.
ALONE_AT_ONCE: Final = 2
# For so long a request without a wait looks for wanted changes among others, before its answer is empty.
SEARCH_S: Final = 0.5
# What is read at once where only some of it is wanted.
_SEARCHED_AT_A_TIME: Final = 1000
STREAMED_AT_A_TIME: Final = Limit(500)
# If nothing comes for so long, a stream says that it lives.
QUIET_S: Final = 15.0
_FELL_BEHIND: Final = "You read more slowly than changes come; come again from your last position."


class FeedPage(NamedTuple):
    """Some changes, and the position after them, at which the next page begins."""

    entries: list[Entry]
    position: str


class Feed:
    """The feed for those who follow it in one process."""

    def __init__(self, database: Database, metrics: Metrics, streams: Streams, longest_wait_s: float) -> None:
        self.reader = Reader(database, metrics)
        self.is_leaving = False
        """Whether the process is about to stop."""
        self._database = database
        self._metrics = metrics
        self._streams = streams
        self._longest_wait_s = longest_wait_s
        self._alone = asyncio.Semaphore(ALONE_AT_ONCE)

    async def page(self, after: str, wanted: Wanted, limit: Limit, wait_s: float = 0) -> FeedPage:
        """A page of the wanted changes after a position, or after BEGIN or NOW.

        An empty one is held back for so many seconds, until there is something. Raises Invalid,
        PositionExpired, Overloaded, Unavailable.
        """
        with self._streams.one() if wait_s else nullcontext(), self.reader.followed():
            follower = _Follower(self, wanted, await self._begin(after), is_stream=False)
            page = await follower.page(limit, min(wait_s, self._longest_wait_s))
        self._metrics.feed_changes.inc(len(page.entries))
        return page

    async def recent(self, limit: Limit, cursor: str | None) -> RecentChanges:
        """A page of all changes up to now, the newest first. Raises Invalid, Overloaded, Unavailable."""
        async with self.turn():
            return await recent(self._database, limit, cursor)

    async def stream(self, after: str, wanted: Wanted) -> AsyncGenerator[FeedPage]:
        """Pages of all that comes after a position, until the process stops; an empty one in quiet times.

        Raises Invalid, PositionExpired, Overloaded, Unavailable. It also raises Unavailable if the caller is
        so slow that the process no longer keeps the next changes.
        """
        if self.is_leaving:
            raise Unavailable("The service is about to stop.")
        with self._streams.one(), self.reader.followed():
            follower = _Follower(self, wanted, await self._begin(after), is_stream=True)
            page = await follower.page(STREAMED_AT_A_TIME, 0)
            while not self.is_leaving:
                self._metrics.feed_changes.inc(len(page.entries))
                yield page
                page = await follower.page(STREAMED_AT_A_TIME, QUIET_S)

    def end_waiting(self) -> None:
        """Before a stop: answers those who wait, and ends the streams."""
        self.is_leaving = True
        self.reader.end()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One of those who are behind, a few at once, has the database. Raises Overloaded."""
        try:
            async with asyncio.timeout(self._database.longest_wait_s):
                await self._alone.acquire()
        except TimeoutError:
            raise Overloaded("Too many followers are behind at once; try again shortly.") from None
        try:
            yield
        finally:
            self._alone.release()

    async def read(self, position: Position | None, limit: int, end: Position | None) -> feed.Reading:
        """As feed.read, in a turn."""
        self._metrics.feed_read(FeedReader.ALONE)
        return await feed.read(self._database, position, limit, end and end.seen)

    async def _begin(self, after: str) -> str:
        if after == NOW:
            return (await feed.present(self._database)).text()
        if after != BEGIN:
            read_position(after)
        return after


class _Follower:
    """Where one who follows is."""

    def __init__(self, of: Feed, wanted: Wanted, position: str, *, is_stream: bool) -> None:
        self._feed = of
        self._reader = of.reader
        self._wanted = wanted
        self._position = position
        self._is_stream = is_stream
        self._was_level = False

    async def page(self, limit: Limit, wait_s: float) -> FeedPage:
        """As Feed.page."""
        clock = asyncio.get_running_loop().time
        give_up = clock() + wait_s
        search_until = clock() + max(wait_s, SEARCH_S)
        # One who does not wait gets all that was committed before. Others share what is found a bit later.
        shares = has_looked = self._is_stream or wait_s > 0
        while True:
            if (place := self._place()) is not None:
                entries, is_level = self._read_recent(place, limit), True
            else:
                entries, is_level = await self._read_alone(limit, shares=shares)
            if entries or self._feed.is_leaving:
                break
            if is_level and place is not None and not has_looked:
                has_looked = True
                await self._reader.look(LOOK_EVERY_S)
            elif clock() >= (give_up if is_level else search_until):
                break
            elif is_level:
                await self._wait(place, give_up - clock())
        return FeedPage(entries, self._position)

    def _place(self) -> int | None:
        """Among the recent changes, if they go on from its position."""
        return self._reader.recent.place_of(self._position) if self._reader.is_running else None

    async def _wait(self, place: int | None, seconds: float) -> None:
        if place is not None:
            await self._reader.changes(seconds)
        elif self._place() is None:  # the reader has to see as much as this follower first
            await self._reader.look(min(seconds, LOOK_EVERY_S))

    def _read_recent(self, place: int, limit: Limit) -> list[Entry]:
        self._was_level = True
        entries, last = self._reader.recent.after(place, limit, self._wanted)
        if last is not None:
            self._position = last
        elif (level := self._reader.level) is not None:
            self._position = level.text()  # a position gets old while nothing comes
        if not entries and self._reader.is_failing and not self._is_stream:
            raise Unavailable
        return entries

    async def _read_alone(self, limit: Limit, *, shares: bool) -> tuple[list[Entry], bool]:
        if self._was_level and self._is_stream:
            raise Unavailable(_FELL_BEHIND)
        position = None if self._position == BEGIN else read_position(self._position)
        if shares and self._level_after(position) is None and self._reader.is_running:
            await self._reader.look(LOOK_EVERY_S)
        async with self._feed.turn():
            level = self._level_after(position) if shares else None
            if level is not None and position is not None and position.stops_at(level):
                self._position = level.text()
                return [], True
            at_a_time = limit if self._wanted == EVERYTHING else _SEARCHED_AT_A_TIME
            reading = await self._feed.read(position, at_a_time, level)
            if reading.is_level and shares and not self._reader.is_running:
                self._reader.begin(reading.position)
        found = [each for each in reading.changes if self._wanted.has(each[1])]
        taken, is_level = found[:limit], reading.is_level
        if len(taken) < len(found):
            after, is_level = taken[-1][0], False
        else:
            after = level if is_level and level is not None else reading.position
        self._position = after.text()
        return [Entry(at.text(), change) for at, change in taken], is_level

    def _level_after(self, position: Position | None) -> Position | None:
        """Up to where the reader has read, if that is all that this follower has seen, and perhaps more."""
        level = self._reader.level
        covers = level is not None and (position is None or level.seen.covers(position.seen))
        return level if covers else None
