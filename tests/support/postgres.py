"""Real PostgreSQL for the tests: one server and one migrated template a run, one database a test."""

import asyncio
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, LiteralString
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from segmentd.storage import embedded
from segmentd.storage.migrate import migrate


@contextmanager
def shared_by_workers(place: Path, made: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    """One value for all workers of a run: the first one makes it, and removes it after the last one.

    The locks at `place` belong to the system, so a killed worker blocks nobody.
    """
    with _opened(place.with_suffix(".gate")) as gate, _opened(place.with_suffix(".users")) as users:
        value = place.with_suffix(".value")
        with _locked(gate):
            if maker := not value.exists():
                resource = made()
                value.write_text(resource.__enter__(), "utf-8")
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield value.read_text("utf-8")
        finally:
            fcntl.flock(users, fcntl.LOCK_UN)
            if maker:
                _end_after_the_last_user(gate, users, value, resource)


def _end_after_the_last_user(
    gate: int, users: int, value: Path, resource: AbstractContextManager[str]
) -> None:
    while True:
        fcntl.flock(users, fcntl.LOCK_EX)  # waits, with the gate open, for all present users
        fcntl.flock(users, fcntl.LOCK_UN)
        with _locked(gate):
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another came between the two locks
                continue
            value.unlink()
            resource.__exit__(None, None, None)
            return


@contextmanager
def _opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


# A database is some 400 files, tests copy thousands of them, and a disk takes ten times as long as memory.
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - what is made there is a folder of our own, under a new name
_PREFIX: Final = "segmentd-testing-"
_ROOM: Final = 4 * 2**30
_LEFTOVER_S: Final = 600

_QUICK: Final = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_wal_size": "256MB",
    # A login that its client has left half done holds up the end of every database until it times out: the
    # session in it answers no barrier. The usual minute had all processes of the tests wait, twice a run.
    "authentication_timeout": "10s",
}


@contextmanager
def quick_folder(folder: Path) -> Iterator[Path]:
    """A new folder in memory, or in `folder` where there is too little of it; it is removed at the end."""
    with (
        TemporaryDirectory(prefix=_PREFIX, dir=_memory() or folder) as quick,
        _opened(Path(quick), os.O_RDONLY) as descriptor,
    ):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield Path(quick)


def _memory() -> Path | None:
    """Where files lie in memory, if there is plenty of it; what killed runs left there is removed first."""
    if not _MEMORY.is_dir() or not os.access(_MEMORY, os.W_OK):
        return None
    for left in _MEMORY.glob(f"{_PREFIX}*"):
        # One that cannot be locked is in use, another user's, or gone.
        with suppress(OSError), _opened(left, os.O_RDONLY) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - left.stat().st_mtime > _LEFTOVER_S:  # a new one is not locked at once
                shutil.rmtree(left)
    return _MEMORY if shutil.disk_usage(_MEMORY).free > _ROOM else None


@contextmanager
def first_start(folder: Path) -> Iterator[Path]:
    """A data directory after its first start, to be copied: a first start takes a second."""
    with quick_folder(folder) as data_dir:
        embedded.start(data_dir).stop()
        yield data_dir


@contextmanager
def quick_server(folder: Path) -> Iterator[str]:
    """The embedded PostgreSQL on new data in memory, or in `folder`; a crash would ruin its data.

    SEGMENTD_TEST_SERVER_SETTINGS has more settings for it, as in "autovacuum_naptime=1s work_mem=64kB".
    """
    given = os.environ.get("SEGMENTD_TEST_SERVER_SETTINGS", "").split()
    with quick_folder(folder) as data_dir:
        server = embedded.start(data_dir)
        try:
            url = with_database(server.url, "postgres")
            for setting, value in {**_QUICK, **dict(each.split("=", 1) for each in given)}.items():
                execute(url, "ALTER SYSTEM SET {} = {}", setting, value)
            execute(url, "SELECT pg_reload_conf()")
            _make_logins_cheap(url)
            yield url
        finally:
            server.stop()


def _make_logins_cheap(url: str) -> None:
    """Tests open thousands of connections, and the usual 4,096 iterations take a client two milliseconds."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET scram_iterations = 1")
        password = sql.Literal(urlsplit(url).password)
        connection.execute(sql.SQL("ALTER ROLE CURRENT_USER PASSWORD {}").format(password))


@contextmanager
def migrated_template(server_url: str) -> Iterator[str]:
    """The name of a database that has the schema and nothing else, for others to be cloned from."""
    with new_database(server_url, "template1") as url:
        with ThreadPoolExecutor(1) as apart:  # a loop of its own, which pytest-asyncio need not know of
            apart.submit(asyncio.run, migrate(url)).result()
        yield database_of(url)


@contextmanager
def new_database(server_url: str, template: str) -> Iterator[str]:
    """The URL of a database cloned from `template`; at the end it is dropped, with its connections."""
    name = f"segmentd_test_{secrets.token_hex(6)}"
    administrator = _administrator(server_url)
    # Copying the template's files takes half as long as writing them to the log, which is the default.
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
    administrator.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
    try:
        yield with_database(server_url, name)
    finally:
        drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
        _administrator(server_url).execute(drop.format(sql.Identifier(name)))


_administrators: Final[dict[str, psycopg.Connection]] = {}


def _administrator(server_url: str) -> psycopg.Connection:
    """This process's own connection for making databases, which is kept: opening it takes as long."""
    connection = _administrators.get(server_url)
    if connection is None or connection.closed:
        connection = psycopg.connect(server_url, autocommit=True)
        _administrators[server_url] = connection
    return connection


@contextmanager
def kept_connections() -> Iterator[None]:
    """Closes at the end what this process keeps open for making databases."""
    try:
        yield
    finally:
        while _administrators:
            _administrators.popitem()[1].close()


def with_database(url: str, name: str) -> str:
    """The URL of another database on the same server."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def database_of(url: str) -> str:
    """The name of the database that a URL leads to."""
    return urlsplit(url).path.removeprefix("/")


def execute(url: str, statement: LiteralString, *names: str) -> None:
    """Runs one statement, outside a transaction, on a connection of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
