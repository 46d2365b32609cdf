"""Load from wrk: each connection sends its next request as soon as it has its answer."""

import subprocess
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from bench.programs import BenchError, cores, wrk

Kind = Literal["read", "lookup", "change", "evaluate", "evaluate-all", "unleash", "growthbook"]

_SCRIPT: Final = Path(__file__).with_name("load.lua")
_MARK: Final = "BENCH "


class Load(msgspec.Struct, frozen=True):
    """What wrk measured."""

    requests: int
    seconds: float
    failed: int
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds


class Requests(NamedTuple):
    """The kind of requests, and the number of users from whom they choose."""

    kind: Kind
    users: int
    connections: int


def put_load(url: str, requests: Requests, seconds: float, seed: int) -> Load:
    """Puts load on a server. Raises Missing, and BenchError when a request failed."""
    command = [
        wrk(),
        *("-t", str(min(cores(), 2, requests.connections)), "-c", str(requests.connections)),
        *("-d", f"{max(1, round(seconds))}s", "--timeout", "30s", "-s", str(_SCRIPT), url, "--"),
        *(requests.kind, str(requests.users), str(seed)),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    lines = [line for line in ended.stdout.splitlines() if line.startswith(_MARK)]
    if ended.returncode != 0 or not lines:
        raise BenchError(f"wrk failed: {(ended.stderr or ended.stdout).strip()}")
    load = msgspec.json.decode(lines[0].removeprefix(_MARK), type=Load)
    if load.failed or not load.requests:
        raise BenchError(f"{load.failed} of {load.requests} requests of wrk to {url} failed")
    return load
