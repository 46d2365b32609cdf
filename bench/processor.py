"""Processor time of processes."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psycopg

from bench.programs import Missing


class Stopwatch:
    """The processor time of some processes since it was made; processes that started later count too."""

    def __init__(self, pids: Iterable[int]) -> None:
        if not Path("/proc/self/stat").exists():
            raise Missing("processor time is read from /proc/PID/stat, which this system does not have")
        self._before = {pid: _seconds(pid) for pid in pids}

    def seconds(self, pids: Iterable[int]) -> float:
        """Of those that run now."""
        return sum(_seconds(pid) - self._before.get(pid, 0.0) for pid in pids)


def postgres_processes(url: str) -> list[int]:
    """The processes of a server on this machine, without the one that answers this."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()").fetchall()
    return [pid for (pid,) in rows]


def _seconds(pid: int) -> float:
    with suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
