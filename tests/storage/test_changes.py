"""Changes of many users in one call: each for itself, or all or nothing."""

from collections.abc import Sequence
from datetime import UTC, datetime

import psycopg
import pytest

from segmentd.domain.access import Actor
from segmentd.domain.errors import Invalid, SegmentdError, SegmentNotFound
from segmentd.domain.identifiers import Slug, UserId
from segmentd.domain.memberships import Addition, Change, TtlSeconds
from segmentd.storage.changes import Applied, Locked, Wanted, change_each, change_together
from segmentd.storage.database import Database
from tests.support.changing import CHANGE
from tests.support.client import Api
from tests.support.rows import Rows

ME = Actor("me")
PAST = datetime(2020, 1, 1, tzinfo=UTC)


def wanted(user_id: int, *slugs: str, until: datetime | None = None) -> Wanted:
    """Adds the user to these segments."""
    additions = tuple(Addition(Slug(slug), until) for slug in slugs)
    return Wanted(UserId(user_id), Change(additions, (), None), ME, f"/changes/{user_id}")


def users(rows: Rows) -> Sequence[int]:
    return rows.column("SELECT id FROM users ORDER BY id")


async def test_each_user_of_a_call_gets_an_answer_of_their_own_in_the_order_asked(
    api: Api, database: Database
) -> None:
    await api.create("A")
    await api.create("B")
    await api.add(7, "A")

    results = await change_each(database, [wanted(9, "B"), wanted(7, "A", "B"), wanted(8, "A")])

    assert [(each.user_id, each.added, each.unchanged) for each in results if isinstance(each, Applied)] == [
        (9, ["B"], []),
        (7, ["B"], ["A"]),
        (8, ["A"], []),
    ]
    assert [await api.segments(user_id) for user_id in (7, 8, 9)] == [["A", "B"], ["A"], ["B"]]


@pytest.mark.parametrize("known", ["known", "new"])
@pytest.mark.parametrize(
    ("bad", "error"),
    [(wanted(5, "A", "NONE"), SegmentNotFound), (wanted(5, "B", until=PAST), Invalid)],
    ids=["unknown slug", "past term"],
)
async def test_a_refused_user_is_unchanged_and_keeps_nobody_else_from_their_change(
    api: Api, database: Database, rows: Rows, bad: Wanted, error: type[SegmentdError], known: str
) -> None:
    await api.create("A")
    await api.create("B")
    if known == "known":
        await api.add(5, "B")

    first, second, third = await change_each(database, [wanted(4, "A"), bad, wanted(6, "A")])

    # A term that has gone by is taken alone, which gives the error.
    assert isinstance(second, error | Locked)
    assert isinstance(first, Applied)
    assert isinstance(third, Applied)
    assert await api.segments(5) == (["B"] if known == "known" else [])
    assert users(rows) == ([4, 5, 6] if known == "known" else [4, 6])
    with pytest.raises(error):
        await change_together(database, [bad])


async def test_a_refused_change_begins_no_life_of_a_user_who_was_deleted(
    api: Api, database: Database, rows: Rows
) -> None:
    await api.create("A")
    await api.create("B")
    for user_id in (5, 6, 7):
        await api.add(user_id, "B")
        await api.delete(f"users/{user_id}")
    lasting = Addition(Slug("A"), ttl_seconds=TtlSeconds(10**12))
    too_long = Wanted(UserId(6), Change((lasting,), (), None), ME)

    unknown, long, past, good = await change_each(
        database, [wanted(5, "A", "NONE"), too_long, wanted(7, "A", until=PAST), wanted(8, "A")]
    )

    assert not any(isinstance(result, Applied) for result in (unknown, long, past))
    assert isinstance(good, Applied)
    assert rows.column("SELECT id FROM users WHERE deleted_at IS NULL") == [8]
    assert rows.column("SELECT count(*) FROM registrations WHERE user_id < 8") == [3]


async def test_where_a_refusal_shows_only_after_a_user_was_registered_nothing_of_the_call_is_done(
    api: Api, database: Database, rows: Rows
) -> None:
    await api.create("A")
    await api.add(5, "A")
    # The change is later than the latest change of the segments, which is ahead of a clock that stepped back.
    [ahead] = rows.column("UPDATE catalog SET last_at = last_at + interval '1 hour' RETURNING last_at")

    results = await change_each(database, [wanted(5, "A", until=ahead), wanted(6, "A", until=ahead)])

    assert results == [Locked(UserId(5)), Locked(UserId(6))]
    assert users(rows) == [5]
    with pytest.raises(Invalid):
        await change_together(database, [wanted(6, "A", until=ahead)])


async def test_users_whom_another_transaction_holds_are_left_out_without_a_wait(
    api: Api, database: Database, database_url: str
) -> None:
    await api.create("A")
    await api.create("B")
    await api.add(1, "A")
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute(CHANGE, [1, "B", True, None])
        await other.execute(CHANGE, [3, "B", True, None])

        # 1 is held; 3 is being made, so for 4 the whole call may be undone.
        held, free = await change_each(database, [wanted(1, "B"), wanted(2, "B")])
        made, new = await change_each(database, [wanted(3, "B"), wanted(4, "B")])

    assert held == Locked(UserId(1))
    assert isinstance(free, Applied)
    assert (made, new) == (Locked(UserId(3)), Locked(UserId(4)))
    assert [await api.segments(user_id) for user_id in (1, 2, 3, 4)] == [["A", "B"], ["B"], ["B"], []]


async def test_all_or_nothing_names_every_unknown_slug_and_every_bad_term(
    api: Api, database: Database, rows: Rows
) -> None:
    await api.create("A")

    with pytest.raises(SegmentNotFound) as unknown:
        await change_together(database, [wanted(2, "Y", "A"), wanted(1, "X", until=PAST), wanted(3, "X")])
    with pytest.raises(Invalid) as invalid:
        await change_together(
            database, [wanted(2, "A", until=PAST), wanted(1, "A"), wanted(3, "A", until=PAST)]
        )

    assert unknown.value.extra["segments"] == ["X", "Y"]
    assert sorted(fault.pointer for fault in invalid.value.faults) == [
        "/changes/2/add/0/until",
        "/changes/3/add/0/until",
    ]
    assert users(rows) == []


async def test_what_is_due_is_written_down_before_a_change_of_many(
    api: Api, database: Database, rows: Rows
) -> None:
    for slug in ("A", "GONE", "B"):
        await api.create(slug)
    for user_id in (1, 2, 3):
        await api.add(user_id, "GONE", {"slug": "A", "ttl_seconds": 1} if user_id == 2 else "A")
    await api.delete("segments/GONE")
    rows.run("SELECT pg_sleep_until(max(until)) FROM memberships")

    await change_each(database, [wanted(user_id, "B") for user_id in (1, 2, 3)])

    open_ones = rows(
        "SELECT user_id, slug FROM memberships m JOIN segments s ON s.id = segment_id WHERE ended_at IS NULL"
    )
    assert sorted(open_ones) == [(1, "A"), (1, "B"), (2, "B"), (3, "A"), (3, "B")]
    assert [event["cause"] for event in (await api.history(2))] == [
        "request",
        "request",
        "segment-deleted",
        "expiry",
        "request",
    ]
