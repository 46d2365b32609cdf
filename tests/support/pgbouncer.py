"""PgBouncer in front of the tests' PostgreSQL, where it is installed."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import quote, urlsplit

from psycopg.conninfo import conninfo_to_dict

PROGRAM: Final = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
_PATIENCE_S: Final = 60

_CONFIGURATION: Final = """
[databases]
{database} = host={host} port={port} user={user} password='{password}'
[pgbouncer]
listen_addr =
unix_socket_dir = {folder}
listen_port = 6432
auth_type = any
pool_mode = {pool_mode}
default_pool_size = {pool_size}
server_round_robin = {round_robin}
server_reset_query = {reset_query}
"""


@contextmanager
def pgbouncer(
    database_url: str,
    pool_mode: str,
    *,
    pool_size: int = 50,
    round_robin: bool = False,
    reset_query: str = "DISCARD ALL",
) -> Iterator[str]:
    """A PgBouncer in front of one database; the URL that leads through it."""
    assert PROGRAM is not None
    parameters = conninfo_to_dict(database_url)
    with TemporaryDirectory(prefix="pgbouncer-") as name:  # short, because a socket's path has to be short
        folder = Path(name)
        configuration = folder / "pgbouncer.ini"
        configuration.write_text(
            _CONFIGURATION.format(
                database=parameters["dbname"],
                host=parameters["host"],
                port=parameters.get("port", 5432),
                user=parameters["user"],
                password=parameters["password"],
                folder=folder,
                pool_mode=pool_mode,
                pool_size=pool_size,
                round_robin=int(round_robin),
                reset_query=reset_query,
            )
        )
        command = [PROGRAM, str(configuration)]
        if os.geteuid() == 0:  # as which it refuses to run
            command = ["unshare", "--user", "--map-user=1000", "--map-group=1000", *command]
        with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                deadline = time.monotonic() + _PATIENCE_S
                while not (folder / ".s.PGSQL.6432").exists():
                    assert process.poll() is None, (folder / "log").read_text()
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                login = f"{parameters['user']}:a-secret"
                yield urlsplit(database_url)._replace(netloc=f"{login}@{quote(name, safe='')}:6432").geturl()
            finally:
                process.terminate()
