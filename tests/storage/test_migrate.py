import asyncio
import re
import secrets
from collections.abc import Awaitable, Iterator
from typing import LiteralString
from urllib.parse import quote, urlsplit

import psycopg
import pytest

from segmentd import __version__
from segmentd.domain.errors import StartupFailed
from segmentd.storage import migrate as migrating
from segmentd.storage import schema, server
from segmentd.storage.migrate import migrate, pending_migrations
from segmentd.storage.schema import Functions, SqlFile
from tests.support.postgres import execute, new_database, with_database

ALL = schema.table_files()
NAMES = [file.name for file in ALL]
FUNCTIONS = schema.functions()


def applied(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT name FROM schema_migrations ORDER BY number").fetchall()
        return [name for (name,) in rows]


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return {name for (name,) in rows}


def with_login(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{quote(user)}:{quote(password)}@{host}").geturl()


async def line_of(work: Awaitable[object]) -> str:
    """The one line with which it refuses to start."""
    with pytest.raises(StartupFailed) as refused:
        await work
    line = refused.value.detail
    assert line == line.strip()
    assert "\n" not in line
    return line


async def refusal(url: str) -> str:
    """The line with which both uses of a database refuse it."""
    line = await line_of(migrate(url))
    assert await line_of(pending_migrations(url)) == line
    return line


def bring(monkeypatch: pytest.MonkeyPatch, *brought: SqlFile) -> None:
    """Lets segmentd be a version that brings these numbered files."""
    monkeypatch.setattr(schema, "table_files", lambda: [*brought])


def bring_function(monkeypatch: pytest.MonkeyPatch, sql: str, version: str = __version__) -> None:
    """Lets segmentd be a version that brings this function beside the others."""
    functions = Functions([*FUNCTIONS.files, SqlFile(99, "99_more.sql", sql)])
    monkeypatch.setattr(schema, "functions", lambda: functions)
    monkeypatch.setattr(migrating, "__version__", version)


def asked(url: str, question: LiteralString) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(question).fetchone()
        return row and row[0]


def test_the_files_are_numbered_from_one_without_a_gap() -> None:
    assert [file.number for file in ALL] == [*range(1, len(ALL) + 1)]
    assert all(file.name.startswith(f"{file.number:04}_") for file in ALL)
    assert [file.number for file in FUNCTIONS.files] == [*range(1, len(FUNCTIONS.files) + 1)]


def test_what_is_edited_in_place_is_only_what_can_be_replaced() -> None:
    for file in FUNCTIONS.files:
        for statement in re.findall(
            r"^(?:CREATE|ALTER|DROP|INSERT|UPDATE|DELETE)\b.*", file.sql, re.MULTILINE
        ):
            assert statement.startswith("CREATE OR REPLACE "), file.name


async def test_an_empty_database_gets_every_migration_in_order(empty_database_url: str) -> None:
    assert await pending_migrations(empty_database_url) == [*NAMES, "functions"]
    assert tables(empty_database_url) == set()

    assert await migrate(empty_database_url) >= len(ALL)

    assert applied(empty_database_url) == NAMES
    assert await pending_migrations(empty_database_url) == []
    assert {"users", "segments", "memberships", "membership_events"} <= tables(empty_database_url)


async def test_the_functions_pass_the_checks_that_a_server_may_ask_of_plpgsql(
    empty_database_url: str,
) -> None:
    name = str(psycopg.conninfo.conninfo_to_dict(empty_database_url)["dbname"])
    execute(empty_database_url, "ALTER DATABASE {} SET plpgsql.extra_errors = 'all'", name)

    assert await migrate(empty_database_url) >= len(ALL)


async def test_a_second_run_does_nothing(empty_database_url: str) -> None:
    await migrate(empty_database_url)
    before = tables(empty_database_url)

    assert await migrate(empty_database_url) == 0

    assert applied(empty_database_url) == NAMES
    assert tables(empty_database_url) == before


async def test_of_four_that_migrate_one_empty_database_at_once_each_succeeds_and_one_works(
    empty_database_url: str,
) -> None:
    counts = await asyncio.gather(*(migrate(empty_database_url) for _ in range(4)))

    assert sorted(counts)[:3] == [0, 0, 0]
    assert max(counts) >= len(ALL)
    assert applied(empty_database_url) == NAMES


async def test_a_migration_that_fails_leaves_nothing_half_done_and_can_be_mended(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(empty_database_url)
    number = len(ALL) + 1
    good = SqlFile(number, f"{number:04}_good.sql", "CREATE TABLE good ()")
    bad = SqlFile(number + 1, f"{number + 1:04}_bad.sql", "CREATE TABLE half_done ();\nSELECT 1 / 0;")
    bring(monkeypatch, *ALL, good, bad)

    line = await line_of(migrate(empty_database_url))

    assert line == f"migration {bad.name} failed: division by zero"
    assert applied(empty_database_url) == NAMES
    assert {"good", "half_done"}.isdisjoint(tables(empty_database_url))
    assert await pending_migrations(empty_database_url) == [good.name, bad.name, "functions"]

    bring(monkeypatch, *ALL, good, bad._replace(sql="CREATE TABLE done ()"))
    assert await migrate(empty_database_url) >= 1
    assert {"good", "done"} <= tables(empty_database_url)


async def test_the_database_of_a_newer_segmentd_is_refused_and_left_as_it_is(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO schema_migrations (number, name) VALUES (9999, '9999_future.sql')")
        connection.execute("DELETE FROM schema_migrations WHERE number = %s", [len(ALL)])

    line = await refusal(database_url)

    assert line == "the database was migrated by a newer segmentd (migration 9999); update this one"
    assert applied(database_url) == [*NAMES[:-1], "9999_future.sql"]


@pytest.mark.parametrize("names", [["0001_tables.sql"], ["0001_tables.sql", "0002_partitions_and_locks.sql"]])
async def test_a_database_from_before_the_first_release_is_refused_and_left_as_it_is(
    empty_database_url: str, names: list[str]
) -> None:
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("CREATE TABLE schema_migrations (number integer PRIMARY KEY, name text NOT NULL)")
        for number, name in enumerate(names, 1):
            connection.execute("INSERT INTO schema_migrations VALUES (%s, %s)", [number, name])

    line = await refusal(empty_database_url)

    assert line == "a development version from before the first release made this database: use an empty one"
    assert tables(empty_database_url) == {"schema_migrations"}
    assert applied(empty_database_url) == names


async def test_changed_functions_are_applied_without_a_new_numbered_file(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring_function(monkeypatch, "CREATE OR REPLACE FUNCTION answer() RETURNS integer LANGUAGE sql RETURN 42")

    assert await pending_migrations(database_url) == ["functions"]
    assert await migrate(database_url) == 1

    assert asked(database_url, "SELECT answer()") == 42
    assert await pending_migrations(database_url) == []
    assert await migrate(database_url) == 0


async def test_an_older_segmentd_leaves_the_functions_of_a_newer_one_as_they_are(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        bring_function(
            newer, "CREATE OR REPLACE FUNCTION answer() RETURNS integer LANGUAGE sql RETURN 2", "0.10.0"
        )
        await migrate(database_url)
    bring_function(
        monkeypatch, "CREATE OR REPLACE FUNCTION answer() RETURNS integer LANGUAGE sql RETURN 1", "0.9.1"
    )

    assert await pending_migrations(database_url) == []
    assert await migrate(database_url) == 0

    assert asked(database_url, "SELECT answer()") == 2


WAITS_FOR_THE_CATALOG: LiteralString = """
    SELECT EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND NOT granted
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )
"""


async def test_functions_are_replaced_between_writes_and_not_amid_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring_function(monkeypatch, "CREATE OR REPLACE FUNCTION answer() RETURNS integer LANGUAGE sql RETURN 42")
    with psycopg.connect(database_url) as writer:
        writer.execute("SELECT pg_advisory_xact_lock_shared(catalog_lock())")
        migration = asyncio.create_task(migrate(database_url))
        while not migration.done() and not asked(database_url, WAITS_FOR_THE_CATALOG):  # noqa: ASYNC110 - the server makes it true
            await asyncio.sleep(0.01)
        assert not migration.done()
        assert asked(database_url, "SELECT to_regproc('answer')::text") is None

    assert await migration == 1
    assert asked(database_url, "SELECT answer()") == 42


async def test_a_write_that_does_not_end_holds_up_neither_a_start_nor_others_for_ever(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrating, "_CATALOG_ATTEMPTS", 2)
    bring_function(monkeypatch, "CREATE OR REPLACE FUNCTION answer() RETURNS integer LANGUAGE sql RETURN 42")
    with psycopg.connect(database_url) as writer:
        writer.execute("SELECT pg_advisory_xact_lock_shared(catalog_lock())")

        line = await line_of(migrate(database_url))

    assert line == "the functions cannot be replaced: a write or a report holds the catalog's lock"
    assert await migrate(database_url) == 1


@pytest.mark.parametrize(
    ("sql", "line"),
    [
        (
            "CREATE OR REPLACE FUNCTION clock_instant() RETURNS text LANGUAGE sql RETURN now()::text",
            "migration 99_more.sql failed: cannot change return type of existing function; ",
        ),
        (
            "CREATE OR REPLACE FUNCTION bucket(user_id bigint) RETURNS bigint LANGUAGE sql RETURN 0",
            "two functions have the name bucket: ",
        ),
    ],
)
async def test_a_function_whose_signature_changed_in_place_is_refused_with_what_to_do(
    database_url: str, monkeypatch: pytest.MonkeyPatch, sql: str, line: str
) -> None:
    count = "SELECT count(*) FROM pg_proc WHERE proname IN ('clock_instant', 'bucket')"
    before = asked(database_url, count)
    bring_function(monkeypatch, sql)

    expected = await line_of(migrate(database_url))

    assert (
        expected
        == f"{line}a changed signature or return type needs a DROP FUNCTION IF EXISTS in a new file of tables"
    )
    assert asked(database_url, count) == before


async def test_a_numbered_file_drops_a_function_whose_signature_changes(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropping = SqlFile(len(ALL) + 1, "9999_bucket.sql", "DROP FUNCTION bucket(bigint, bigint)")
    bring(monkeypatch, *ALL, dropping)
    old, new = "salt bigint) RETURNS bigint", "salt bigint, more bigint = 0) RETURNS bigint"
    changed = [file._replace(sql=file.sql.replace(old, new)) for file in FUNCTIONS.files]
    monkeypatch.setattr(schema, "functions", lambda: Functions(changed))

    await migrate(database_url)

    assert asked(database_url, "SELECT count(*) FROM pg_proc WHERE proname = 'bucket' AND pronargs = 3") == 1


async def test_a_migration_that_waits_too_long_for_another_is_an_error(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrating, "_LOCK_TIMEOUT", "50ms")
    with psycopg.connect(empty_database_url) as other:
        other.execute("SELECT pg_advisory_lock(7236837900)")

        line = await line_of(migrate(empty_database_url))

    assert line == "another segmentd has been migrating this database for 50ms"


async def test_a_wrong_password_is_an_error_that_does_not_show_it(database_url: str) -> None:
    user = urlsplit(database_url).username
    assert user is not None

    line = await refusal(with_login(database_url, user, "a-secret"))

    assert f'password authentication failed for user "{user}"' in line
    assert "a-secret" not in line


async def test_a_missing_database_is_an_error_that_names_it(database_url: str) -> None:
    line = await refusal(with_database(database_url, "nowhere"))
    assert line.endswith('database "nowhere" does not exist')


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:1", 'server at "127.0.0.1", port 1 failed: Connection refused'),
        ("127.0.0.1:1,127.0.0.1:2", 'server at "127.0.0.1", port 2 failed: Connection refused'),
        ("nowhere.invalid", "nowhere.invalid"),
        (quote("/no/such/folder", safe=""), 'on socket "/no/such/folder/.s.PGSQL.5432" failed'),
    ],
)
async def test_an_unreachable_host_is_an_error_without_the_password(host: str, expected: str) -> None:
    line = await refusal(f"postgresql://segmentd:a-secret@{host}/segmentd")
    assert line.startswith("cannot use the database: ")
    assert expected in line
    assert "a-secret" not in line


@pytest.mark.parametrize(
    "url",
    [
        "postgres//segmentd:a-secret@host/db",
        "postgresql://segmentd:a-%zzsecret@host/db",
        "postgresql://segmentd:a-secret@[::1/db",
        "mysql://segmentd:a-secret@host/db",
        "a-secret",
    ],
)
async def test_what_is_no_url_is_refused_without_being_shown(url: str) -> None:
    line = await refusal(url)
    assert line.startswith("the database URL is malformed; it looks like postgresql://")
    assert "secret" not in line


async def test_a_postgresql_that_is_too_old_is_refused(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "OLDEST_POSTGRESQL", 99)

    line = await refusal(empty_database_url)

    assert re.fullmatch(r"PostgreSQL 99 or newer is needed; the database runs \d+", line)
    assert tables(empty_database_url) == set()


@pytest.fixture
def login_without_rights(postgres_url: str) -> Iterator[tuple[str, str]]:
    """The name and password of a role that owns nothing."""
    name = f"segmentd_test_{secrets.token_hex(6)}"
    execute(postgres_url, "CREATE ROLE {} LOGIN PASSWORD 'a-secret'", name)
    yield name, "a-secret"
    execute(postgres_url, "DROP ROLE {}", name)


async def test_a_role_that_may_not_make_tables_is_an_error_of_one_line(
    postgres_url: str, login_without_rights: tuple[str, str]
) -> None:
    with new_database(postgres_url, "template1") as url:
        line = await line_of(migrate(with_login(url, *login_without_rights)))
        assert line == "migration 0001_tables.sql failed: permission denied for schema public"
        assert tables(url) == set()


async def test_a_role_that_may_not_read_the_schema_is_an_error_of_one_line(
    database_url: str, login_without_rights: tuple[str, str]
) -> None:
    line = await line_of(pending_migrations(with_login(database_url, *login_without_rights)))
    assert line.startswith("cannot use the database: permission denied for ")
