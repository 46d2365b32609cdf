"""The command `segmentd` as real processes, always ended with the test."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

import httpx

from tests.support.commands import Running, run_forked

# The time after which a test fails, not a limit on how long something may take.
PATIENCE_S: Final = 60

# Of a client that speaks no TLS; the certificates that each client loads otherwise take it 20 milliseconds.
TLS: Final = httpx.create_ssl_context()

MODULE: Final = [sys.executable, "-m", "segmentd"]


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Ours without its settings, and with these."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if "DATABASE_URL" not in name and name[:9] != "SEGMENTD_"
    }
    return {**kept, "COLUMNS": "200", "SEGMENTD_GRPC_PORT": "0", **variables}


def run(
    *arguments: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    command: Sequence[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a command of `segmentd` to its end, or another program."""
    if command is None:
        return run_forked([*map(str, arguments)], cwd, environment(env or {}), PATIENCE_S)
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=cwd,
        env=environment(env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def failure(ended: subprocess.CompletedProcess[str]) -> str:
    """The one line that a command left on standard error, with exit code 1."""
    assert ended.returncode == 1, ended
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert line.startswith("segmentd: ")
    return line.removeprefix("segmentd: ")


class Serving:
    """A `segmentd serve` that runs."""

    def __init__(
        self, arguments: Sequence[str | Path], cwd: Path, env: Mapping[str, str], *, as_shipped: bool = False
    ) -> None:
        self._errors = cwd / f"stderr-{time.monotonic_ns()}"
        self._errors.touch()
        command = ["serve", *map(str, arguments)]
        self._process = Running(command, cwd, environment(env), self._errors, as_shipped=as_shipped)
        self.url = ""

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self._process.pid

    @property
    def errors(self) -> str:
        """All that it wrote to standard error."""
        return self._errors.read_text()

    def ready(self) -> Self:
        """Waits for the line that says where it serves."""
        line = self._process.line(PATIENCE_S)
        found = re.fullmatch(r"segmentd is ready on (http://\S+)\n", line)
        assert found, (line, self.errors)
        self.url = found[1]
        return self

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    def client(self) -> httpx.Client:
        """A client of the API."""
        return httpx.Client(base_url=f"{self.url}/api/v1/", timeout=PATIENCE_S, verify=TLS)

    def ended(self) -> tuple[int, str]:
        """Waits for the end; the exit code, and what came on standard output after the line."""
        return self._process.ended(PATIENCE_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Asks it to end and waits."""
        self._process.send_signal(number)
        return self.ended()

    def family(self) -> dict[int, str]:
        """The processes that it started, and theirs: id and command."""
        return descendants(self.pid)

    def workers(self) -> set[int]:
        """The HTTP processes."""
        return {pid for pid, command in self.family().items() if "http_worker" in command}

    def clean_up(self) -> None:
        """Ends what is left, whatever the test did."""
        family = self.family()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGKILL)
        for pid in family:
            if is_alive(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.close()


@contextmanager
def serving(
    *arguments: str | Path,
    cwd: Path,
    port: int = 0,
    workers: int = 1,
    env: Mapping[str, str] | None = None,
    as_shipped: bool = False,
) -> Iterator[Serving]:
    """A `segmentd serve` that was started, and may not be ready yet.

    Unless it is `as_shipped`, its processes are forked of one that has imported everything.
    """
    fixed = ("--port", str(port), "--workers", str(workers))
    service = Serving([*fixed, *arguments], cwd, env or {}, as_shipped=as_shipped)
    try:
        yield service
    finally:
        service.clean_up()


def eventually(condition: Callable[[], object]) -> None:
    """Waits for something to come true. Looks less and less often: looking holds up what it waits for."""
    deadline = time.monotonic() + PATIENCE_S
    pause = 0.02
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    status = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():
        return pid in processes()
    try:
        return status.read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def descendants(pid: int) -> dict[int, str]:
    """The children of a process, and theirs."""
    listed = processes()
    found: dict[int, str] = {}
    generation = {pid}
    while generation:
        children = {child: command for child, (parent, command) in listed.items() if parent in generation}
        found |= children
        generation = {*children}
    return found


def processes() -> dict[int, tuple[int, str]]:
    """Every process that runs: its id, its parent's, and its command."""
    listed = subprocess.run(
        ["/bin/ps", "-A", "-ww", "-o", "pid=,ppid=,stat=,comm=,args="],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = [line.split(maxsplit=3) for line in listed.splitlines()]
    return {
        int(row[0]): (int(row[1]), row[3]) for row in rows if len(row) == 4 and not row[2].startswith("Z")
    }
