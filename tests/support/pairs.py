"""A primary and its standby: real PostgreSQL, one of which goes away while the other takes its place."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import quote

import psycopg

from segmentd.storage.embedded_launch import Account, choose_account, environment, programs
from tests.support.networks import Machine, machines
from tests.support.processes import PATIENCE_S, descendants, eventually, is_alive

_SETTINGS: Final = (
    "fsync=off",
    "max_connections=200",
    "shared_buffers=32MB",
    "hot_standby_feedback=on",
    "wal_receiver_status_interval=1s",
    "wal_retrieve_retry_interval=200ms",
)


# The clock of each server is ahead of the machine's by its own setting.
_CLOCKS: Final = """
    CREATE OR REPLACE FUNCTION clock_instant() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
        RETURN clock_timestamp() + current_setting('tests.ahead')::interval;
    CREATE OR REPLACE FUNCTION reading_instant() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
        RETURN statement_timestamp() + current_setting('tests.ahead')::interval;
"""


class Server:
    """One PostgreSQL, which listens on a socket in its folder, and on the address of its machine if any."""

    def __init__(self, folder: Path, machine: Machine | None = None, ahead_s: float = 0.0) -> None:
        folder.mkdir()
        self._folder = folder
        self._pgdata = folder / "pgdata"
        self._account: Account = choose_account(programs(), folder, self._pgdata)[0]
        if self._account.switched:
            os.chown(folder, self._account.uid, self._account.gid)
        self.host: Final = quote(str(folder), safe="")
        self.url: Final = f"postgresql://segmentd@{self.host}:5432/postgres"
        """By its socket, which is there when its machine is cut off too."""
        self.machine: Final = machine
        self.outer_host: Final = self.host if machine is None else machine.address
        self._settings: Final = (
            *_SETTINGS,
            f"listen_addresses={'' if machine is None else machine.address}",
            f"unix_socket_directories={folder}",
            f"tests.ahead={ahead_s} s",
        )
        self._process: subprocess.Popen[bytes] | None = None

    def initialise(self) -> None:
        """Makes its data."""
        self._run(
            "initdb", "-D", self._pgdata, "-U", "segmentd", "--auth=trust", "--encoding=UTF8", "--no-sync"
        )
        with (self._pgdata / "pg_hba.conf").open("a") as file:
            file.write("host all all samenet trust\nhost replication all samenet trust\n")

    def copy(self, primary: "Server") -> None:
        """Makes its data those of a primary, whose standby it then is."""
        shutil.rmtree(self._pgdata, ignore_errors=True)
        fast = ("--checkpoint=fast", "--no-sync", "--write-recovery-conf")
        url = f"postgresql://segmentd@{primary.outer_host}:5432/postgres"
        self._run("pg_basebackup", "-D", self._pgdata, "-d", url, *fast)

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        arguments = [argument for setting in self._settings for argument in ("-c", setting)]
        command = self._account.command(programs() / "postgres", "-D", self._pgdata, *arguments)
        if self.machine is not None:
            command = [*self.machine.prefix, *command]
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment()
            )
        eventually(self._answers)

    def follow_synchronously(self) -> None:
        """From now on each commit waits for the standby, which has to be there."""
        self.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.execute("SELECT pg_reload_conf()")
        eventually(lambda: self.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"))

    def promote(self) -> None:
        """Makes a standby the primary."""
        assert self.execute("SELECT pg_promote()") == [(True,)]

    def execute(self, query: str) -> list[tuple[object, ...]]:
        """Runs a statement; its rows, if it has any."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def kill(self) -> None:
        """Ends all its processes at once, as a power cut does."""
        family = self._signal(signal.SIGKILL)
        self._wait()
        # One that is still ending has the shared memory, and another start is refused.
        eventually(lambda: not any(map(is_alive, family)))

    def freeze(self) -> None:
        """Its processes go on existing, and do nothing: connections stay open, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def stop_sending(self) -> None:
        """The standby gets nothing more, though this primary goes on."""
        self._signal(signal.SIGSTOP, "walsender")

    def stop(self) -> None:
        """Shuts it down in order: a standby gets all that there is."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._wait()

    def clean_up(self) -> None:
        """Ends it, whatever the test did."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def _signal(self, number: signal.Signals, kind: str = "") -> list[int]:
        assert self._process is not None
        family = {self._process.pid: "", **descendants(self._process.pid)}
        for pid, command in family.items():
            if kind in command:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        return [*family]

    def _wait(self) -> None:
        assert self._process is not None
        self._process.wait(PATIENCE_S)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = self._account.run(programs() / program, *arguments, seconds=PATIENCE_S)
        assert done.returncode == 0, done.stdout


class Pair:
    """The primary, and the standby that is to take its place."""

    def __init__(self, primary: Server, standby: Server) -> None:
        self.primary = primary
        self.standby = standby
        hosts = f"{standby.outer_host}:5432,{primary.outer_host}:5432"
        self.url: Final = f"postgresql://segmentd@{hosts}/postgres?target_session_attrs=read-write"
        """Names both; the first one is a standby at the beginning."""

    def wait_for_standby(self) -> None:
        """Until the standby has all that the primary has written."""
        [(place,)] = self.primary.execute("SELECT pg_current_wal_lsn()")
        eventually(lambda: self.standby.execute(f"SELECT pg_last_wal_replay_lsn() >= '{place}'") == [(True,)])

    def promote(self) -> None:
        """Makes the standby the primary; the one before is no part any more."""
        self.standby.promote()
        self.primary, self.standby = self.standby, self.primary

    def set_clocks(self) -> None:
        """From now on the present is what the clock of each server says; the schema has to be there."""
        self.primary.execute(_CLOCKS)

    def renew(self, *, synchronous: bool = True) -> None:
        """Makes what was the primary before the standby of the present one."""
        self.standby.clean_up()
        if self.standby.machine is not None:
            self.standby.machine.join()
        self.standby.copy(self.primary)
        self.standby.start()
        if synchronous:
            self.primary.follow_synchronously()


@contextmanager
def pair(
    *, synchronous: bool = True, on_machines: bool = False, ahead_s: tuple[float, float] = (0.0, 0.0)
) -> Iterator[Pair]:
    """A primary and its standby; each on a machine of its own, if so; and how far its clock is ahead."""
    with (
        machines(2 if on_machines else 0) as found_machines,
        TemporaryDirectory(prefix="pair-") as name,  # short, because a socket's path has to be short
    ):
        Path(name).chmod(0o755)
        first, second = found_machines or (None, None)
        primary = Server(Path(name) / "a", first, ahead_s[0])
        standby = Server(Path(name) / "b", second, ahead_s[1])
        found = Pair(primary, standby)
        try:
            primary.initialise()
            primary.start()
            found.renew(synchronous=synchronous)
            yield found
        finally:
            primary.clean_up()
            standby.clean_up()
