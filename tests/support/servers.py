"""Servers that differ from the usual one of the tests: another version, another locale, a standby."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import quote

import psycopg

from segmentd.storage.embedded_launch import choose_account

_PATIENCE_S: Final = 60


def binaries_with_icu() -> Path | None:
    """The programs of an installed PostgreSQL that knows the locales of ICU; the embedded one does not."""
    installed = shutil.which("postgres")
    folders = [*Path("/usr/lib/postgresql").glob("*/bin"), *([Path(installed).parent] if installed else [])]
    for folder in folders:
        config = folder / "pg_config"
        if config.exists():
            built = subprocess.run([config, "--configure"], capture_output=True, text=True, check=False)
            if "--with-icu" in built.stdout:
                return folder
    return None


@contextmanager
def server(binaries: Path, *initdb: str, standby: bool = False) -> Iterator[str]:
    """A server that lives as long as the context; the URL of its database `postgres`."""
    with TemporaryDirectory(prefix="postgres-") as name:  # short, because a socket's path has to be short
        folder = Path(name)
        pgdata = folder / "pgdata"
        account, _ = choose_account(binaries, folder, pgdata)
        made = account.run(
            binaries / "initdb",
            *("-D", str(pgdata), "-U", "segmentd", "--auth=trust", "--encoding=UTF8", "--no-sync", *initdb),
            seconds=_PATIENCE_S,
        )
        assert made.returncode == 0, made.stdout
        if standby:
            (pgdata / "standby.signal").touch()
        settings = (
            "listen_addresses=",
            f"unix_socket_directories={name}",
            "fsync=off",
            "max_connections=100",
        )
        arguments = [argument for setting in settings for argument in ("-c", setting)]
        command = account.command(binaries / "postgres", "-D", pgdata, *arguments)
        url = f"postgresql://segmentd@{quote(name, safe='')}:5432/postgres"
        with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                deadline = time.monotonic() + _PATIENCE_S
                while not _answers(url):
                    assert process.poll() is None, (folder / "log").read_text()
                    assert time.monotonic() < deadline, (folder / "log").read_text()
                    time.sleep(0.05)
                yield url
            finally:
                process.terminate()


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True
