"""A round's query for the changed users costs only what changed, however long the history is."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from segmentd.domain.identifiers import UserId
from segmentd.storage import replication
from segmentd.storage.database import Database
from segmentd.storage.replication import CHANGED_USERS, HOLD_TO_INDEXES, Reading
from segmentd.storage.snapshots import Window
from tests.support.client import Api
from tests.support.rows import Rows

Plan = dict[str, Any]

MONTHS = 36
FILL = """
    INSERT INTO membership_events (user_id, segment_id, at, operation, effective, cause, actor, xid)
    SELECT n, 1, reading_instant() - (n %% %s) * interval '1 month', 'add', true, 'request', 'me', '3'::xid8
    FROM generate_series(1, %s) n
"""


@pytest.fixture
def months(rows: Rows) -> Rows:
    """Three years of history, which nobody analyses behind the test's back."""
    rows.run(
        "SELECT ensure_event_partition(reading_instant() - n * interval '1 month')"
        " FROM generate_series(1, %s) n",
        MONTHS,
    )
    for (name,) in rows("SELECT relname FROM pg_class WHERE relname ~ '^membership_events_\\d+_\\d+$'"):
        rows.run(f"ALTER TABLE {name} SET (autovacuum_enabled = off)")
    return rows


def plan_of(connection: psycopg.Connection, window: Window) -> Plan:
    """What a round's transaction does."""
    with connection.transaction():
        connection.execute(HOLD_TO_INDEXES)
        [(document,)] = connection.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {CHANGED_USERS}", window.parameters, prepare=False
        ).fetchall()
    plan: Plan = document[0]["Plan"]
    return plan


def nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def indexes(plan: Plan) -> set[str]:
    """How the tables are read; all else reads what was read."""
    return {node["Index Name"] for node in nodes(plan) if "Index Name" in node}


@pytest.mark.parametrize("analysed", [True, False], ids=["analysed", "never analysed"])
@pytest.mark.parametrize("events", [0, 100, 20_000])
def test_every_partition_is_asked_by_the_number_of_the_transaction(
    months: Rows, database_url: str, events: int, *, analysed: bool
) -> None:
    months.run(FILL, MONTHS, events)
    if analysed:
        months.run("ANALYZE")
    [(newest,)] = months("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")

    partitions = months.column(
        "SELECT i.indexrelid::regclass::text FROM pg_inherits p JOIN pg_index i ON i.indrelid = p.inhrelid"
        " WHERE p.inhparent = 'membership_events'::regclass"
        " AND pg_get_indexdef(i.indexrelid, 1, false) = 'xid'"
    )
    assert len(partitions) > MONTHS

    for xip in ([], [newest - 1], [*range(newest - 50, newest)]):
        with psycopg.connect(database_url) as connection:
            plan = plan_of(connection, Window(newest, newest + 100, [newest + 3], xip))

        assert indexes(plan) == {*partitions, "erasures_by_xid"}
        kinds = {node["Node Type"] for node in nodes(plan)}
        assert not [kind for kind in kinds if "Seq Scan" in kind or "Gather" in kind]
        # A look into each index, one more for each open transaction: nothing is read that did not change.
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < (4 + 2 * len(xip)) * len(partitions)
        assert plan["Actual Rows"] == 0


async def test_a_round_holds_the_planner_to_it(database: Database) -> None:
    async with database.transaction() as connection:
        assert [users async for users in Reading(connection).changed_users(Window(3, 9, [], []))] == [
            ([], [])
        ]

        for name, value in {
            "enable_seqscan": "off",
            "jit": "off",
            "max_parallel_workers_per_gather": "0",
        }.items():
            shown = await connection.execute("SELECT current_setting(%s)", [name])
            assert await shown.fetchone() == (value,)


async def test_all_that_a_reading_gives_is_of_one_snapshot(api: Api, database: Database) -> None:
    async with replication.reading(database) as reading:
        before = await reading.position()
        await api.create("A")
        await api.add(1, "A")

        assert await reading.segments() == []
        assert await reading.states([UserId(1)]) == []
        assert [state async for batch in reading.all_states() for state in batch] == []
        assert (await reading.position()).snapshot == before.snapshot
