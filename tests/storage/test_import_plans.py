"""What imports ask is answered out of indexes, however many imports are kept and however long a list is."""

from collections.abc import Iterator, Mapping
from typing import Final, LiteralString

import psycopg
import pytest

from segmentd.domain.imports import ImportNumber
from segmentd.storage import imports
from tests.support.plans import Recorder, explained, nested_plans, settle
from tests.support.postgres import new_database

KEPT: Final = 3_000
UNDER_WAY: Final = 20
BAD_ROWS: Final = 20_000
DECISIONS: Final = 20_000
BATCH: Final = 500

FILL: LiteralString = """
    INSERT INTO segments (slug, salt, created_at)
    SELECT 'S' || number, number, '2025-01-01Z' FROM generate_series(1, 2000) AS number;
    INSERT INTO imports (id, status, operation, segment_id, dry_run, skip_invalid, format, ordered_by,
                         fingerprint, idempotency_key, heard_at, created_at, finished_at, staged, rows, users)
    SELECT gen_random_uuid(), CASE WHEN number <= %(kept)s THEN 'done' ELSE 'applying' END, 'add', 1, false,
           false, 'csv', 'caller ' || number %% 100, 'x', 'key ' || number, now(), now(),
           CASE WHEN number <= %(kept)s THEN now() END, number > %(kept)s, 10, 10
    FROM generate_series(1, %(kept)s + %(under_way)s) AS number;
    INSERT INTO import_errors (import_number, line, detail, text)
    SELECT %(kept)s, line, 'bad', 'x' FROM generate_series(1, %(bad_rows)s) AS line;
    INSERT INTO import_ranges (import_number, place, last_user, applied_to)
    SELECT number, place, place * %(decisions)s / 2, (place - 1) * %(decisions)s / 2
    FROM generate_series(1, %(kept)s + %(under_way)s) AS number, generate_series(1, 2) AS place;
    SELECT make_import_blocks(%(kept)s + 1);
    CREATE TABLE import_decisions_3001 (
        user_id bigint, segment_id bigint, until timestamptz, ttl_seconds bigint, line bigint,
        last_line bigint, rows bigint NOT NULL, adds boolean, is_bad boolean NOT NULL, refused text
    );
    INSERT INTO import_decisions_3001
    SELECT user_id, 1, NULL, NULL, user_id, user_id, 1, true, false, NULL
    FROM generate_series(1, %(decisions)s) AS user_id;
    INSERT INTO import_blocks_3001 SELECT number, false, number::text FROM generate_series(1, 1000) AS number;
    CREATE INDEX ON import_decisions_3001 (user_id) WHERE NOT is_bad;
"""


# Each statement, and how many rows of a table it may read.
STATEMENTS: Final[Mapping[LiteralString, Mapping[str, int]]] = {
    "SELECT * FROM import_load('caller 1')": {"imports": 3 * UNDER_WAY, "import_errors": 0},
    "SELECT fail_silent_imports('1 minute')": {"imports": 0},
    "SELECT import_line(3001, 5)": {"import_blocks_3001": 1},
    "SELECT * FROM apply_import_batch(3001, 2, 500)": {
        "imports": 1,
        "import_ranges": 2,
        "import_decisions_3001": 2 * BATCH + 1,
        "users": 3 * BATCH,
        "registrations": 0,
        "memberships": 3 * BATCH,
    },
}


@pytest.fixture(scope="module")
def filled_url(postgres_url: str, template_database: str) -> Iterator[str]:
    numbers = {"kept": KEPT, "under_way": UNDER_WAY, "bad_rows": BAD_ROWS, "decisions": DECISIONS}
    with new_database(postgres_url, template_database) as url:
        with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
            connection.execute(FILL, numbers)
            settle(connection)
        yield url


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_step_of_an_import_reads_nothing_of_other_imports_and_other_users(
    filled_url: str, statement: LiteralString
) -> None:
    with nested_plans(filled_url, "auto") as (connection, plans):
        connection.execute(statement)

    for table, most in STATEMENTS[statement].items():
        assert sum(plan.read(table) for plan in plans) <= most, table
        scans = [node["Node Type"] for plan in plans for node in plan.scans(table)]
        assert "Seq Scan" not in scans, table


async def test_what_is_shown_of_imports_reads_little_more_than_it_shows(filled_url: str) -> None:
    async with Recorder(filled_url) as database:
        [newest, *_] = (await imports.list_before(database, None, 100)).items
        assert len((await imports.list_before(database, ImportNumber(KEPT + 1), 100)).items) == 100
        await imports.get(database, newest.id)
        await imports.final(database, [newest.id])
        assert len(await imports.bad_rows_after(database, ImportNumber(KEPT), 10_000, 1000)) == 1000
    with psycopg.connect(filled_url) as connection:
        for statement in database.sent:
            plan = explained(connection, statement, "force_generic_plan")
            assert plan.read("imports") <= 102
            assert plan.read("import_errors") <= 1000
            assert plan.read("import_ranges") <= 200
            assert plan.read("segments") <= 200
            for table in ("imports", "import_errors", "import_ranges"):
                assert "none" not in plan.indexes(table), table
        assert len(database.sent) == 5
