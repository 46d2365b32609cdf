"""A report reads the months of its period, and no others."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, LiteralString
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from segmentd.domain.identifiers import UserId
from segmentd.domain.reports import Period, Report, ReportId, Status
from segmentd.storage.report_rows import Users, rows_query
from tests.support.plans import Plan, settle

FIRST: Final = datetime(2025, 1, 1, tzinfo=UTC)

# Two years of history of a thousand users, in two segments and a rollout.
FILL: LiteralString = """
    INSERT INTO users (id, registered_at, last_at)
    SELECT id, '2025-01-01Z', '2025-01-02Z' FROM generate_series(1, 1000) AS id;
    INSERT INTO registrations (user_id, registered_at) SELECT id, registered_at FROM users;
    INSERT INTO segments (slug, salt, created_at)
    SELECT slug, 1, '2025-01-01Z' FROM (VALUES ('A'), ('B'), ('C')) AS named (slug);
    INSERT INTO rollouts (segment_id, percent, started_at)
    SELECT id, 50, '2025-01-01Z' FROM segments WHERE slug = 'C';
    INSERT INTO memberships (user_id, segment_id, included, since, until)
    SELECT u.id, s.id, true, '2025-01-02Z', '2025-01-03Z'::timestamptz + u.id * interval '12 hours'
    FROM users u JOIN segments s ON s.slug = 'A';
    SELECT ensure_event_partition('2025-01-01Z'::timestamptz + month * interval '1 month')
    FROM generate_series(0, 23) AS month;
    INSERT INTO membership_events (user_id, segment_id, at, operation, effective, cause, actor)
    SELECT u.id, s.id, '2025-01-02Z'::timestamptz + month * interval '1 month' + u.id * interval '1 s',
           (CASE WHEN month % 2 = 0 THEN 'add' ELSE 'remove' END)::event_operation,
           true, 'request', 'anonymous'
    FROM users u, segments s, generate_series(0, 23) AS month
    WHERE s.slug = 'B';
"""


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(FILL)
        yield connection


def order(period: Period, user_id: UserId | None = None, segment_id: int | None = None) -> Report:
    return Report(
        id=ReportId(uuid4()),
        status=Status.RUNNING,
        begins_at=period.begins_at,
        ends_at=period.ends_at,
        user_id=user_id,
        segment_id=segment_id,
        header=False,
        as_of=None,
        rows=None,
        size=None,
        sha256=None,
        reason=None,
        created_at=FIRST,
        expires_at=FIRST + timedelta(days=7),
    )


def explained(
    connection: psycopg.Connection, report: Report, as_of: datetime, users: Users | None = None
) -> Plan:
    """How the report is made, or the part of it about a range of users."""
    explain = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ") + rows_query(report, as_of, users)
    [(document,)] = connection.execute(explain).fetchall()
    return Plan(document[0]["Plan"])


def months(plan: Plan) -> set[str]:
    """The months of the history that are anywhere in the plan, executed or not."""
    return set(re.findall(r"membership_events_(\d{4}_\d\d)", json.dumps(plan.root)))


@pytest.mark.parametrize("analysed", [True, False])
def test_a_month_s_report_has_no_partition_of_another_month_in_its_plan(
    connection: psycopg.Connection, *, analysed: bool
) -> None:
    if analysed:
        settle(connection)
    month = Period.of_month("2025-06")
    june = {"2025_06"}
    long_after = datetime(2026, 11, 1, tzinfo=UTC)

    assert months(explained(connection, order(month), long_after)) == june
    assert months(explained(connection, order(month, user_id=UserId(7)), long_after)) == june
    assert months(explained(connection, order(month, segment_id=2), long_after)) == june
    assert months(explained(connection, order(month), datetime(2025, 6, 15, tzinfo=UTC))) == june


def test_a_range_reads_the_months_that_it_touches(connection: psycopg.Connection) -> None:
    instant = timedelta(microseconds=1)
    march, may = datetime(2025, 3, 1, tzinfo=UTC), datetime(2025, 5, 1, tzinfo=UTC)
    long_after = datetime(2026, 11, 1, tzinfo=UTC)
    for period, expected in (
        (Period(march, may), {"2025_03", "2025_04"}),
        (Period(march, may + instant), {"2025_03", "2025_04", "2025_05"}),
        (Period(march - instant, march), {"2025_02"}),
        (Period(FIRST - timedelta(days=3000), FIRST), set()),
    ):
        assert months(explained(connection, order(period), long_after)) == expected, period


def test_a_period_that_goes_on_ends_for_the_report_at_its_cut_off(connection: psycopg.Connection) -> None:
    year = Period(FIRST, FIRST + timedelta(days=365))
    plan = explained(connection, order(year), datetime(2025, 2, 10, tzinfo=UTC))
    assert months(plan) == {"2025_01", "2025_02"}


def test_the_report_of_one_user_reads_the_history_by_its_index(connection: psycopg.Connection) -> None:
    settle(connection)
    report = order(Period.of_month("2025-06"), user_id=UserId(7))
    plan = explained(connection, report, datetime(2026, 11, 1, tzinfo=UTC))
    assert plan.indexes("membership_events") == {"membership_events_2025_06_pkey"}
    assert plan.indexes("memberships") <= {
        *("memberships_open", "memberships_pkey", "memberships_due", "memberships_terms")
    }


# Many users whom percentages have moved, with events, due terms, lives that began and ended, and a deletion.
MANY: LiteralString = """
    INSERT INTO users (id, registered_at, last_at)
    SELECT id, '2025-01-01Z', '2025-01-02Z' FROM generate_series(1, 10000) AS id;
    INSERT INTO registrations (user_id, registered_at, ended_at)
    SELECT id, CASE id % 100 WHEN 0 THEN timestamptz '2025-06-05Z' ELSE registered_at END,
           CASE id % 100 WHEN 1 THEN timestamptz '2025-06-20Z' END
    FROM users;
    INSERT INTO segments (slug, salt, created_at, deleted_at)
    SELECT 'S' || number, number, '2025-01-01Z', CASE number WHEN 3 THEN timestamptz '2025-06-25Z' END
    FROM generate_series(1, 100) AS number;
    INSERT INTO rollouts (segment_id, percent, started_at, ended_at)
    SELECT id, percent, started_at, ended_at
    FROM segments,
    (VALUES (1, timestamptz '2025-06-01Z', timestamptz '2025-06-15Z'), (2, '2025-06-15Z', NULL))
        AS v (percent, started_at, ended_at)
    WHERE id <> 3;
    INSERT INTO memberships (user_id, segment_id, included, since, until)
    SELECT u.id, s.id, true, '2025-01-02Z', CASE s.id WHEN 4 THEN timestamptz '2025-06-03Z' END
    FROM users u JOIN segments s ON s.id <= 4 AND s.id <> u.id % 4 AND u.id % 100 > 1;
    SELECT ensure_event_partition('2025-06-01Z');
    INSERT INTO membership_events (user_id, segment_id, at, operation, effective, cause, actor)
    SELECT u.id, s.id, '2025-06-02Z'::timestamptz + s.id * interval '1 s', 'add', true, 'request', 'anonymous'
    FROM segments s, users u
    WHERE s.id <= 4;
"""


def test_a_range_of_users_is_read_by_indexes_and_its_events_without_their_table(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(MANY)
        settle(connection)
        june, long_after = order(Period.of_month("2025-06")), datetime(2026, 11, 1, tzinfo=UTC)
        plan = explained(connection, june, long_after, Users(5000, 5100))

    assert plan.root["Actual Rows"] > 4 * 100
    for table in ("registrations", "memberships", "membership_events"):
        assert "none" not in plan.indexes(table), table
    assert {node["Node Type"] for node in plan.scans("membership_events")} == {"Index Only Scan"}
    assert plan.read("membership_events") == 4 * 100
    # The lives of this range once for all changes of percentages, once for the beginnings, once for the ends.
    assert plan.read("registrations") <= 3 * 100
    assert plan.buffers <= 10_000
