"""A report is copied by ranges of users, and its bytes are those of one statement over all of them."""

from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from typing import Final, LiteralString
from uuid import uuid4

import pytest
from psycopg import AsyncConnection

from segmentd.domain.reports import Report, ReportId, Status
from segmentd.storage.database import Database
from segmentd.storage.report_rows import copied_rows, cut_off, report_snapshot, rows_query
from tests.support.changing import CHANGE
from tests.support.clock import Clock
from tests.support.rows import Rows, rows_of

EARLIEST: Final = datetime(2001, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2100, 1, 1, tzinfo=UTC)
SLUGS: Final = ("a", "B", "c", "D")
ACTS: Final = {"change": 30, "change the percentage": 5, "delete the user": 4, "delete the segment": 1}


def order(begins_at: datetime, ends_at: datetime, segment_id: int | None = None) -> Report:
    return Report(
        id=ReportId(uuid4()),
        status=Status.RUNNING,
        begins_at=begins_at,
        ends_at=ends_at,
        user_id=None,
        segment_id=segment_id,
        header=False,
        as_of=None,
        rows=None,
        size=None,
        sha256=None,
        reason=None,
        created_at=EARLIEST,
        expires_at=LATEST,
    )


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    with rows_of(database_url) as rows:
        yield rows


def live(rows: Rows, clock: Clock, random: Random) -> None:
    """Some users with ids far apart, to whom everything that there is has happened."""
    ids = [random.randrange(1, 2 ** random.randrange(4, 63)) for _ in range(40)]
    for slug in SLUGS:
        create(rows, slug, random)
    for act in random.choices([*ACTS], [*ACTS.values()], k=250):
        user, slug = random.choice(ids), random.choice(SLUGS)
        if act == "change":
            adds, seconds = random.random() < 0.6, random.choice((None, 5, 60, 600))
            rows(CHANGE, user, slug, adds, seconds if adds else None)
        elif act == "change the percentage":
            rows("SELECT update_segment(%s, NULL, NULL, %s, false)", slug, random.choice((0, 20, 50, 100)))
        elif act == "delete the user":
            rows("SELECT delete_user(%s, '')", user)
        else:
            rows("SELECT delete_segment(%s)", slug)
            create(rows, slug, random)
        clock.advance(seconds=random.choice((0, 0, 1, 5)))


def create(rows: Rows, slug: str, random: Random) -> None:
    percent = random.choice((None, 30, 100))
    rows("SELECT create_segment(%s, '', %s, %s)", slug, percent, random.getrandbits(60))


async def copied(connection: AsyncConnection, report: Report, as_of: datetime, range_rows: int) -> bytes:
    return b"".join([chunk async for chunk in copied_rows(connection, report, as_of, 1000, range_rows)])


async def in_one_statement(connection: AsyncConnection, report: Report, as_of: datetime) -> bytes:
    query = rows_query(report, as_of).as_string(connection)
    async with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT csv, DELIMITER ';')".encode()) as copy,
    ):
        return b"".join([bytes(row) async for row in copy])


@pytest.mark.parametrize("seed", [1, 2])
async def test_ranges_of_any_size_give_the_bytes_of_one_statement(
    database: Database, rows: Rows, clock: Clock, seed: int
) -> None:
    random = Random(seed)
    live(rows, clock, random)
    as_of = await cut_off(database)
    times = rows.column("SELECT at FROM effective_changes(%s)", as_of)
    periods = [(EARLIEST, LATEST), *(sorted(random.choices(times, k=2)) for _ in range(4))]
    found: list[int] = []
    async with report_snapshot(database) as connection:
        for begins_at, ends_at in periods:
            for segment_id in (None, random.randrange(1, 5)):
                report = order(begins_at, ends_at, segment_id)
                expected = await in_one_statement(connection, report, as_of)
                # From one user in a range to all of them in one.
                for range_rows in (len(found) * 100 + 1, random.randrange(5, 100)):
                    assert await copied(connection, report, as_of, range_rows) == expected
                found.append(expected.count(b"\n"))
    assert found[0] == len(times) > 150
    assert sum(found[1:]) > 150


MANY: Final[LiteralString] = """
    INSERT INTO users (id, registered_at, last_at)
    SELECT id, '2025-01-01Z', '2025-01-01Z' FROM generate_series(1, 4000) AS id;
    INSERT INTO registrations (user_id, registered_at) SELECT id, registered_at FROM users;
    INSERT INTO segments (slug, salt, created_at) SELECT 'S' || number, number, '2025-01-01Z'
    FROM generate_series(1, 20) AS number;
    INSERT INTO rollouts (segment_id, percent, started_at) SELECT id, 10, '2025-06-01Z' FROM segments;
    ANALYZE;
"""


async def test_a_large_report_needs_no_temporary_files(database: Database, rows: Rows) -> None:
    rows.run(MANY)
    report = order(EARLIEST, LATEST)
    temporary = "SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()"
    async with report_snapshot(database) as connection:
        await connection.execute("SET LOCAL work_mem = '64kB'")
        copied_bytes = await copied(connection, report, LATEST, 300)
        await connection.execute("SELECT pg_stat_force_next_flush()")
    assert 7000 < copied_bytes.count(b"\n") < 9000
    assert rows.column(temporary) == [0]

    async with report_snapshot(database) as connection:
        await connection.execute("SET LOCAL work_mem = '64kB'")
        assert await in_one_statement(connection, report, LATEST) == copied_bytes
        await connection.execute("SELECT pg_stat_force_next_flush()")
    assert rows.column(temporary)[0] > 500_000
