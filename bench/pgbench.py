"""Load from pgbench: its own TPC-B, and statements of ours, over as many prepared connections."""

import re
import subprocess
from tempfile import NamedTemporaryFile
from typing import Final

import psycopg

from bench.programs import BenchError, connection_environment, cores, postgres_program

CLIENTS: Final = 16
# Of the TPC-B tables: two million accounts, 300 MB.
SCALE: Final = 20
_INITIALISE_SECONDS: Final = 600.0


def make_tpcb(url: str) -> None:
    """Makes the tables of TPC-B in an empty database. Raises Missing, BenchError."""
    _pgbench(url, _INITIALISE_SECONDS, "--initialize", "--quiet", "--scale", str(SCALE))


def tpcb_rate(url: str, seconds: float, seed: int, clients: int = CLIENTS) -> float:
    """Transactions a second of pgbench's own TPC-B, after a checkpoint. Raises Missing, BenchError."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
    return _rate(url, seconds, seed, clients, "--builtin", "tpcb-like")


def script_rate(url: str, script: str, seconds: float, seed: int, **variables: int) -> float:
    """Runs of a script a second. Raises Missing, BenchError."""
    defined = (f"--define={name}={value}" for name, value in variables.items())
    with NamedTemporaryFile("w", prefix="segmentd-bench-", suffix=".sql") as file:
        file.write(script)
        file.flush()
        return _rate(url, seconds, seed, CLIENTS, "--no-vacuum", "--file", file.name, *defined)


def _rate(url: str, seconds: float, seed: int, clients: int, *options: str) -> float:
    said = _pgbench(
        url,
        seconds + 60,
        *("--protocol", "prepared", "--client", str(clients), "--jobs", str(min(clients, cores()))),
        *("--time", str(max(1, round(seconds))), "--random-seed", str(seed)),
        *options,
    )
    rate = re.search(r"^tps = ([0-9.]+)", said, re.MULTILINE)
    if rate is None:
        raise BenchError(f"pgbench gave no rate: {said.strip()}")
    return float(rate[1])


def _pgbench(url: str, seconds: float, *options: str) -> str:
    ended = subprocess.run(
        [postgres_program("pgbench"), *options],
        env=connection_environment(url),
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    if ended.returncode != 0:
        raise BenchError(f"pgbench failed: {ended.stderr.strip()}")
    return ended.stdout
