import asyncio
import re
import secrets
from collections.abc import Awaitable, Iterator
from urllib.parse import quote, urlsplit

import psycopg
import pytest

from segmentd.domain.errors import StartupFailed
from segmentd.storage import migrate as migrating
from segmentd.storage.migrate import Migration, migrate, migrations, pending_migrations
from tests.postgres import execute, new_database, with_database

ALL = [*migrations()]
NAMES = [migration.name for migration in ALL]


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


def bring(monkeypatch: pytest.MonkeyPatch, *brought: Migration) -> None:
    """Lets segmentd be a version that brings these migrations."""
    monkeypatch.setattr(migrating, "migrations", lambda: iter(brought))


def test_migrations_are_numbered_from_one_without_a_gap() -> None:
    assert [migration.number for migration in ALL] == [*range(1, len(ALL) + 1)]
    assert all(migration.name.startswith(f"{migration.number:04}_") for migration in ALL)


async def test_an_empty_database_gets_every_migration_in_order(empty_database_url: str) -> None:
    assert await pending_migrations(empty_database_url) == NAMES
    assert tables(empty_database_url) == set()

    assert await migrate(empty_database_url) >= len(ALL)

    assert applied(empty_database_url) == NAMES
    assert await pending_migrations(empty_database_url) == []
    assert {"users", "segments", "memberships", "membership_events"} <= tables(empty_database_url)


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
    number = len(ALL) + 1
    good = Migration(number, f"{number:04}_good.sql", "CREATE TABLE good ()")
    bad = Migration(number + 1, f"{number + 1:04}_bad.sql", "CREATE TABLE half_done ();\nSELECT 1 / 0;")
    bring(monkeypatch, *ALL, good, bad)

    line = await line_of(migrate(empty_database_url))

    assert line == f"migration {bad.name} failed: division by zero"
    assert applied(empty_database_url) == [*NAMES, good.name]
    assert "good" in tables(empty_database_url)
    assert "half_done" not in tables(empty_database_url)
    assert await pending_migrations(empty_database_url) == [bad.name]

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


async def test_whoever_waits_too_long_for_another_s_migration_says_so(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrating, "_LOCK_TIMEOUT", "50ms")
    with psycopg.connect(empty_database_url) as other:
        other.execute("SELECT pg_advisory_lock(7236837900)")

        line = await line_of(migrate(empty_database_url))

    assert line == "another segmentd has been migrating this database for 50ms"


async def test_a_wrong_password_is_told_without_showing_it(database_url: str) -> None:
    user = urlsplit(database_url).username
    assert user is not None

    line = await refusal(with_login(database_url, user, "a-secret"))

    assert f'password authentication failed for user "{user}"' in line
    assert "a-secret" not in line


async def test_a_database_that_is_not_there_is_told_by_its_name(database_url: str) -> None:
    line = await refusal(with_database(database_url, "nowhere"))
    assert line.endswith('database "nowhere" does not exist')


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("127.0.0.1:1", 'server at "127.0.0.1", port 1 failed: Connection refused'),
        ("127.0.0.1:1,127.0.0.1:2", 'server at "127.0.0.1", port 2 failed: Connection refused'),
        ("nowhere.invalid", "nowhere.invalid"),
        (quote("/no/such/folder", safe=""), 'on socket "/no/such/folder/.s.PGSQL.5432" failed'),
    ],
)
async def test_a_host_that_cannot_be_reached_is_told_without_the_password(host: str, told: str) -> None:
    line = await refusal(f"postgresql://segmentd:a-secret@{host}/segmentd")
    assert line.startswith("cannot use the database: ")
    assert told in line
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
    monkeypatch.setattr(migrating, "OLDEST_POSTGRESQL", 99)

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


async def test_a_role_that_may_not_make_tables_is_told_so_in_one_line(
    postgres_url: str, login_without_rights: tuple[str, str]
) -> None:
    with new_database(postgres_url, "template1") as url:
        line = await line_of(migrate(with_login(url, *login_without_rights)))
        assert line == "cannot use the database: permission denied for schema public"
        assert tables(url) == set()


async def test_a_role_that_may_not_read_the_schema_is_told_so_in_one_line(
    database_url: str, login_without_rights: tuple[str, str]
) -> None:
    line = await line_of(pending_migrations(with_login(database_url, *login_without_rights)))
    assert line.startswith("cannot use the database: permission denied for ")


async def test_a_database_that_only_reads_is_told_so_in_one_line(empty_database_url: str) -> None:
    url = f"{empty_database_url}?options={quote('-c default_transaction_read_only=on')}"
    line = await line_of(migrate(url))
    assert line.endswith("in a read-only transaction")
