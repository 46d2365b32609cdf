"""Processor time of processes."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psycopg

from bench.programs import Missing

_TICKS = os.sysconf("SC_CLK_TCK")


class Stat(NamedTuple):
    """What the system says of a process; times in seconds."""

    parent: int
    own: float
    of_ended_children: float


def processor_seconds(pids: Sequence[int]) -> float:
    """Of processes and all children that they have or had, since their start. Raises Missing."""
    running = {int(entry.name): stat for entry in _processes() if (stat := _stat(entry)) is not None}
    return sum(
        stat.own + stat.of_ended_children
        for pid, stat in running.items()
        if pid in pids or stat.parent in pids
    )


def server_process(url: str) -> int:
    """The main process of a PostgreSQL on this machine. Raises Missing."""
    with psycopg.connect(url) as connection:
        [(pid,)] = connection.execute("SELECT pg_backend_pid()").fetchall()
        stat = _stat(Path(f"/proc/{pid}"))
    if stat is None:
        raise Missing("processor time is read from /proc, which does not show the server's processes")
    return stat.parent


def _processes() -> Sequence[Path]:
    entries = [*Path("/proc").glob("[0-9]*")]
    if not entries:
        raise Missing("processor time is read from /proc, which this system does not have")
    return entries


def _stat(entry: Path) -> Stat | None:
    with suppress(FileNotFoundError, ProcessLookupError):
        _, parent, *fields = (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        user, system, children_user, children_system = (int(each) / _TICKS for each in fields[9:13])
        return Stat(int(parent), user + system, children_user + children_system)
    return None
