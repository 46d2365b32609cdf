"""What reading the feed costs depends on what is new, not on how long the history is."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, LiteralString

import psycopg
import pytest

from segmentd.storage.feed import CHANGES
from segmentd.storage.positions import Place
from segmentd.storage.recent_changes import FIRST, RECENT, span
from segmentd.storage.replication import HOLD_TO_INDEXES
from segmentd.storage.snapshots import Snapshot
from tests.support.plans import Plan, Statement, explained, nested_plans
from tests.support.postgres import new_database

MONTHS: Final = 24
EVENTS: Final = 20_000
SEGMENTS: Final = 2_000
# Each transaction has ten events; the next numbers are those of the test's own.
FILL: Final[LiteralString] = """
    SELECT ensure_event_partition(reading_instant() - n * interval '1 month')
    FROM generate_series(1, %(months)s) n;
    INSERT INTO segments (slug, salt, created_at)
    SELECT 'S' || n, n, '2020-01-01Z' FROM generate_series(1, %(segments)s) n;
    INSERT INTO segment_events (segment_id, at, operation, slug, slug_before, actor, xid)
    SELECT n, '2020-01-01Z'::timestamptz + n * interval '1 second', 'renamed', 'S' || n, 'T' || n, 'me', '3'
    FROM generate_series(1, %(segments)s) n;
    INSERT INTO membership_events (user_id, segment_id, at, operation, effective, cause, actor, xid)
    SELECT n %% 1000 + 1, n %% %(segments)s + 1,
           reading_instant() - (1 - n / %(events)s.0) * %(months)s * interval '1 month',
           'add', true, 'request', 'me', (10 + n / 10)::text::xid8
    FROM generate_series(1, %(events)s) n;
"""


@pytest.fixture(scope="module")
def long_history(postgres_url: str, template_database: str) -> Iterator[str]:
    """Two years of history, with statistics or without: the statements are held to indexes."""
    with new_database(postgres_url, template_database) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            sizes = {"months": MONTHS, "segments": SEGMENTS, "events": EVENTS}
            with psycopg.ClientCursor(connection) as cursor:
                cursor.execute(FILL, sizes)
            connection.execute("ANALYZE")
        yield url


def plan_of(url: str, since: Snapshot, seen: Snapshot, limit: int) -> Plan:
    """How a page is read."""
    window = seen.since(since)
    parameters = {
        **window.parameters,
        "xip": [str(xid) for xid in since.xip],
        **Place(-1, datetime(1, 1, 1), 0, 0, 0)._asdict(),  # noqa: DTZ001 - before all
        "limit": limit,
    }
    with psycopg.connect(url) as connection:
        connection.execute(HOLD_TO_INDEXES)
        return explained(connection, Statement(CHANGES, parameters), "auto")


def test_a_page_reads_the_rows_of_its_window_by_their_transactions(long_history: str) -> None:
    plan = plan_of(long_history, Snapshot(100, [90, 95]), Snapshot(120, [95]), 100)

    assert plan.read("membership_events") == 210
    assert all(name.endswith("_xid_idx") for name in plan.indexes("membership_events"))
    assert plan.indexes("segment_events") <= {
        "segment_events_by_xid",
        "segment_events_pkey",
        "segment_events_renamed",
    }
    assert plan.indexes("segments") == {"segments_pkey"}
    assert plan.read("segments") <= 100
    # A look into the index of each month, for each half of the window; and one for each row's slug.
    assert plan.buffers < 4 * MONTHS * 4 + 100 * 12


def test_the_newest_changes_and_those_before_read_little_more_than_they_show(long_history: str) -> None:
    with psycopg.connect(long_history) as connection:
        connection.execute(HOLD_TO_INDEXES)
        where_from = explained(connection, Statement(FIRST, {"before": "1500", "limit": 51}), "auto")
        parameters = span(1494, 1500, Place(1, datetime(9999, 1, 1, tzinfo=UTC), 0, 0, 0), 51)
        shown = explained(connection, Statement(RECENT, parameters), "auto")

    assert where_from.read("membership_events") <= 51 + 2 * MONTHS
    assert shown.read("membership_events") == 70
    assert shown.read("segments") <= 51
    for plan in (where_from, shown):
        assert all(name.endswith("_xid_idx") for name in plan.indexes("membership_events"))
        assert "none" not in plan.indexes("segment_events") | plan.indexes("erasures")
        assert plan.buffers < 4 * MONTHS * 4 + 51 * 12


def test_a_look_that_finds_nothing_reads_nothing(long_history: str) -> None:
    plan = plan_of(long_history, Snapshot(5_000, []), Snapshot(5_001, []), 1000)

    assert plan.rows == 0
    assert plan.buffers < 4 * MONTHS * 4


def test_where_a_window_ends_is_found_by_reading_the_window_alone(long_history: str) -> None:
    with nested_plans(long_history, "auto") as (connection, plans):
        found = connection.execute("SELECT * FROM end_of_feed_window('100', '{90}', 100)").fetchone()

    assert found == ("110", [])
    read = sum(plan.read("membership_events") for plan in plans)
    # The window twice, the event before each of its events, and of each month the first that is new.
    assert read < 4 * 120 + 2 * 120 + MONTHS * 101
    assert sum(plan.read("segment_events") for plan in plans) == 0
    for plan in plans:
        assert "none" not in plan.indexes("membership_events") | plan.indexes("segment_events")
