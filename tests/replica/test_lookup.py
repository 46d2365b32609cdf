"""A lookup computes each user once, lets others in between, and has an answer of bounded size."""

import asyncio
import json
import struct
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final, LiteralString

import pytest
from litestar.types import ASGIApp

from segmentd.config import Settings
from segmentd.domain.errors import AnswerTooLarge
from segmentd.domain.memberships import LARGEST_LOOKUP_BYTES
from segmentd.replica.catalog import Catalog, CatalogState
from segmentd.replica.follower import Follower
from segmentd.replica.lookup import LARGE_BYTES, Lookup
from segmentd.serve.wiring import open_node, service
from segmentd.storage.database import Database
from segmentd.storage.replication import ReplicatedSegment
from tests.support.client import Api
from tests.support.door import hot_path, middleware, open_to_all
from tests.support.rows import Rows

SEGMENTS: Final = 1000
EVERYBODY: Final = 2**32

# Everybody is in a thousand segments with the longest slugs there are: 131,000 bytes a user.
LONG_SLUGS: LiteralString = """
    WITH made AS (
        INSERT INTO segments (slug, salt, created_at)
        SELECT lpad(number::text, 128, 'x'), number, clock_instant() FROM generate_series(1, 1000) AS number
        RETURNING id, created_at
    )
    INSERT INTO rollouts (segment_id, percent, started_at) SELECT id, 100, created_at FROM made;
"""
MOST_USERS: Final = LARGEST_LOOKUP_BYTES // (SEGMENTS * 131)


class Counted(Catalog):
    """A catalog that records the users that it was asked for."""

    def __init__(self, state: CatalogState) -> None:
        super().__init__(state)
        self.asked: list[list[int]] = []

    def segments_of_slice(
        self, user_ids: Sequence[int], states: Sequence[bytes | None], now: int
    ) -> list[bytes]:
        self.asked.append([*user_ids])
        return super().segments_of_slice(user_ids, states, now)


def catalog(slug: str = "s-{}") -> Counted:
    segments = [ReplicatedSegment(n, slug.format(n), n, EVERYBODY) for n in range(1, SEGMENTS + 1)]
    return Counted(CatalogState(1, segments))


async def look_up(catalog: Catalog, user_ids: Sequence[int]) -> list[bytes]:
    often = Counter(user_ids)
    found = await Lookup(catalog, [*often], [None] * len(often), 0).segments(often)
    of_user = dict(zip(often, found, strict=True))
    return [of_user[user_id] for user_id in user_ids]


async def test_an_id_that_is_repeated_is_computed_once() -> None:
    counted = catalog()
    asked = [5, 9, 5, 5, 7, 9]

    found = await look_up(counted, asked)

    assert sorted(user_id for part in counted.asked for user_id in part) == [5, 7, 9]
    assert len(json.loads(b"[%b]" % found[0])) == SEGMENTS
    assert {*found} == {found[0]}


async def test_others_are_answered_between_two_slices() -> None:
    counted = catalog()
    looking = asyncio.create_task(look_up(counted, range(1, 1001)))
    slices_seen = []
    while not looking.done():
        await asyncio.sleep(0)  # what another request does at such a moment
        slices_seen.append(len(counted.asked))

    assert len(counted.asked) > 5
    assert {*slices_seen} >= {*range(1, len(counted.asked))}


async def test_what_is_too_large_is_not_computed_to_its_end() -> None:
    counted = catalog("x" * 120 + "{:08}")

    with pytest.raises(AnswerTooLarge):
        await look_up(counted, range(1, 1001))

    computed = sum(len(part) for part in counted.asked)
    assert MOST_USERS < computed <= MOST_USERS + len(counted.asked[0])


async def test_repetitions_count_in_the_size_of_an_answer() -> None:
    counted = catalog("x" * 120 + "{:08}")
    assert len({*await look_up(counted, [1] * MOST_USERS)}) == 1
    with pytest.raises(AnswerTooLarge):
        await look_up(counted, [1] * (MOST_USERS + 1))


def test_a_thousand_users_with_a_thousand_overrides_are_large_and_those_of_every_day_are_not() -> None:
    def state(overrides: int) -> bytes:
        return struct.pack(f">Q{overrides}I", (1 << 20) + overrides, *range(1, overrides + 1))

    def large(overrides: int) -> bool:
        return Lookup(catalog(), range(1000), [state(overrides)] * 1000, 0).large

    assert not large(100)
    assert large(LARGE_BYTES // 4000)


@pytest.fixture
async def apis(
    database: Database, follower: Follower, folder: Path, rows: Rows
) -> AsyncIterator[Sequence[Api]]:
    """The hot path, the framework beside it, and a service without a replica."""
    rows.run(LONG_SLUGS)
    await follower.round()
    follower.close()
    settings = Settings(data_dir=str(folder))
    authenticator = await open_to_all(database)
    async with open_node(database, settings, folder) as node:
        beside = middleware(service(database, settings, node), authenticator)
        alone = middleware(service(database, settings), authenticator)
        doors: list[ASGIApp] = [hot_path(beside, node.replica, authenticator), beside, alone]
        opened = [Api(door) for door in doors]
        yield opened
        for api in opened:
            await api.aclose()


async def test_an_answer_that_would_be_too_large_is_refused_by_every_way_to_answer(
    apis: Sequence[Api],
) -> None:
    bodies = set()
    for api in apis:
        for user_ids in ([7] * MOST_USERS, [*range(1, MOST_USERS + 1)]):
            answer = await api.post("lookup", json={"user_ids": user_ids})
            assert answer.status_code == 200
            found = answer.json()["users"]
            assert [user["user_id"] for user in found] == user_ids
            assert {len(user["segments"]) for user in found} == {SEGMENTS}
            bodies.add(answer.content)
        for user_ids in ([7] * (MOST_USERS + 1), [*range(1, MOST_USERS + 2)]):
            answer = await api.post("lookup", json={"user_ids": user_ids})
            assert (answer.status_code, answer.json()["type"]) == (413, "/problems/answer-too-large")
            assert answer.json()["most_bytes"] == LARGEST_LOOKUP_BYTES
            assert "fewer users" in answer.json()["detail"]
    assert len(bodies) == 2


async def test_a_user_who_is_in_nothing_has_an_empty_list_by_every_way_to_answer(
    apis: Sequence[Api], rows: Rows
) -> None:
    rows.run("UPDATE rollouts SET ended_at = clock_instant()")
    assert (await apis[2].post("lookup", json={"user_ids": [3, 3, 1]})).json() == {
        "users": [{"user_id": user_id, "segments": []} for user_id in (3, 3, 1)]
    }
