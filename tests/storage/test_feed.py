"""The feed gives every committed change exactly once, and those of a user in their order."""

import asyncio
import random
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Final

import psycopg
import pytest

from segmentd.domain.errors import Invalid, PositionExpired
from segmentd.domain.feed import MembershipChange, SegmentChange
from segmentd.storage import feed, upkeep
from segmentd.storage.database import Database
from segmentd.storage.feed import present, read
from segmentd.storage.positions import Log, Position, read_position
from segmentd.storage.snapshots import Snapshot
from tests.support.client import Api
from tests.support.clock import Clock
from tests.support.following import Follower
from tests.support.rows import Rows
from tests.support.writers import SLUGS, write

USERS: Final = range(1, 6)


def explicit(rows: Rows) -> dict[str, dict[int, datetime | None]]:
    """The explicit members of each living segment, as the tables have them."""
    members: dict[str, dict[int, datetime | None]] = {
        slug: {} for slug in rows.column("SELECT slug FROM segments WHERE deleted_at IS NULL")
    }
    for slug, user_id, until in rows(
        "SELECT s.slug, m.user_id, m.until FROM memberships m JOIN segments s ON s.id = m.segment_id"
        " WHERE m.ended_at IS NULL AND m.included AND s.deleted_at IS NULL"
    ):
        members[slug][user_id] = until
    return members


class Story:
    """What clients and jobs do to few users and segments, one after the other, as chance has it."""

    def __init__(self, api: Api, database: Database, clock: Clock, chance: random.Random) -> None:
        self._api, self._database, self._clock, self._chance = api, database, clock, chance

    async def go_on(self) -> None:
        """One thing happens."""
        rare = [self._end_user, self._erase, self._settle, self._pass_time, self._pass_time]
        await self._chance.choice([*[self._change] * 8, *[self._segment] * 5, *rare])()

    async def _change(self) -> None:
        chosen = self._chance.sample(SLUGS, 2)
        added = [slug if self._chance.random() < 0.5 else {"slug": slug, "ttl_seconds": 5} for slug in chosen]
        change = {"add": added} if self._chance.random() < 0.7 else {"remove": chosen}
        await self._api.post(f"users/{self._chance.choice(USERS)}/segments", json=change)

    async def _segment(self) -> None:
        slug, other = self._chance.sample(SLUGS, 2)
        percent = self._chance.choice([None, 0, 50])
        match self._chance.randint(0, 4):
            case 0:
                await self._api.delete(f"segments/{slug}")
            case 1:
                await self._api.patch(f"segments/{slug}", json={"slug": other, "percent": percent})
            case _:
                await self._api.post("segments", json={"slug": slug, "percent": percent})

    async def _end_user(self) -> None:
        await self._api.delete(f"users/{self._chance.choice(USERS)}")

    async def _erase(self) -> None:
        await self._api.delete(f"users/{self._chance.choice(USERS)}", params={"erase": "true"})

    async def _settle(self) -> None:
        await upkeep.settle_due_terms(self._database, batch_users=2)
        await upkeep.settle_deleted_segments(self._database, batch_users=2)

    async def _pass_time(self) -> None:
        # Sometimes somebody sets the clock back.
        self._clock.advance(seconds=self._chance.choice([1, 3, 6, -2]))


@pytest.mark.parametrize("seed", range(3))
async def test_the_sum_of_all_changes_is_every_explicit_membership(
    api: Api, database: Database, clock: Clock, rows: Rows, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(feed, "WINDOW_CHANGES", 4)
    chance = random.Random(seed)
    story = Story(api, database, clock, chance)
    always, seldom = Follower(database), Follower(database)
    for _ in range(100):
        await story.go_on()
        if chance.random() < 0.8:
            await always.read(chance.randint(1, 5))
        if chance.random() < 0.05:
            await seldom.read(chance.randint(1, 5))

    late = Follower(database)
    for follower in (always, seldom, late):
        await follower.catch_up(chance.randint(1, 7))
        assert follower.copy.members == explicit(rows)
        for user_id in USERS:
            times = [
                change.at
                for change in follower.came
                if isinstance(change, MembershipChange)
                and change.user_id == user_id
                and change.cause != "user-deleted"
            ]
            assert times == sorted(times)


WRITERS: Final = 8


async def test_with_concurrent_long_and_undone_transactions_every_change_comes_once(
    api: Api, database: Database, database_url: str, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    for slug in SLUGS:
        await api.create(slug)
    # So that a reader who is only a little behind divides what it has not seen.
    monkeypatch.setattr(feed, "WINDOW_CHANGES", 3)
    chance = random.Random(7)
    followers = [Follower(database) for _ in range(3)]
    done = asyncio.Event()

    async def follow(follower: Follower, pause: float) -> None:
        while not done.is_set():
            await follower.read(chance.randint(1, 4))
            await asyncio.sleep(pause)
        await follower.catch_up(3)

    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        following = [group.create_task(follow(each, i * 0.02)) for i, each in enumerate(followers)]
        await asyncio.gather(*[write(database_url, random.Random(n), 40) for n in range(WRITERS)])
        done.set()
        await asyncio.gather(*following)

    expected = Counter(
        rows("SELECT e.user_id, s.slug, e.at FROM membership_events e JOIN segments s ON s.id = e.segment_id")
    )
    assert len(expected) > 200
    for follower in [*followers, late := Follower(database)]:
        if follower is late:
            await late.catch_up(5)
        assert follower.events() == expected
        times = defaultdict(list)
        for change in follower.came:
            if isinstance(change, MembershipChange):
                times[change.user_id].append(change.at)
        assert all(each == sorted(each) for each in times.values())
        assert follower.copy.members == explicit(rows)


async def test_now_is_after_all_that_is_committed(api: Api, database: Database) -> None:
    await api.create("A")
    await api.add(1, "A")
    follower = Follower(database, await present(database))
    follower.copy.members["A"] = {1: None}
    await api.remove(1, "A")

    await follower.catch_up(10)

    assert [change.operation for change in follower.came] == ["remove"]


async def test_a_renaming_that_changes_only_the_case_is_a_change(api: Api, database: Database) -> None:
    await api.create("A")
    before = await present(database)
    await api.change_segment("A", slug="a")

    [(_, change)] = (await read(database, before, 10)).changes

    assert isinstance(change, SegmentChange)
    assert (change.operation, change.slug_before, change.segment) == ("renamed", "A", "a")


async def test_late_events_of_a_deleted_segment_do_not_touch_one_that_was_renamed_to_its_slug(
    api: Api, database: Database, clock: Clock, rows: Rows
) -> None:
    await api.create("A")
    await api.create("B")
    await api.add(1, "A", "B")
    await api.add(2, {"slug": "A", "ttl_seconds": 1}, "B")
    clock.advance(seconds=5)
    await api.delete("segments/A")
    await api.change_segment("B", slug="A")
    follower = Follower(database)
    await follower.catch_up(100)
    await upkeep.settle_due_terms(database)
    await upkeep.settle_deleted_segments(database)
    assert rows.column("SELECT count(*) FROM membership_events WHERE cause <> 'request'") == [2]

    await follower.catch_up(100)

    assert follower.copy.members == explicit(rows) == {"A": {1: None, 2: None}}


async def test_a_follower_sees_an_erasure_also_of_segments_that_the_user_had_left_unseen(
    api: Api, database: Database
) -> None:
    for slug in ("LEFT", "IN", "NEVER"):
        await api.create(slug)
    await api.add(1, "LEFT")
    follower = Follower(database)
    await follower.catch_up(10)
    await api.change(1, add=["IN"], remove=["LEFT"])
    await api.delete("users/1", params={"erase": "true"})
    await api.add(1, "NEVER")

    await follower.catch_up(10)

    assert follower.copy.members == {"LEFT": {}, "IN": {}, "NEVER": {1: None}}
    removals = [change for change in follower.came if isinstance(change, MembershipChange)][1:3]
    assert {(change.segment, change.operation, change.cause) for change in removals} == {
        ("LEFT", "remove", "user-deleted"),
        ("IN", "remove", "user-deleted"),
    }
    late = Follower(database)
    await late.catch_up(10)
    assert late.copy.members == follower.copy.members
    assert len(late.came) == 4


async def test_an_erasure_comes_before_a_rename_and_before_a_new_life_even_if_the_clock_was_set_back(
    api: Api, database: Database, clock: Clock, rows: Rows
) -> None:
    for slug in ("A", "B"):
        await api.create(slug)
    clock.advance(seconds=100)
    for user_id in (1, 2):
        await api.add(user_id, "A")
    follower = Follower(database)
    await follower.catch_up(10)
    await api.delete("users/1", params={"erase": "true"})
    clock.advance(seconds=-50)
    await api.add(1, "A")
    await follower.catch_up(10)
    assert follower.copy.members == explicit(rows) == {"A": {1: None, 2: None}, "B": {}}

    await api.change_segment("A", slug="C")
    clock.advance(seconds=100)
    await api.delete("users/2", params={"erase": "true"})
    await follower.catch_up(10)
    assert follower.copy.members == explicit(rows) == {"C": {1: None}, "B": {}}


async def test_a_position_expires_when_an_erasure_behind_it_is_forgotten(
    api: Api, database: Database, rows: Rows
) -> None:
    await api.create("A")
    await api.add(1, "A")
    before = await present(database)
    await api.delete("users/1", params={"erase": "true"})
    after = await present(database)
    rows.run("UPDATE erasures SET at = at - interval '25 hours'")
    await upkeep.forget_erasures(database)

    assert rows("SELECT * FROM erasures") == []
    with pytest.raises(PositionExpired):
        await read(database, before, 10)
    assert (await read(database, after, 10)).changes == []
    [(_, created)] = (await read(database, None, 10)).changes
    assert created.segment == "A"


async def test_a_position_of_another_database_or_of_one_that_was_ahead_has_expired(
    database: Database,
) -> None:
    here = await present(database)
    database_id, timeline, place = here.log
    for log in (
        Log(database_id + 1, timeline, place),
        Log(database_id, timeline, place + 2**40),
        Log(database_id, timeline + 1, place),
    ):
        with pytest.raises(PositionExpired):
            await read(database, Position(log, here.seen), 10)
    with pytest.raises(PositionExpired):
        await read(database, Position(here.log, Snapshot(here.seen.xmax + 10**6, [])), 10)


async def test_a_damaged_position_is_a_bad_value(database: Database) -> None:
    text = (await present(database)).text()
    assert read_position(text).text() == text
    for wrong in ("", "x", text[:-1], text + "A", text.lower(), "ä"):
        with pytest.raises(Invalid, match="not a position of this feed"):
            read_position(wrong)


async def test_rows_whose_transactions_tell_nothing_of_their_order_come_once_too(
    api: Api, database: Database, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "WINDOW_CHANGES", 3)
    await api.create("A")
    # As a script may write them: older than the segment by their transactions, younger by their times.
    rows.run(
        "INSERT INTO membership_events (user_id, segment_id, at, operation, effective, cause, actor, xid)"
        " SELECT n, 1, clock_timestamp() + n * interval '1 ms', 'add', true, 'request', 'me',"
        " (10 + n)::text::xid8 FROM generate_series(1, 20) n"
    )
    follower = Follower(database)

    await follower.catch_up(4)

    assert follower.copy.members == {"A": dict.fromkeys(range(1, 21))}
    assert {*follower.events().values()} == {1}


async def test_transactions_that_stay_open_hide_nothing_and_cost_nothing(
    api: Api, database: Database, database_url: str
) -> None:
    for slug in SLUGS:
        await api.create(slug)
    await api.add(1, "A")
    follower = Follower(database)
    with psycopg.connect(database_url) as open_one:
        open_one.execute(
            "SELECT change_memberships('{1}', '{w}', '{NULL}', '{NULL}', '{1}', '{B}', '{t}', '{NULL}',"
            " '{NULL}', true)"
        )
        await api.add(2, "A")
        await follower.catch_up(100)
        assert follower.copy.members["A"] == {1: None, 2: None}
        assert follower.copy.members["B"] == {}
        await api.add(3, "A")
        await follower.catch_up(100)

    await follower.catch_up(100)

    assert follower.copy.members["A"] == {1: None, 2: None, 3: None}
    assert follower.copy.members["B"] == {1: None}
    assert sum(follower.events().values()) == 4
