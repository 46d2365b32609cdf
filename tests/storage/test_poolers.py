"""Poolers: those that keep a connection for a client as long as it stays are fine, others are refused."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg
import pytest

from segmentd.domain.errors import StartupFailed
from segmentd.storage import server
from segmentd.storage.migrate import migrate, pending_migrations
from segmentd.storage.server import connected
from segmentd.storage.sessions import Session
from tests.support.client import Json
from tests.support.pgbouncer import PROGRAM, pgbouncer
from tests.support.pooler import pooler
from tests.support.processes import run
from tests.support.story import story

REFUSAL = (
    "a connection pooler shares the database's connections between transactions, as PgBouncer does with"
    " pool_mode = transaction or statement: set pool_mode = session for segmentd, or name the server itself"
)
needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed")


def left_behind(url: str) -> list[tuple[object, ...]]:
    """Locks and tables in a database that nobody should have touched."""
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT locktype FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
            " WHERE locktype = 'advisory' AND datname = current_database()"
            " UNION ALL SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()


async def refusal(url: str) -> str:
    with pytest.raises(StartupFailed) as refused:
        await pending_migrations(url)
    return refused.value.detail


async def test_a_pooler_of_transactions_is_recognised_by_what_it_does(empty_database_url: str) -> None:
    async with pooler(empty_database_url) as url:
        for _ in range(3):
            assert await refusal(url) == REFUSAL
            with pytest.raises(StartupFailed, match="pool_mode"):
                await migrate(url)
    assert left_behind(empty_database_url) == []


async def test_the_server_itself_is_asked_by_one_connection(empty_database_url: str) -> None:
    async with connected(empty_database_url) as connection:
        cursor = await connection.execute("SELECT pg_backend_pid()")
        assert await cursor.fetchone() == (connection.info.backend_pid,)


@needs_pgbouncer
@pytest.mark.parametrize("round_robin", [False, True], ids=["last in first out", "round robin"])
@pytest.mark.parametrize("idle", [0, 1, 4])
@pytest.mark.parametrize("pool_mode", ["transaction", "statement"])
async def test_pgbouncer_is_refused_where_it_shares_connections(
    empty_database_url: str, pool_mode: str, idle: int, *, round_robin: bool
) -> None:
    with pgbouncer(empty_database_url, pool_mode, round_robin=round_robin) as url:
        async with AsyncExitStack() as stack:
            others = [
                await stack.enter_async_context(
                    await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=None)
                )
                for _ in range(idle)
            ]
            await asyncio.gather(*(other.execute("SELECT pg_sleep(0.1)") for other in others))

            assert await refusal(url) == REFUSAL

            # What others share is as it was.
            for other in others:
                cursor = await other.execute("SELECT current_setting('statement_timeout')")
                assert await cursor.fetchone() == ("0",)
                cursor = await other.execute("SELECT count(*) FROM pg_prepared_statements")
                assert await cursor.fetchone() == (0,)
        assert left_behind(empty_database_url) == []


@needs_pgbouncer
@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("worker",), ("migrate",), ("check",)])
def test_each_command_says_so_in_one_line(
    empty_database_url: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    with pgbouncer(empty_database_url, "transaction") as url:
        ended = run(*command, "--database-url", url, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (1, f"segmentd: {REFUSAL}\n")
    assert left_behind(empty_database_url) == []


@needs_pgbouncer
def test_with_pgbouncer_s_sessions_everything_works(
    empty_database_url: str, usual_story: list[Json], tmp_path: Path
) -> None:
    with pgbouncer(empty_database_url, "session") as url:
        assert story(url, tmp_path / "pooled") == usual_story
        with psycopg.connect(url) as connection:  # a session that segmentd had is clean
            assert connection.execute("SELECT current_setting('statement_timeout')").fetchone() == ("0",)
    assert ("advisory",) not in left_behind(empty_database_url)


@needs_pgbouncer
async def test_a_session_that_the_pooler_does_not_clean_is_cleaned_by_us(empty_database_url: str) -> None:
    with pgbouncer(empty_database_url, "session", pool_size=1, reset_query="") as url:
        for number in range(3):
            async with await Session.connect(url, autocommit=True) as connection:
                cursor = await connection.execute("SELECT %s::integer", [number], prepare=True)
                assert await cursor.fetchone() == (number,)


@needs_pgbouncer
async def test_a_pool_that_is_too_small_is_one_line(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_CONNECT_SECONDS", 2)
    with pgbouncer(empty_database_url, "session", pool_size=1) as url:
        assert (await refusal(url)).startswith("the connection pooler gave no second connection within 2 s")
