"""What cannot be set right is refused at once, by one line that says what to do."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from segmentd.storage.embedded_launch import programs
from tests.storage.test_migrate import refusal
from tests.support.postgres import execute, with_database
from tests.support.processes import failure, run
from tests.support.servers import server


@contextmanager
def database_in(server_url: str, encoding: str) -> Iterator[str]:
    name = f"segmentd_test_{secrets.token_hex(6)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'"
            " LOCALE_PROVIDER libc LOCALE 'C'".encode()
        )
    try:
        yield with_database(server_url, name)
    finally:
        execute(server_url, "DROP DATABASE {} WITH (FORCE)", name)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
async def test_a_database_that_is_not_utf_8_is_refused(postgres_url: str, encoding: str) -> None:
    with database_in(postgres_url, encoding) as url:
        line = await refusal(url)
    assert line == (
        f"the encoding of the database is {encoding}, and it has to be UTF8:"
        " make one with CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8'"
    )


async def test_a_role_for_which_triggers_do_not_run_is_refused(empty_database_url: str) -> None:
    options = quote("-c session_replication_role=replica")
    line = await refusal(f"{empty_database_url}?options={options}")
    assert (
        line == "session_replication_role is replica, so triggers do not run: set it to origin for this role"
    )


async def test_a_standby_is_refused_by_each_command(tmp_path: Path) -> None:
    line = "the database is a standby, which takes no writes: name the primary"
    with server(programs(), "--no-locale", standby=True) as url:
        assert await refusal(url) == line
        assert failure(run("serve", "--port", "0", "--database-url", url, cwd=tmp_path)) == line
        assert run("check", "--database-url", url, cwd=tmp_path).stderr == f"segmentd: {line}\n"
