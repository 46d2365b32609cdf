"""The programs that measure references, and a description of this machine."""

import os
import platform
import shutil
import socket
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from segmentd.storage.embedded_launch import environment, programs


class Missing(Exception):
    """The machine lacks what a row needs; the message says what to install."""


class BenchError(Exception):
    """A row could not be measured, although the machine has everything that it needs."""


def wrk() -> str:
    """The load generator. Raises Missing."""
    return _installed("wrk")


def nginx() -> str:
    """The web server. Raises Missing."""
    return _installed("nginx")


def postgres_program(name: str) -> str:
    """`psql` or `pgbench`, of the embedded PostgreSQL or else of the system. Raises Missing."""
    own = programs() / name
    if os.access(own, os.X_OK):
        return str(own)
    return _installed(name, "postgresql-contrib" if name == "pgbench" else "postgresql-client")


def connection_environment(url: str) -> dict[str, str]:
    """The environment by which PostgreSQL's programs connect to this database; it holds the password."""
    given = conninfo_to_dict(url)
    names = {
        "host": "PGHOST",
        "port": "PGPORT",
        "user": "PGUSER",
        "password": "PGPASSWORD",
        "dbname": "PGDATABASE",
    }
    settings = {variable: str(given[key]) for key, variable in names.items() if key in given}
    return environment(**settings)


def free_port() -> int:
    """A port of the loopback on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """A short description of this machine."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text("utf-8").splitlines() if line.startswith("model name")]
        model = lines[0].partition(": ")[2] if lines else model
    return f"{cores()} cores of {model}, {platform.system()}, Python {platform.python_version()}"


def _installed(name: str, package: str = "") -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    if found is None:
        raise Missing(f"{name} is not installed; on Debian and Ubuntu: apt install {package or name}")
    return found
