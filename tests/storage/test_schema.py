import os
import re
import subprocess
from collections.abc import Callable
from difflib import unified_diff
from importlib import resources

import psycopg
import pytest

from segmentd.storage.embedded_launch import programs
from segmentd.storage.migrate import migrate, pending_migrations
from segmentd.storage.schema import functions, schema_text
from tests.support.postgres import new_database

# pg_dump sorts what it writes by kind and name, and heads each part with a line like this.
HEADING = re.compile(r"^-- (?:Data for )?Name: (.*?); Type: (.*?); .*\n--\n", re.MULTILINE)

# Few rows, or none of users: each server would have them all, if users were divided among several.
SHARED = {
    *("segments", "rollouts", "segment_events", "catalog", "kept_history", "timelines", "forgotten_erasures"),
    *("tokens", "access", "console_sessions", "audit_log", "signing_keys", "reports"),
    *("imports", "import_ranges", "import_errors", "schema_migrations", "schema_functions"),
}


@pytest.fixture
def by_schema_file(postgres_url: str) -> Callable[[str], dict[str, str]]:
    """Applies an SQL text to an empty database and lists the parts that it made."""

    def applied(text: str) -> dict[str, str]:
        with new_database(postgres_url, "template1") as url:
            with psycopg.connect(url) as connection:
                connection.execute(text.encode())
            return parts(url)

    return applied


def parts(url: str) -> dict[str, str]:
    """Each thing in a database, and the rows of its tables, as pg_dump writes them.

    Without the months of the history, which are named by the date, the random keys, the times of migrations,
    and the tables of the job queue, which its package brings.
    """
    dump = subprocess.run(
        [
            programs() / "pg_dump",
            *("--no-owner", "--exclude-table=membership_events_*_*"),
            *("--exclude-table-data=signing_keys", "--exclude-table-data=schema_*"),
            url,
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"LC_ALL": "C"},
        check=True,
    ).stdout
    _, *pieces = HEADING.split(dump)
    found: dict[str, str] = {}
    for name, kind, text in zip(*[iter(pieces)] * 3, strict=True):
        if name.startswith(("procrastinate_", "idx_procrastinate_", "job_queue_")):
            continue
        # SET: what pg_dump says once, wherever the first table comes to stand.
        lines = [line for line in text.splitlines() if line and not line.startswith(("--", "\\", "SET "))]
        assert found.setdefault(f"{kind} {name}", "\n".join(lines)) == "\n".join(lines)
    return found


def differences(migrated: dict[str, str], written: dict[str, str]) -> str:
    """What a developer has to do, thing by thing; nothing where both are the same."""
    answered = [f"only in a migrated database: {name}" for name in migrated.keys() - written.keys()]
    answered += [f"only in schema.sql: {name}" for name in written.keys() - migrated.keys()]
    for name in migrated.keys() & written.keys():
        texts = (migrated[name].splitlines(), written[name].splitlines())
        answered += ["\n".join(unified_diff(*texts, f"migrated: {name}", f"schema.sql: {name}", lineterm=""))]
    return "\n\n".join(sorted(filter(None, answered)))


def schema_file() -> str:
    return resources.files("segmentd.storage").joinpath("schema.sql").read_text("utf-8")


def test_the_file_is_what_make_schema_writes() -> None:
    assert schema_file() == schema_text(), "run `make schema`"


async def test_a_database_made_from_the_file_alone_lacks_nothing(
    empty_database_url: str,
) -> None:
    with psycopg.connect(empty_database_url) as connection:
        connection.execute(schema_file().encode())

    assert await pending_migrations(empty_database_url) == []


async def test_applying_the_functions_twice_changes_nothing(database_url: str) -> None:
    before = parts(database_url)
    with psycopg.connect(database_url) as connection:
        for file in functions().files:
            connection.execute(file.sql.encode())

    assert parts(database_url) == before


async def test_a_database_made_from_the_file_is_a_migrated_one(
    empty_database_url: str, by_schema_file: Callable[[str], dict[str, str]]
) -> None:
    await migrate(empty_database_url)

    migrated, written = parts(empty_database_url), by_schema_file(schema_file())

    assert "TABLE users" in migrated
    assert "TABLE DATA catalog" in migrated
    if different := differences(migrated, written):
        pytest.fail(f"schema.sql and a migrated database are not the same:\n\n{different}", pytrace=False)


def test_the_comparison_names_what_differs(by_schema_file: Callable[[str], dict[str, str]]) -> None:
    text = schema_file()
    changed = (
        text.replace("CREATE INDEX segments_by_slug", "CREATE INDEX segments_by_name")
        .replace("length(name) <= 256", "length(name) <= 257")
        .replace("RETURN 7236837901", "RETURN 1")
    )

    different = differences(by_schema_file(text), by_schema_file(changed))

    headlines = [line for line in different.splitlines() if re.match("only|---|[+-] ", line)]
    assert headlines == [
        "--- migrated: FUNCTION catalog_lock()",
        "-    RETURN '7236837901'::bigint;",
        "+    RETURN 1;",
        "--- migrated: TABLE users",
        "-    CONSTRAINT users_name_check CHECK ((length(name) <= 256))",
        "+    CONSTRAINT users_name_check CHECK ((length(name) <= 257))",
        "only in a migrated database: INDEX segments_by_slug",
        "only in schema.sql: INDEX segments_by_name",
    ]


def test_a_database_made_from_the_file_has_this_month_s_partition(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        connection.execute(schema_file().encode())
        connection.execute(
            "INSERT INTO membership_events (user_id, segment_id, at, operation, effective, cause, actor)"
            " VALUES (1, 1, clock_instant(), 'add', true, 'request', 'anonymous')"
        )


def test_every_large_table_leads_with_the_user_and_refers_to_no_other(database_url: str) -> None:
    """So users can be divided among servers: all that is unique, is unique within a user."""
    with psycopg.connect(database_url) as connection:
        unique = connection.execute(
            "SELECT t.relname, x.indisprimary, (SELECT a.attname FROM pg_attribute a"
            "  WHERE a.attrelid = t.oid AND a.attnum = x.indkey[0])"
            " FROM pg_class t LEFT JOIN pg_index x ON x.indrelid = t.oid AND x.indisunique"
            " WHERE t.relnamespace = 'public'::regnamespace AND t.relkind IN ('r', 'p')"
            "  AND NOT t.relispartition"
            "  AND t.relname <> 'job_queue_migrations' AND t.relname NOT LIKE 'procrastinate%'"
        ).fetchall()
        referring = connection.execute(
            "SELECT conrelid::regclass::text FROM pg_constraint WHERE contype = 'f'"
        ).fetchall()

    large = [row for row in unique if row[0] not in SHARED]
    assert {table for table, *_ in large} == {
        *("users", "registrations", "memberships", "membership_events", "earlier_changes", "erasures")
    }
    assert {(table, column) for table, _, column in large} == {
        (table, "id" if table == "users" else "user_id") for table, *_ in large
    }
    assert {table for table, is_primary, _ in large if is_primary} == {table for table, *_ in large}
    assert not {table for (table,) in referring} & {table for table, *_ in large}
