"""An export says of each member what the member's own segments say: why, since when, until when."""

import json
import random
from collections.abc import Iterator
from datetime import datetime
from typing import Final

import psycopg
import pytest

from segmentd.domain.instants import rfc3339
from segmentd.storage import upkeep
from segmentd.storage.database import Database
from tests.support.client import Api, Json
from tests.support.clock import Clock

USERS: Final = range(1, 25)
SLUGS: Final = ("LIST", "SHARE", "BOTH")
PERCENTS: Final = (0, 20, 50, 80, 100, None)
STEPS: Final = 70


async def happen(api: Api, clock: Clock, chance: random.Random) -> None:
    """Something that can happen to users and segments."""
    kind = chance.choices(("change", "percent", "leave", "come"), (10, 5, 1, 1))[0]
    user = chance.choice(USERS)
    if kind == "change":
        slug = chance.choice(SLUGS)
        term = {"slug": slug, "ttl_seconds": chance.choice((1, 60, 3600))}
        wish: Json = chance.choice(({"add": [slug]}, {"add": [term]}, {"add": [term]}, {"remove": [slug]}))
        for each in {user, *chance.sample(USERS, 3)}:
            await api.change(each, **wish)
    elif kind == "percent":
        await api.change_segment(chance.choice(SLUGS[1:]), percent=chance.choice(PERCENTS))
    elif kind == "leave":
        await api.delete(f"users/{user}")
    else:
        await api.post("users", json={"id": user})
    clock.advance(seconds=chance.choice((0, 0, 1, 30, 1800)))


def by_detail(url: str, at: datetime | None) -> Iterator[dict[str, Json]]:
    """The members according to the segments of each user who lives at that instant."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        yield from (
            {"slug": slug, "user_id": user_id, "source": source, "since": since, "until": until}
            for user_id, slug, source, since, until in connection.execute(
                """
                SELECT l.user_id, s.slug, s.source, rfc3339(s.since), rfc3339(s.until)
                FROM registrations l
                CROSS JOIN LATERAL segments_at(l.user_id, coalesce(%(at)s, present_of(l.user_id))) s
                WHERE CASE WHEN %(at)s::timestamptz IS NULL THEN l.ended_at IS NULL
                           ELSE l.registered_at <= %(at)s AND (l.ended_at IS NULL OR l.ended_at > %(at)s) END
                ORDER BY l.user_id
                """,
                {"at": at},
            )
        )


async def exported(api: Api, slug: str, at: datetime | None = None) -> list[dict[str, Json]]:
    query = {"format": "ndjson", **({"at": rfc3339(at)} if at else {})}
    answer = await api.get(f"segments/{slug}/export", params=query)
    assert answer.status_code == 200, answer.text
    return [{"slug": slug, **json.loads(line)} for line in answer.text.splitlines()]


@pytest.mark.parametrize("seed", range(3))
async def test_every_member_is_exported_as_their_own_segments_say_now_and_in_the_past(
    api: Api, database: Database, database_url: str, clock: Clock, seed: int
) -> None:
    clock.stop()
    chance = random.Random(seed)
    for slug, percent in zip(SLUGS, (None, 50, None), strict=True):
        await api.create(slug, percent=percent, salt="7")
    for user in USERS[::2]:
        await api.post("users", json={"id": user})
    instants: list[datetime | None] = [None]
    seen = set()
    for step in range(STEPS):
        await happen(api, clock, chance)
        if step % 20 == 13:
            instants.append(clock.now())
        if step % 25 == 24:
            await upkeep.settle_due_terms(database, 100)
            for at in instants:
                detail = [*by_detail(database_url, at)]
                for slug in SLUGS:
                    expected = [member for member in detail if member["slug"] == slug]
                    assert await exported(api, slug, at) == expected
                    seen |= {(member["source"], member["until"] is None) for member in expected}
    assert seen == {("explicit", True), ("explicit", False), ("rollout", True)}
