"""Nodes of segmentd: `segmentd serve` as operators run it, on a free port, ended by its process id."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from bench.programs import BenchError
from segmentd.replica.status import ReplicaStatus, status_path

READY: Final = "segmentd is ready on "
_START_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 40.0
_ASK_EVERY_S: Final = 0.01
_CLONE_SECONDS: Final = 3600.0


class Node(NamedTuple):
    """A running node."""

    url: str
    pid: int
    folder: Path
    started_in: float
    """Seconds from the start of the process to its ready line."""
    alive_in: float | None = None
    """Seconds until the first answer of /livez, where that was asked for."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    def wait_for_replica(self) -> None:
        """Returns once the node answers from its own, fresh replica."""
        deadline = time.monotonic() + _CLONE_SECONDS
        with closing(ReplicaStatus.open(status_path(self.folder / "node-1"))) as status:
            while (age := status.age()) is None or age > 2_000_000 or status.behind:  # noqa: PLR2004 - 2 s
                if time.monotonic() > deadline:
                    raise BenchError("the node's replica was not built in time")
                time.sleep(0.02)

    def http_workers(self) -> Sequence[int]:
        """The process ids of its HTTP workers."""
        return [pid for pid, name in _descendants(self.pid).items() if name == "http_worker"]

    def grpc_worker(self) -> int:
        """The process id of its gRPC worker."""
        [pid] = [pid for pid, name in _descendants(self.pid).items() if name == "grpc_worker"]
        return pid

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops all its processes for a while, so that a reference has the machine for itself."""
        family = [self.pid, *_descendants(self.pid)]
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in family:
                os.kill(pid, signal.SIGCONT)


@contextmanager
def node(
    folder: Path,
    *,
    database_url: str | None,
    workers: int = 0,
    pool_size: int | None = None,
    flags: Sequence[str] = (),
    port: int = 0,
) -> Iterator[Node]:
    """A ready node on this data directory; without a database URL it runs an embedded PostgreSQL.

    With a port it is asked from the beginning whether it lives.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = {"SEGMENTD_DATABASE_URL": database_url, "SEGMENTD_POOL_SIZE": pool_size and str(pool_size)}
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SEGMENTD_") and name != "DATABASE_URL"
    }
    arguments = [
        "serve",
        "--port",
        str(port),
        *(() if "--grpc-port" in flags else ("--grpc-port", "0")),
        "--workers",
        str(workers),
        "--data-dir",
        str(folder),
        *flags,
    ]
    log = folder / "bench.log"
    begun = time.perf_counter()
    with (
        log.open("ab") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "segmentd", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**inherited, **{name: value for name, value in own.items() if value}},
            start_new_session=True,  # it must not get our Ctrl-C
        ) as process,
    ):
        try:
            alive_in = _first_answer(process, port) - begun if port else None
            url = _url(process)
            if url is None:
                raise BenchError(f"segmentd did not start: {_last_line(log)}")
            yield Node(url, process.pid, folder, time.perf_counter() - begun, alive_in)
        finally:
            _stop(process)


def _url(process: subprocess.Popen[str]) -> str | None:
    watchdog = threading.Timer(_START_SECONDS, process.kill)
    watchdog.start()
    try:
        for line in process.stdout or ():
            if line.startswith(READY):
                return line.removeprefix(READY).strip()
        return None
    finally:
        watchdog.cancel()


def _first_answer(process: subprocess.Popen[str], port: int) -> float:
    """When it first says that it lives. Raises BenchError."""
    while process.poll() is None:
        with closing(HTTPConnection("127.0.0.1", port, timeout=_START_SECONDS)) as asked:
            try:
                asked.request("GET", "/livez")
                if asked.getresponse().status == 200:  # noqa: PLR2004 - OK
                    return time.perf_counter()
            except OSError:
                time.sleep(_ASK_EVERY_S)
    raise BenchError("segmentd did not start")


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        # Its children see the end of their pipes and stop by themselves.
        process.kill()


def _descendants(pid: int) -> dict[int, str]:
    """The processes that a process started, and theirs, with their names."""
    listed = subprocess.run(
        ["/bin/ps", "-A", "-o", "pid=,ppid=,comm="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    found: dict[int, str] = {}
    parents = {pid}
    while parents:
        children = {int(child): name for child, parent, name in rows if int(parent) in parents}
        found |= children
        parents = {*children}
    return found


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")
