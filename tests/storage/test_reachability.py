"""Why the database cannot be reached: in PostgreSQL's words, once a minute, for logs and /readyz alike."""

import asyncio
import secrets
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from structlog.testing import capture_logs

from segmentd.domain.errors import Unavailable
from segmentd.storage.database import Database
from segmentd.storage.sessions import Reachability
from tests.storage.test_migrate import with_login
from tests.support.office import until
from tests.support.postgres import execute, new_database, with_database
from tests.support.rows import Rows

TOO_MANY = "too many connections for role"


@pytest.fixture
def full(postgres_url: str) -> Iterator[str]:
    """The URL of a database for a role that may have no connection at all."""
    name = f"segmentd_test_{secrets.token_hex(6)}"
    execute(postgres_url, "CREATE ROLE {} LOGIN PASSWORD 'a-secret' CONNECTION LIMIT 0", name)
    with new_database(postgres_url, "template1") as url:
        yield with_login(url, name, "a-secret")
    execute(postgres_url, "DROP ROLE {}", name)


def allow(postgres_url: str, url: str, connections: int) -> None:
    role = str(psycopg.conninfo.conninfo_to_dict(url)["user"])
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(
                sql.Identifier(role), sql.Literal(connections)
            )
        )


async def refused(database: Database) -> None:
    with pytest.raises(Unavailable):
        await database.execute("SELECT 1")


def reason_of(database: Database) -> str:
    return database.last_failure or ""


async def test_the_reason_is_postgresql_s_and_goes_with_the_next_answer(full: str, postgres_url: str) -> None:
    async with Database(full, pool_size=2) as database:
        assert reason_of(database) == ""
        with capture_logs() as logs:
            await refused(database)
        assert TOO_MANY in reason_of(database)
        assert "\n" not in reason_of(database)
        assert "a-secret" not in str(logs)
        [line] = [line for line in logs if line["event"] == "database out of reach"]
        assert TOO_MANY in line["error"]

        allow(postgres_url, full, 5)
        while reason_of(database):
            try:
                await database.execute("SELECT 1")
            except Unavailable:
                continue


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("password", "password authentication failed"),
        ("database", 'database "nowhere" does not exist'),
        ("host", "failed to resolve host"),
    ],
)
async def test_other_reasons_are_shown_as_they_are(empty_database_url: str, broken: str, reason: str) -> None:
    urls = {
        "password": with_login(empty_database_url, "segmentd", "a-secret"),
        "database": with_database(empty_database_url, "nowhere"),
        "host": "postgresql://me:a-secret@nowhere.invalid/db",
    }
    async with Database(urls[broken], pool_size=1) as database:
        await refused(database)
        assert reason in reason_of(database)
        assert "a-secret" not in reason_of(database)


def test_each_reason_is_logged_once_a_minute() -> None:
    now = 0.0
    reachability = Reachability(lambda: now)

    def said(*errors: str) -> list[str]:
        with capture_logs() as logs:
            for error in errors:
                reachability.note_failure(psycopg.OperationalError(error))
                reachability.note_success()
        return [line["error"] for line in logs]

    assert said("one", "one", "two", "one") == ["one", "two"]
    now = 59.9
    assert said("one", "two") == []
    now = 60.0
    assert said("two", "one", "one") == ["two", "one"]
    assert reachability.reason is None


async def test_only_a_statement_whose_connection_broke_may_have_been_done(
    database: Database, rows: Rows
) -> None:
    async def ends() -> bool:
        return rows.column(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event = 'PgSleep'"
        ) == [True]

    asking = asyncio.create_task(database.execute("SELECT pg_sleep(60)"))
    await until(ends)
    with pytest.raises(Unavailable, match="made as a whole or not at all"):
        await asking
    with pytest.raises(Unavailable, match=r"cannot be reached at the moment"):
        await database.execute("SELECT pg_cancel_backend(pg_backend_pid())")
