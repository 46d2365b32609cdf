"""Three PostgreSQL under Patroni, which agree among themselves (Raft) which one takes writes."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
import yaml

from segmentd.storage.embedded_launch import choose_account, environment, programs
from tests.support.processes import PATIENCE_S, descendants, eventually, processes

MEMBERS: Final = range(3)


class Cluster:
    """The three of them; `program` is the command `patroni`."""

    def __init__(self, folder: Path, program: str) -> None:
        self._folder = folder
        self._account = choose_account(programs(), folder, folder)[0]
        if self._account.switched:
            os.chown(folder, self._account.uid, self._account.gid)
        self._program = program
        # Its first line names the Python that it needs.
        self._python = Path(program).read_text("utf-8").splitlines()[0].removeprefix("#!").strip()
        ports = [_free_port() for _ in range(9)]
        self._postgres, self._rest, self._raft = ports[:3], ports[3:6], ports[6:]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._postgres)
        self.url: Final = f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"

    def start(self, member: int) -> None:
        """Starts a member, or starts it again."""
        configuration = self._folder / f"{member}.yaml"
        configuration.write_text(yaml.safe_dump(self._configuration(member)), "utf-8")
        with (self._folder / f"{member}.log").open("a") as log:
            self._processes[member] = subprocess.Popen(
                self._account.command(self._python, self._program, configuration),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment(),
            )

    def leader(self) -> int:
        """The number of the member that takes writes."""
        [number] = [number for number, role in self._roles().items() if role == "leader"]
        return number

    def wait_for_standby(self) -> None:
        """Until all members are there, and one of them confirms each commit."""
        eventually(lambda: sorted(self._roles().values()) == ["leader", "replica", "sync_standby"])

    def kill_postgres(self) -> None:
        """Ends the leader's PostgreSQL at once; Patroni sees it."""
        _kill(self._postgres_of(self.leader()))

    def kill_machine(self) -> int:
        """Ends all of the leader at once, as a power cut does; its number."""
        member = self.leader()
        self._end(member)
        return member

    def switch_over(self) -> None:
        """Has another member take the leader's place in order."""
        leader = self.leader()
        answer = httpx.post(
            f"http://127.0.0.1:{self._rest[leader]}/switchover",
            json={"leader": f"member{leader}"},
            timeout=PATIENCE_S,
        )
        assert answer.status_code == 200, answer.text

    def clean_up(self) -> None:
        """Ends all of them."""
        for member in self._processes:
            self._end(member)

    def _end(self, member: int) -> None:
        process = self._processes[member]
        _kill({process.pid, *self._postgres_of(member)})
        process.wait(PATIENCE_S)

    def _postgres_of(self, member: int) -> set[int]:
        """The processes of a member's PostgreSQL, which is no child of Patroni's."""
        data = f"-D {self._folder}/data{member} "
        first = {pid for pid, (_, command) in processes().items() if data in command}
        return {*first, *(each for pid in first for each in descendants(pid))}

    def _roles(self) -> dict[int, str]:
        """Of all members that run, as any of them knows it."""
        for port in self._rest:
            with suppress(httpx.TransportError):
                members = httpx.get(f"http://127.0.0.1:{port}/cluster", timeout=5).json()["members"]
                running = [each for each in members if each["state"] in {"running", "streaming"}]
                return {int(each["name"].removeprefix("member")): each["role"] for each in running}
        return {}

    def _configuration(self, member: int) -> dict[str, Any]:
        rest, postgres = f"127.0.0.1:{self._rest[member]}", f"127.0.0.1:{self._postgres[member]}"
        return {
            "scope": "segmentd",
            "name": f"member{member}",
            "restapi": {"listen": rest, "connect_address": rest},
            "raft": {
                "data_dir": f"{self._folder}/raft{member}",
                "self_addr": f"127.0.0.1:{self._raft[member]}",
                "partner_addrs": [f"127.0.0.1:{self._raft[each]}" for each in MEMBERS if each != member],
            },
            "bootstrap": {
                "dcs": {
                    "ttl": 20,
                    "loop_wait": 1,
                    "retry_timeout": 3,
                    "primary_start_timeout": 0,
                    "synchronous_mode": True,
                    "postgresql": {
                        "use_pg_rewind": True,
                        "parameters": {"fsync": "off", "max_connections": 150, "shared_buffers": "32MB"},
                    },
                },
                "initdb": [{"encoding": "UTF8"}, "no-sync", "data-checksums"],
            },
            "postgresql": {
                "listen": postgres,
                "connect_address": postgres,
                "data_dir": f"{self._folder}/data{member}",
                "bin_dir": str(programs()),
                "authentication": {
                    "superuser": {"username": "postgres"},
                    "replication": {"username": "replication"},
                },
                "pg_hba": ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
                "parameters": {"unix_socket_directories": str(self._folder)},
            },
        }


@contextmanager
def cluster(program: str) -> Iterator[Cluster]:
    """Three that run, in order."""
    with TemporaryDirectory(prefix="patroni-") as name:  # short, because a socket's path has to be short
        Path(name).chmod(0o755)
        found = Cluster(Path(name), program)
        try:
            for member in MEMBERS:
                found.start(member)
            found.wait_for_standby()
            yield found
        finally:
            found.clean_up()


def program_of_patroni() -> str | None:
    """SEGMENTD_TEST_PATRONI, or the command in PATH. It is not in the lock files: Raft has no wheel."""
    return os.environ.get("SEGMENTD_TEST_PATRONI") or shutil.which("patroni")


def _kill(pids: set[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port: int = door.getsockname()[1]
        return port
