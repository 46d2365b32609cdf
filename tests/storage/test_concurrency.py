"""Many clients at once on few users and segments; afterwards the history, replayed, is what reads say."""

import asyncio
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final
from unittest.mock import patch

import httpx
import pytest

from segmentd.storage.database import Database
from segmentd.storage.upkeep import settle_deleted_segments, settle_due_terms
from tests.support.client import Api, Json
from tests.support.node import node
from tests.support.rows import Rows

USERS: Final = range(1, 6)
SLUGS: Final = ["PLAIN_1", "PLAIN_2", "PLAIN_3", "ROLLED_OUT_1", "ROLLED_OUT_2", "ROLLED_OUT_3"]
EXPECTED: Final = {200, 201, 204, 404, 409}


@dataclass
class Storm:
    """Clients of several processes' worth of pools, and what they were answered."""

    apis: list[Api]
    database: Database
    chance: random.Random
    answers: Counter[int] = field(default_factory=Counter)
    writes: Counter[int] = field(default_factory=Counter)
    names: Iterator[int] = field(default_factory=itertools.count)

    async def send(self, method: str, path: str, body: Json = None) -> httpx.Response:
        """One request through any of the pools."""
        answer = await self.chance.choice(self.apis).request(method, path, json=body)
        self.answers[answer.status_code] += 1
        if answer.status_code == 503:
            assert int(answer.headers["Retry-After"]) >= 1
        return answer

    async def change_memberships(self) -> None:
        """Adds and removes overlapping segments of a user, some for a moment only."""
        user_id = self.chance.choice(USERS)
        chosen = self.chance.sample(SLUGS, self.chance.randint(1, 4))
        border = self.chance.randint(0, len(chosen))
        terms: list[Json] = [
            {"slug": slug, "ttl_seconds": 1} if self.chance.random() < 0.3 else slug
            for slug in chosen[:border]
        ]
        change = {"add": terms, "remove": chosen[border:]}
        answer = await self.send("POST", f"users/{user_id}/segments", change)
        if answer.status_code == 200:
            self.writes[user_id] += 1
            members = set(answer.json()["segments"])
            assert members >= set(chosen[:border])
            assert members.isdisjoint(chosen[border:])

    async def read(self) -> None:
        """Asks in each way."""
        user_id, slug = self.chance.choice(USERS), self.chance.choice(SLUGS)
        paths = ["segments", "segments?detail=true", f"segments/{slug}", "history"]
        await self.send("GET", f"users/{user_id}/{self.chance.choice(paths)}")

    async def change_segment(self) -> None:
        """Deletes and makes again, renames, or changes the percentage."""
        slug = self.chance.choice(SLUGS)
        percent = self.chance.choice([0, 20, 50, 80, 100, None]) if slug.startswith("ROLLED") else None
        kind = self.chance.random()
        if kind < 0.3:
            await self.send("DELETE", f"segments/{slug}")
        elif kind < 0.4:
            # The new name is never used again, so that a slug's events are those of one segment at a time.
            await self.send("PATCH", f"segments/{slug}", {"slug": f"RENAMED_{next(self.names)}"})
        elif kind < 0.7 and slug.startswith("ROLLED"):
            await self.send("PATCH", f"segments/{slug}", {"percent": percent})
        await self.send("POST", "segments", {"slug": slug, "percent": percent})

    async def delete_user(self) -> None:
        """Ends a life; the next change begins another."""
        user_id = self.chance.choice(USERS)
        if (await self.send("DELETE", f"users/{user_id}")).status_code == 204:
            self.writes[user_id] += 1

    async def settle(self) -> None:
        """What the background jobs do."""
        await settle_due_terms(self.database, batch_users=2)
        await settle_deleted_segments(self.database, batch_users=2)

    async def rage(self, clients: int, rounds: int) -> None:
        """All clients at once, each so many times."""

        async def repeat(*acts: Callable[[], Awaitable[None]]) -> None:
            for _ in range(rounds):
                await self.chance.choice(acts)()

        changers = [repeat(*[self.change_memberships] * 4, self.read) for _ in range(clients)]
        others = [self.change_segment, self.change_segment, self.delete_user, self.settle]
        await asyncio.gather(*changers, *map(repeat, others))


@pytest.mark.parametrize(
    ("clients", "rounds"), [(32, 30), pytest.param(64, 200, marks=pytest.mark.proof, id="proof")]
)
async def test_whatever_32_clients_do_at_once_the_history_replayed_is_what_reads_say(
    database_url: str, rows: Rows, tmp_path: Path, clients: int, rounds: int
) -> None:
    async with AsyncExitStack() as stack:
        # On a busy machine a connection comes free later than the service would wait for it.
        with patch("segmentd.storage.database._LONGEST_WAIT_S", 60.0):
            nodes = [node(database_url, tmp_path / name, pool_size=6) for name in ("one", "two", "three")]
            apis = [await stack.enter_async_context(entered) for entered in nodes]
            database = await stack.enter_async_context(Database(database_url))
        storm = Storm(apis, database, random.Random(clients))
        for slug in SLUGS:
            await apis[0].create(slug, percent=50 if slug.startswith("ROLLED") else None)

        await storm.rage(clients, rounds)

        assert storm.answers.keys() <= EXPECTED | {503}
        assert storm.answers[503] <= storm.answers.total() // 100
        assert storm.answers[200] > clients * rounds // 4
        await every_term_has_ended(rows)
        for user_id in USERS:
            await assert_replayed_history_is_what_reads_say(apis[0], rows, user_id)
        await storm.settle()
        for user_id in USERS:
            await assert_replayed_history_is_what_reads_say(apis[0], rows, user_id)
    assert_the_tables_make_sense(rows)
    for user_id, version in rows("SELECT id, version FROM users"):
        assert version >= storm.writes[user_id] > 0


async def every_term_has_ended(rows: Rows) -> None:
    """Waits until nothing changes by itself any more."""
    while rows("SELECT FROM memberships WHERE ended_at IS NULL AND until > now()"):  # noqa: ASYNC110 - time, no event
        await asyncio.sleep(0.05)


async def assert_replayed_history_is_what_reads_say(api: Api, rows: Rows, user_id: int) -> None:
    events = await api.walk(f"users/{user_id}/history", "events", limit=1000)
    assert_alternating([(event["segment"], event["at"], event["operation"]) for event in events])
    if not rows("SELECT FROM registrations WHERE user_id = %s AND ended_at IS NULL", user_id):
        return  # outside of a life the percentages alone answer
    members = sorted(replayed(events))
    assert await api.segments(user_id) == members
    assert [item["slug"] for item in await api.segments(user_id, detail="true")] == members
    explained = {slug: (await api.explain(user_id, slug))["member"] for slug in living(rows)}
    assert sorted(slug for slug, member in explained.items() if member) == members

    lives = rows("SELECT registered_at, ended_at FROM registrations WHERE user_id = %s", user_id)
    for event in random.Random(user_id).sample(events, min(25, len(events))):
        at = datetime.fromisoformat(event["at"])
        if any(begin <= at and (end is None or at < end) for begin, end in lives):
            past = [earlier for earlier in events if earlier["at"] <= event["at"]]
            assert await api.segments(user_id, at=event["at"]) == sorted(replayed(past)), event["at"]


def assert_alternating(events: list[tuple[object, object, str]]) -> None:
    """Additions and removals take turns, each later than the one before."""
    by_segment: dict[object, list[tuple[object, str]]] = defaultdict(list)
    for segment, at, operation in events:
        by_segment[segment].append((at, operation))
    for segment, changes in by_segment.items():
        times = [at for at, _ in changes]
        assert times == sorted(set(times), key=str), segment
        expected = itertools.islice(itertools.cycle(["add", "remove"]), len(changes))
        assert [operation for _, operation in changes] == [*expected], (segment, changes)


def replayed(events: list[Json]) -> set[str]:
    """A user is in from an event that adds until an event that removes."""
    members: set[str] = set()
    for event in events:
        (members.add if event["operation"] == "add" else members.remove)(event["segment"])
    return members


def living(rows: Rows) -> list[str]:
    return rows.column("SELECT slug FROM segments WHERE deleted_at IS NULL")


def assert_the_tables_make_sense(rows: Rows) -> None:
    assert (
        rows("SELECT FROM memberships m WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = m.user_id)") == []
    )
    for [user_id] in rows("SELECT id FROM users"):
        assert_alternating(
            rows(
                "SELECT segment_id, at, operation FROM effective_changes(now()) WHERE user_id = %s"
                " ORDER BY at, segment_id",
                user_id,
            )
        )
        # Without a percentage at any time, the stored events are the whole history.
        assert_alternating(
            rows(
                "SELECT segment_id, at, operation FROM membership_events e WHERE user_id = %s AND effective"
                " AND NOT EXISTS (SELECT FROM rollouts r WHERE r.segment_id = e.segment_id) ORDER BY at",
                user_id,
            )
        )
    overlapping = rows(
        "SELECT a.user_id, a.segment_id, a.since FROM memberships a"
        " JOIN memberships b USING (user_id, segment_id)"
        " WHERE a.since < b.since AND (a.ended_at IS NULL OR a.ended_at > b.since)"
    )
    assert overlapping == []
    assert (
        rows(
            "SELECT FROM memberships WHERE ended_at IS NULL GROUP BY user_id, segment_id HAVING count(*) > 1"
        )
        == []
    )
    assert rows("SELECT FROM memberships WHERE ended_at IS NULL AND until <= now()") == []
    assert (
        rows(
            "SELECT FROM memberships m JOIN segments s ON s.id = m.segment_id WHERE m.ended_at > s.deleted_at"
        )
        == []
    )
    twice = rows("SELECT FROM membership_events GROUP BY user_id, segment_id, at HAVING count(*) > 1")
    assert twice == []
