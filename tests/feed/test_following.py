"""One reader serves all followers that are level; a slow stream ends; streams outlive outages."""

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from datetime import datetime
from pathlib import Path
from typing import LiteralString

import pytest

from segmentd.domain.errors import Invalid, Overloaded, PositionExpired, Unavailable
from segmentd.domain.feed import EVERYTHING, FeedChange, MembershipChange, Wanted
from segmentd.domain.identifiers import Slug, UserId
from segmentd.domain.pages import Limit
from segmentd.feed import following
from segmentd.feed.following import Feed, FeedPage
from segmentd.observability.metrics import Metrics
from segmentd.storage.database import Database
from segmentd.storage.feed import present
from segmentd.storage.positions import Position
from segmentd.streams import Streams
from tests.support.client import Api
from tests.support.relay import relay_to
from tests.support.rows import Rows
from tests.support.writers import SLUGS, write

MANY = Limit(1000)


def readings(metrics: Metrics, reader: str) -> int:
    """How often the feed was read from the database."""
    page = metrics.page((), "").content.decode()
    match = re.search(rf'^segmentd_feed_readings_total{{reader="{reader}"}} (\d+)', page, re.MULTILINE)
    assert match is not None
    return int(match[1])


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """These services have no node, and so nobody notifies."""
    monkeypatch.setattr("segmentd.feed.reader.LOOK_EVERY_S", 0.02)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def feed(database: Database, metrics: Metrics) -> AsyncIterator[Feed]:
    feed = Feed(database, metrics, Streams(), 60)
    yield feed
    feed.end_waiting()


async def users_in(pages: AsyncIterator[FeedPage], count: int) -> list[int]:
    """The users of the next so many changes of memberships."""
    found: list[FeedChange] = []
    while len(found) < count:
        found += [
            each.change for each in (await anext(pages)).entries if isinstance(each.change, MembershipChange)
        ]
    return [change.user_id for change in found if isinstance(change, MembershipChange)]


async def test_a_hundred_followers_cost_the_readings_of_one(
    api: Api, database: Database, feed: Feed, metrics: Metrics
) -> None:
    await api.create("A")
    position = (await present(database)).text()
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(aclosing(feed.stream(position, EVERYTHING))) for _ in range(100)
        ]
        # The first pages are empty; then all wait.
        assert {len((await anext(each)).entries) for each in streams} == {0}
        waiting = [asyncio.create_task(users_in(each, 20)) for each in streams]
        await asyncio.sleep(0)
        for user_id in range(1, 21):
            await api.add(user_id, "A")
        assert await asyncio.wait_for(asyncio.gather(*waiting), 60) == [[*range(1, 21)]] * 100

        shared, alone = readings(metrics, "shared"), readings(metrics, "alone")
        # What it costs to be followed does not depend on how many do that.
        assert shared < 100
        # Each came with a position of its own.
        assert alone <= 100

        more = [asyncio.create_task(users_in(each, 1)) for each in streams]
        await api.add(21, "A")
        assert await asyncio.wait_for(asyncio.gather(*more), 60) == [[21]] * 100
        assert readings(metrics, "alone") == alone


async def test_whoever_comes_when_others_follow_gets_the_same_feed(
    api: Api, database: Database, feed: Feed
) -> None:
    await api.create("A")
    async with aclosing(feed.stream("begin", EVERYTHING)) as first:
        task = asyncio.create_task(users_in(first, 30))
        others: list[asyncio.Task[list[int]]] = []
        async with AsyncExitStack() as stack:
            for user_id in range(1, 31):
                await api.add(user_id, "A")
                if user_id % 5 == 0:
                    after = "begin" if user_id % 2 else (await present(database)).text()
                    stream = await stack.enter_async_context(aclosing(feed.stream(after, EVERYTHING)))
                    expected = 30 if user_id % 2 else 30 - user_id
                    others.append(asyncio.create_task(users_in(stream, expected)))
            assert await asyncio.wait_for(task, 60) == [*range(1, 31)]
            for other in others:
                found = await asyncio.wait_for(other, 60)
                assert found == [*range(31 - len(found), 31)]


async def test_one_who_is_slow_costs_no_more_than_what_is_kept_and_is_told_to_come_again(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmentd.feed.recent.Recent.__init__.__defaults__", (8,))
    monkeypatch.setattr(following, "STREAMED_AT_A_TIME", Limit(2))
    feed = Feed(database, Metrics(), Streams(), 60)
    await api.create("A")
    now = (await present(database)).text()
    async with (
        aclosing(feed.stream(now, EVERYTHING)) as slow,
        aclosing(feed.stream(now, EVERYTHING)) as quick,
    ):
        assert [(await anext(each)).entries for each in (slow, quick)] == [[], []]
        first = asyncio.create_task(anext(slow))
        for user_id in range(1, 31):
            await api.add(user_id, "A")
            assert await asyncio.wait_for(users_in(quick, 1), 60) == [user_id]
        page = await asyncio.wait_for(first, 60)

        async def go_on() -> None:
            nonlocal page
            while True:
                page = await anext(slow)

        with pytest.raises(Unavailable, match="come again from your last position"):
            await go_on()

    # And then nothing is missing.
    [last] = [each.change for each in page.entries[-1:]]
    assert isinstance(last, MembershipChange)
    again = await feed.page(page.position, EVERYTHING, MANY)
    users = [each.change.user_id for each in again.entries if isinstance(each.change, MembershipChange)]
    assert users == [*range(last.user_id + 1, 31)]
    feed.end_waiting()


async def test_the_reader_ends_when_nobody_follows_any_more(
    api: Api, feed: Feed, monkeypatch: pytest.MonkeyPatch, rows: Rows
) -> None:
    monkeypatch.setattr("segmentd.feed.reader.LINGER_S", 0.0)
    listening: LiteralString = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%%'"
    )
    await feed.page("now", EVERYTHING, MANY, 0.3)
    async with asyncio.timeout(30):
        while feed.reader.is_running or rows.column(listening) != [0]:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0.01)

    await api.create("A")
    assert len((await feed.page("begin", EVERYTHING, MANY)).entries) == 1


async def test_waiting_and_streams_are_bounded_together(database: Database) -> None:
    feed = Feed(database, Metrics(), Streams(1), 60)
    async with aclosing(feed.stream("now", EVERYTHING)) as stream:
        await anext(stream)
        with pytest.raises(Overloaded):
            await feed.page("now", EVERYTHING, MANY, 1)
        async with aclosing(feed.stream("now", EVERYTHING)) as another:
            with pytest.raises(Overloaded):
                await anext(another)
        assert (await feed.page("now", EVERYTHING, MANY)).entries == []
    feed.end_waiting()


async def test_before_a_stop_those_who_wait_are_answered(feed: Feed) -> None:
    waiting = asyncio.create_task(feed.page("now", EVERYTHING, MANY, 60))
    async with aclosing(feed.stream("now", Wanted(Slug("A"), UserId(1)))) as stream:
        await anext(stream)
        ending = asyncio.create_task(anext(stream, None))
        await asyncio.sleep(0.05)
        feed.end_waiting()

        assert (await asyncio.wait_for(waiting, 30)).entries == []
        assert await asyncio.wait_for(ending, 30) is None
        async with aclosing(feed.stream("now", EVERYTHING)) as late:
            with pytest.raises(Unavailable):
                await anext(late)


async def test_bad_and_expired_positions_are_refused_before_anything_is_sent(
    database: Database, feed: Feed
) -> None:
    here = await present(database)
    expired = Position(here.log._replace(database=1), here.seen).text()
    for after, error in (("x", Invalid), (expired, PositionExpired)):
        async with aclosing(feed.stream(after, EVERYTHING)) as stream:
            with pytest.raises(error):
                await anext(stream)
        with pytest.raises(error):
            await feed.page(after, EVERYTHING, MANY, 5)


async def test_while_the_database_is_away_a_request_says_so(tmp_path: Path) -> None:
    away = Feed(Database(f"host={tmp_path}"), Metrics(), Streams(), 60)
    with pytest.raises(Unavailable):
        await away.page("begin", EVERYTHING, MANY, 1)
    away.end_waiting()


async def test_whatever_commits_late_every_stream_has_each_change_once(
    api: Api, database_url: str, feed: Feed, rows: Rows
) -> None:
    for slug in SLUGS:
        await api.create(slug)
    done = asyncio.Event()

    async def follow(came: Counter[tuple[int, str, datetime]]) -> None:
        async with aclosing(feed.stream("begin", EVERYTHING)) as stream:
            async for page in stream:
                changes = [each.change for each in page.entries]
                came.update(
                    (each.user_id, each.segment, each.at)
                    for each in changes
                    if isinstance(each, MembershipChange)
                )
                if done.is_set() and came == expected:
                    return

    expected: Counter[tuple[int, str, datetime]] = Counter()
    counts: list[Counter[tuple[int, str, datetime]]] = [Counter() for _ in range(4)]
    async with asyncio.TaskGroup() as group:
        writers = [group.create_task(write(database_url, random.Random(n), 25)) for n in range(5)]
        for each in counts:
            group.create_task(follow(each))
            await asyncio.sleep(0.1)
        await asyncio.gather(*writers)
        expected.update(
            rows(
                "SELECT e.user_id, s.slug, e.at"
                " FROM membership_events e JOIN segments s ON s.id = e.segment_id"
            )
        )
        done.set()
        # One more change, so that each stream looks once more whether it has all.
        await api.create("LAST")


async def test_a_stream_outlives_an_outage_and_one_who_waits_is_told_of_it(
    api: Api, database_url: str
) -> None:
    await api.create("A")
    async with relay_to(database_url) as relay, Database(relay.url) as database:
        feed = Feed(database, Metrics(), Streams(), 60)
        async with aclosing(feed.stream("now", EVERYTHING)) as stream:
            await anext(stream)
            position = (await feed.page("now", EVERYTHING, MANY)).position
            waiting = asyncio.create_task(feed.page(position, EVERYTHING, MANY, 60))
            coming = asyncio.create_task(users_in(stream, 1))
            await asyncio.sleep(0)
            await relay.cut()
            with pytest.raises(Unavailable):
                await asyncio.wait_for(waiting, 60)
            await api.add(1, "A")
            relay.mend()

            assert await asyncio.wait_for(coming, 60) == [1]
        feed.end_waiting()
