"""Replicas read exactly what SQL packs."""

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from segmentd.domain.identifiers import UserId
from segmentd.replica.states import EXCLUDED, HAS_TERM, SEGMENT_BITS, next_end, version_of, words_and_ends
from segmentd.storage import replication
from segmentd.storage.database import Database
from tests.support.client import Api
from tests.support.rows import Rows

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Neither fits into a float of microseconds, so packing by way of a float fails the test.
LATE, LATER = "2262-04-11T23:47:16.854775Z", "9999-12-31T23:59:59.999999Z"


def read(state: bytes) -> list[tuple[int, bool, datetime | None]]:
    """Segment, included, end of the term, of each override."""
    words, terms = words_and_ends(state)
    ends = iter(terms)
    found = [
        (
            word & SEGMENT_BITS,
            not word & EXCLUDED,
            EPOCH + timedelta(microseconds=next(ends)) if word & HAS_TERM else None,
        )
        for word in words
    ]
    assert [*ends] == []
    return found


async def packed(database: Database, *user_ids: int) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """By the function for some users, and by the query for all users that have overrides."""
    async with replication.reading(database) as reading:
        some = await reading.states([*map(UserId, user_ids)])
        every = {
            int.from_bytes(key, "big"): state async for batch in reading.all_states() for key, state in batch
        }
    return {user.user_id: user.state for user in some}, every


def overrides(rows: Rows, user_id: int) -> Sequence[Any]:
    return rows(
        "SELECT segment_id, included, until FROM memberships WHERE user_id = %s AND ended_at IS NULL"
        " ORDER BY segment_id",
        user_id,
    )


@pytest.mark.parametrize(
    ("added", "removed"),
    [
        (["A"], []),
        ([], ["HALF"]),
        (["A", "HALF"], ["NONE", "ALL"]),
        ([{"slug": "A", "until": LATE}], []),
        (["A", {"slug": "B", "until": LATE}, {"slug": "HALF", "until": LATER}, "C"], ["ALL"]),
    ],
    ids=["included", "excluded", "both", "with a term", "all kinds"],
)
async def test_overrides_are_read_as_they_were_packed(
    api: Api, database: Database, rows: Rows, added: Sequence[Any], removed: Sequence[str]
) -> None:
    for slug in ("A", "B", "C"):
        await api.create(slug)
    for slug, percent in {"HALF": 50, "ALL": 100, "NONE": 0}.items():
        await api.create(slug, percent=percent)
    await api.change(7, add=[*added], remove=[*removed])

    some, every = await packed(database, 7)

    assert some == every
    assert read(some[7]) == overrides(rows, 7)
    assert len(read(some[7])) == len(added) + len(removed)
    assert [version_of(some[7])] == rows.column("SELECT version FROM users WHERE id = 7")


async def test_a_user_with_nothing_left_has_a_state_that_says_so(api: Api, database: Database) -> None:
    await api.create("A")
    await api.add(7, "A")
    before, _ = await packed(database, 7)
    await api.remove(7, "A")

    some, every = await packed(database, 7, 8)

    assert read(some[7]) == []
    assert version_of(some[7]) > version_of(before[7])
    assert some.keys() == {7}
    assert every == {}


async def test_the_states_of_an_erased_user_and_of_the_next_life_are_newer_than_all_before(
    api: Api, rows: Rows
) -> None:
    await api.create("A")
    versions = []
    for step in (api.add(7, "A"), api.delete("users/7", params={"erase": "true"}), api.add(7, "A")):
        await step
        [state] = rows.column(
            "SELECT state FROM user_states(ARRAY [7]) UNION ALL SELECT state FROM erased_states(ARRAY [7])"
        )
        versions.append(version_of(bytes(state)))

    assert versions[0] < versions[1] < versions[2]


async def test_a_thousand_overrides_are_read_as_they_were_packed(
    api: Api, database: Database, rows: Rows
) -> None:
    rows.run(
        "SELECT create_segment('S' || n, '', CASE n %% 3 WHEN 0 THEN 50 END, n)"
        " FROM generate_series(1, 1500) n"
    )
    await api.change(
        7,
        add=[{"slug": f"S{n}", "until": LATE} if n % 2 else f"S{n}" for n in range(1, 501)],
        remove=[f"S{n}" for n in range(501, 1501)][:500],
    )
    await api.change(7, add=[f"S{n}" for n in range(1001, 1501)])

    some, every = await packed(database, 7)

    assert some == every
    assert read(some[7]) == overrides(rows, 7)
    assert len(read(some[7])) > 1000


async def test_what_a_write_returns_is_what_the_follower_would_read(
    api: Api, database: Database, rows: Rows
) -> None:
    await api.create("A")
    await api.create("ALL", percent=100)
    [[returned]] = rows.column(
        "SELECT states FROM change_memberships("
        "  '{7}', '{me}', '{NULL}', '{NULL}',"
        "  '{1,1}', '{A,ALL}', '{true,false}', '{NULL,NULL}', '{60,NULL}', true)"
    )

    some, _ = await packed(database, 7)

    assert some == {7: returned}
    [deleted] = rows.column("SELECT delete_user(7, 'me')")
    assert (await packed(database, 7))[0] == {7: deleted}
    assert read(deleted) == []


def test_the_next_end_of_a_term_is_after_now() -> None:
    state = struct.pack(">QIIqq", 2, 1 + HAS_TERM, 2 + HAS_TERM, 100, 200)

    assert [next_end(state, now) for now in (99, 100, 199, 200)] == [100, 200, 200, None]
