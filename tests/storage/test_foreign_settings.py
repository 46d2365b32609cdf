"""Whatever a database, a role, the environment or a URL sets: connections have segmentd's own settings."""

import ast
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from segmentd.storage.sessions import PINNED, Session
from tests.support.client import Json
from tests.support.story import story

SOURCE: Final = Path(__file__).parents[2] / "src/segmentd"

# None of them is what segmentd wants.
HOSTILE: Final = {
    "client_encoding": "LATIN1",
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "array_nulls": "off",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "transform_null_equals": "on",
    "search_path": "elsewhere",
    "row_security": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "statement_timeout": "1s",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1s",
    "idle_session_timeout": "1s",
    "exit_on_error": "on",
    "jit": "on",
    "plan_cache_mode": "force_generic_plan",
    "transaction_timeout": "1s",
}


def hostile(url: str) -> str:
    """Sets all of it for the database."""
    database = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.users (id text)")
        connection.execute("CREATE FUNCTION elsewhere.lower(text) RETURNS text LANGUAGE sql RETURN 'x'")
        version = connection.info.server_version
        for name, value in HOSTILE.items():
            if name != "transaction_timeout" or version >= 170_000:
                connection.execute(
                    sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                        sql.Identifier(str(database)), sql.Identifier(name), sql.Literal(value)
                    )
                )
    return url


@pytest.fixture
def hostile_url(empty_database_url: str) -> str:
    return hostile(empty_database_url)


async def settings_of(url: str) -> dict[str, str]:
    async with await Session.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(
            "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name"
            " WHERE current_setting(name, true) IS NOT NULL",
            [[*HOSTILE]],
        )
        return {name: value async for name, value in cursor}


def wanted(found: dict[str, str]) -> dict[str, str]:
    """As PostgreSQL writes them."""
    units = {"60s": "1min"}
    pinned = {**PINNED, "transaction_timeout": "0"}
    return {name: units.get(pinned[name], pinned[name]) for name in found}


async def test_every_pinned_setting_is_ours_whatever_the_database_says(hostile_url: str) -> None:
    found = await settings_of(hostile_url)
    assert found == wanted(found)
    assert {*PINNED} <= {*HOSTILE}
    assert len(found) >= len(HOSTILE) - 1


async def test_and_whatever_the_url_and_the_environment_say(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c DateStyle=German -c search_path=elsewhere -c jit=on")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    monkeypatch.setenv("PGTZ", "Asia/Kathmandu")
    monkeypatch.setenv("PGDATESTYLE", "German")
    options = quote("-c default_transaction_isolation=serializable -c default_transaction_read_only=on")
    found = await settings_of(f"{empty_database_url}?options={options}&client_encoding=SQL_ASCII")
    assert found == wanted(found)
    found = await settings_of(empty_database_url)
    assert found == wanted(found)


def test_a_database_with_every_setting_hostile_tells_the_same_story(
    hostile_url: str, usual_story: list[Json], tmp_path: Path
) -> None:
    assert story(hostile_url, tmp_path / "hostile") == usual_story


def test_no_connection_is_opened_but_as_a_session() -> None:
    """But for the embedded server's own first one, which pins itself."""
    opened = {
        (path.relative_to(SOURCE).as_posix(), ast.unparse(node.func))
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".connect", "Pool", "Connector"))
    }
    assert opened == {
        ("jobs.py", "QueueConnector"),  # whose connections are Sessions
        ("storage/sessions.py", "super().connect"),
        ("storage/server.py", "Session.connect"),
        ("replica/notifications.py", "Session.connect"),
        ("storage/database.py", "LatestFirstPool"),
        ("storage/embedded.py", "psycopg.connect"),
        ("jobs.py", "PsycopgConnector"),
    }
    for path in ("storage/pool.py", "storage/job_queue.py"):
        assert "connection_class=Session" in (SOURCE / path).read_text("utf-8")
    assert "execute(pins(" in (SOURCE / "storage/embedded.py").read_text("utf-8")
