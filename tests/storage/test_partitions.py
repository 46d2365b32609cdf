import asyncio
from datetime import UTC, datetime

import pytest

from segmentd.storage.database import Database
from segmentd.storage.upkeep import make_partitions, settle_due_terms
from tests.support.client import Api
from tests.support.clock import Clock
from tests.support.rows import Rows


def months(rows: Rows) -> list[str]:
    """The months that have a partition."""
    return rows.column(
        "SELECT right(inhrelid::regclass::text, 7) FROM pg_inherits"
        " WHERE inhparent = 'membership_events'::regclass ORDER BY 1"
    )


def month(instant: datetime, later: int = 0) -> str:
    """The name of the month of an instant, or of one that many months later."""
    years, zero_based = divmod(instant.month - 1 + later, 12)
    return f"{instant.year + years}_{zero_based + 1:02}"


def partition_of_each_event(rows: Rows) -> list[str]:
    return rows.column("SELECT right(tableoid::regclass::text, 7) FROM membership_events ORDER BY at")


async def users_add(api: Api, user_ids: range, segment: str | dict[str, object]) -> None:
    """Lets so many users write at the same instant."""
    await asyncio.gather(*(api.add(user_id, segment) for user_id in user_ids))


def test_this_month_and_three_ahead_have_their_partitions_from_the_first_migration_on(rows: Rows) -> None:
    [made] = rows.column("SELECT applied_at FROM schema_migrations ORDER BY number LIMIT 1")
    assert months(rows) == [month(made, later) for later in range(4)]


async def test_the_upkeep_makes_the_months_that_come_into_sight(
    database: Database, clock: Clock, rows: Rows
) -> None:
    clock.advance(days=366)
    await make_partitions(database)
    await make_partitions(database)
    assert months(rows)[4:] == [month(clock.now(), later) for later in range(4)]


async def test_a_write_makes_the_month_that_it_needs(api: Api, clock: Clock, rows: Rows) -> None:
    await api.create("A")
    clock.advance(days=10 * 366)

    await api.add(1000, "A")

    assert partition_of_each_event(rows) == [month(clock.now())] == months(rows)[4:]
    assert [event["operation"] for event in await api.history(1000)] == ["add"]


async def test_eight_writers_who_need_the_same_new_month_at_once_make_it_once(
    api: Api, clock: Clock, rows: Rows
) -> None:
    await api.create("A")
    clock.advance(days=10 * 366)

    await users_add(api, range(1, 9), "A")

    assert partition_of_each_event(rows) == [month(clock.now())] * 8
    assert len(months(rows)) == 5


async def test_eight_writers_who_settle_an_old_month_and_write_in_a_new_one_make_both_once(
    api: Api, clock: Clock, rows: Rows
) -> None:
    await api.create("A")
    await users_add(api, range(1, 9), {"slug": "A", "ttl_seconds": 5 * 366 * 86400})
    [ends] = rows.column("SELECT min(until) FROM memberships")
    clock.advance(days=10 * 366)

    await users_add(api, range(1, 9), "A")

    assert partition_of_each_event(rows)[8:] == [month(ends)] * 8 + [month(clock.now())] * 8
    assert months(rows)[4:] == [month(ends), month(clock.now())]
    for user_id in range(1, 9):
        events = await api.history(user_id)
        assert [event["operation"] for event in events] == ["add", "remove", "add"]


@pytest.mark.parametrize("settled_by", ["the job", "a write", "a deletion"])
async def test_a_term_that_ends_in_a_month_without_a_partition_is_settled(
    api: Api, clock: Clock, database: Database, rows: Rows, settled_by: str
) -> None:
    await api.create("A")
    await api.add(1000, {"slug": "A", "until": "2345-06-07T08:09:10.111213Z"})
    clock.advance(days=400 * 366)
    answered = await api.history(1000)

    if settled_by == "the job":
        assert await settle_due_terms(database) == 1
    if settled_by == "a write":
        await api.remove(1000, "A")
    if settled_by == "a deletion":
        await api.delete("users/1000")

    ends = datetime(2345, 6, 7, 8, 9, 10, 111213, tzinfo=UTC)
    assert rows("SELECT at, cause FROM membership_events WHERE at > '2300-01-01Z'") == [(ends, "expiry")]
    assert partition_of_each_event(rows)[-1] == "2345_06"
    assert await api.history(1000) == answered


def test_a_month_begins_and_ends_with_utc(rows: Rows) -> None:
    rows.run("SET timezone = 'Pacific/Kiritimati'")  # 14 hours ahead
    rows.run("SELECT ensure_event_partition('2030-12-31 23:59:59.999999Z')")
    rows.run("SELECT ensure_event_partition('2031-01-01 00:00:00Z')")
    rows.run("SET timezone = 'UTC'")

    assert months(rows)[4:] == ["2030_12", "2031_01"]
    bounds = rows.column(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class"
        " WHERE relname IN ('membership_events_2030_12', 'membership_events_2031_01') ORDER BY relname"
    )
    assert bounds == [
        "FOR VALUES FROM ('2030-12-01 00:00:00+00') TO ('2031-01-01 00:00:00+00')",
        "FOR VALUES FROM ('2031-01-01 00:00:00+00') TO ('2031-02-01 00:00:00+00')",
    ]


def test_a_new_month_has_the_indexes_of_the_others(rows: Rows) -> None:
    rows.run("SELECT ensure_event_partition('2030-01-01Z')")
    valid = rows.column(
        "SELECT p.relname FROM pg_index i JOIN pg_inherits h ON h.inhrelid = i.indexrelid"
        " JOIN pg_class p ON p.oid = h.inhparent"
        " WHERE i.indrelid = 'membership_events_2030_01'::regclass AND i.indisvalid ORDER BY 1"
    )
    assert valid == [
        "membership_events_by_time",
        "membership_events_by_xid",
        "membership_events_effective",
        "membership_events_pkey",
    ]


async def test_readers_and_writers_go_on_while_a_month_is_made(api: Api, rows: Rows) -> None:
    await api.create("A")
    rows.run("BEGIN")
    rows.run("SELECT ensure_event_partition('2030-01-01Z')")
    try:
        await api.add(1000, "A")
        assert [event["operation"] for event in await api.history(1000)] == ["add"]
    finally:
        rows.run("COMMIT")
    assert "2030_01" in months(rows)
