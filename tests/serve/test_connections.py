"""How many connections a node needs, and what is said where the server allows fewer."""

import asyncio
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from segmentd.config import Settings
from segmentd.serve.connections import Needs, check_connections, needs_of_node, needs_of_worker
from segmentd.storage.migrate import migrate
from tests.storage.test_migrate import with_login
from tests.support.postgres import execute, new_database
from tests.support.processes import eventually, run, serving

OPEN: LiteralString = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


@pytest.fixture
def limited(postgres_url: str) -> Iterator[tuple[str, str]]:
    """A database whose owner is a role of its own: the URL, and the role's name."""
    name = f"segmentd_test_{secrets.token_hex(6)}"
    execute(postgres_url, "CREATE ROLE {} LOGIN PASSWORD 'a-secret'", name)
    with new_database(postgres_url, "template1") as url:
        execute(url, "GRANT CREATE, USAGE ON SCHEMA public TO {}", name)
        yield with_login(url, name, "a-secret"), name
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
    execute(postgres_url, "DROP ROLE {}", name)


def limit(postgres_url: str, role: str, connections: int) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(
                sql.Identifier(role), sql.Literal(connections)
            )
        )


def test_what_a_node_needs_follows_from_its_settings() -> None:
    assert needs_of_node(Settings(workers=2, pool_size=10, grpc_port=0)) == Needs(14, 59)
    assert needs_of_node(Settings(workers=8, pool_size=3, grpc_port=0)) == Needs(26, 80)
    # gRPC: a pool, and the connections that poll for tokens and listen for the feed.
    assert needs_of_node(Settings(workers=2, pool_size=10)) == Needs(14 + 2, 59 + 12)
    assert needs_of_worker(Settings(pool_size=10)) == Needs(9, 30)


def test_a_node_has_as_many_connections_as_it_says(empty_database_url: str, tmp_path: Path) -> None:
    needs = needs_of_node(Settings(workers=1, pool_size=3, grpc_port=0))
    with (
        psycopg.connect(empty_database_url, autocommit=True) as own,
        serving("--database-url", empty_database_url, "--pool-size", "3", cwd=tmp_path) as service,
        ThreadPoolExecutor(40) as clients,
    ):

        def open_now() -> int:
            [(count,)] = own.execute(OPEN).fetchall()
            return int(count)

        service.ready()
        eventually(lambda: open_now() >= needs.least)
        with service.client() as client:
            client.post("segments", json={"slug": "A"})
            # All writes wait for one lock, and so do the builds of reports: every pool grows to its size.
            with psycopg.connect(empty_database_url) as holder:
                holder.execute("SELECT pg_advisory_xact_lock(catalog_lock())")
                reports = [
                    clients.submit(client.post, "reports", json={"month": "2026-01"}) for _ in range(2)
                ]
                writes = [
                    clients.submit(client.post, f"users/{user}/segments", json={"add": ["A"]})
                    for user in range(1, 21)
                ]
                most = 0

                def grown() -> bool:
                    nonlocal most
                    most = max(most, open_now() - 1)
                    return most >= needs.least + 2

                eventually(grown)
            for answer in [*reports, *writes]:
                assert answer.result().status_code in {200, 202, 503}
                most = max(most, open_now())
        assert needs.least < most <= needs.most
        assert service.stop() == (0, "")


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("check",)])
def test_a_role_with_too_few_connections_is_refused_in_one_line(
    postgres_url: str, limited: tuple[str, str], tmp_path: Path, command: tuple[str, ...]
) -> None:
    url, role = limited
    asyncio.run(migrate(url))
    limit(postgres_url, role, 8)

    ended = run(*command, "--database-url", url, "--workers", "2", cwd=tmp_path)

    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line == (
        "segmentd: the server allows 8 connections, and this node opens 14 at its start and up to 59"
        " under load: raise max_connections or the limit of the role,"
        " or lower the settings workers and pool_size"
    )


def test_check_says_what_is_needed_and_what_is_allowed(
    postgres_url: str, limited: tuple[str, str], tmp_path: Path
) -> None:
    url, role = limited
    asyncio.run(migrate(url))
    limit(postgres_url, role, 20)

    ended = run("check", "--database-url", url, "--workers", "2", cwd=tmp_path)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert (
        "connections: this node needs 59 under load, and the server allows 20, which is too few: raise"
        in ended.stdout
    )


async def test_what_is_reserved_and_the_limits_of_the_database_count(
    postgres_url: str, limited: tuple[str, str]
) -> None:
    url, role = limited
    database = str(psycopg.conninfo.conninfo_to_dict(url)["dbname"])

    async def allowed(url: str) -> int:
        return (await check_connections(url, Needs(1, 1))).allowed

    with psycopg.connect(postgres_url) as connection:
        [(most, reserved)] = connection.execute(
            "SELECT current_setting('max_connections')::int,"
            " current_setting('superuser_reserved_connections')::int"
        ).fetchall()
    assert await allowed(url) == most - reserved
    execute(postgres_url, "ALTER DATABASE {} CONNECTION LIMIT 30", database)
    assert await allowed(url) == 30
    limit(postgres_url, role, 25)
    assert await allowed(url) == 25
    execute(postgres_url, "ALTER ROLE {} SUPERUSER", role)
    assert await allowed(url) == most
