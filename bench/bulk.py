"""Rows about the whole database at once: a report, and building a node's replica."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import rmtree
from typing import Final, LiteralString
from uuid import uuid4

import msgspec
import psycopg
import uvloop

from bench.building import Built
from bench.figures import Figure, Target
from bench.lab import Lab
from bench.memory import private_mebibytes
from bench.population import instant_of
from bench.programs import BenchError, connection_environment, postgres_program
from segmentd.domain.reports import Report, ReportId, Status
from segmentd.reports.build import build
from segmentd.reports.files import ReportFiles
from segmentd.storage.database import Database
from segmentd.storage.replication import ALL_STATES
from segmentd.storage.report_rows import cut_off, rows_query

_SAMPLE_SECONDS: Final = 0.05

# The settings of the session that builds reports, so that both get the same plan.
_REPORT_SESSION: Final = "-c work_mem=64MB -c hash_mem_multiplier=4 -c jit=off -c timezone=UTC"

# What a replica is built from, row by row as the table stores it.
_OPEN_MEMBERSHIPS: Final[LiteralString] = (
    "SELECT user_id, segment_id, included, until FROM memberships WHERE ended_at IS NULL ORDER BY user_id"
)


def report(lab: Lab) -> Iterator[Figure]:
    """A month's report against COPY of the same SELECT, whose output psql discards."""
    psql, url = postgres_program("psql"), lab.database_with_events
    month = _month(lab)
    ours: list[float] = []
    theirs: list[float] = []
    rows = 0
    for number in range(lab.plan.rounds):
        lab.say(f"report: COPY, round {number + 1}")
        as_of = asyncio.run(_cut_off(url))
        with psycopg.connect(url) as connection:
            query = rows_query(month, as_of).as_string(connection)
        statement = f"COPY ({query}) TO STDOUT (FORMAT csv, DELIMITER ';')"
        theirs.append(copied(psql, url, statement, _REPORT_SESSION))
        lab.say(f"report: build, round {number + 1}")
        seconds, rows = uvloop.run(_built(url, lab.folder / "reports", month))
        ours.append(seconds)
    if rows != lab.plan.events:
        raise BenchError(f"the report has {rows} rows of {lab.plan.events}")
    yield Figure(
        name="report",
        work=f"a month with {rows:,} events",
        unit="s",
        values=ours,
        rate=False,
        reference="COPY of the same SELECT by psql, in s",
        reference_values=theirs,
        target=Target(0.6, 0.8),
        note=f"{rows / min(ours):,.0f} rows/s",
    )


def replica(lab: Lab) -> Iterator[Figure]:
    """A full build of a replica against COPY of the same rows; its size; the builder's memory."""
    psql, url = postgres_program("psql"), lab.database_url
    seconds: list[float] = []
    memory: list[float] = []
    same: list[float] = []
    raw: list[float] = []
    built = Built(0, 0, 0)
    for number in range(lab.plan.rounds):
        lab.say(f"replica: COPY, round {number + 1}")
        same.append(copied(psql, url, f"COPY ({ALL_STATES}) TO STDOUT (FORMAT binary)"))
        raw.append(copied(psql, url, f"COPY ({_OPEN_MEMBERSHIPS}) TO STDOUT (FORMAT binary)"))
        lab.say(f"replica: build, round {number + 1}")
        built, peak = _build(url, lab.folder / "replica")
        seconds.append(built.seconds)
        memory.append(peak)
    yield Figure(
        name="replica-size",
        work=f"LMDB file of {built.users:,} users with 10 overrides each",
        unit="B/user",
        values=[built.size / built.users],
        rate=False,
        target=Target(120, 80, at_most=True),
    )
    yield Figure(
        name="replica-build",
        work="a full build",
        unit="s",
        values=seconds,
        rate=False,
        reference="COPY of the overrides by psql, in s",
        reference_values=raw,
        target=Target(0.5, 0.8),
        note=f"{built.users / min(seconds):,.0f} users/s",
    )
    yield Figure(
        name="replica-build-select",
        work="the same build",
        unit="s",
        values=seconds,
        rate=False,
        reference="COPY of the build's own SELECT, in s",
        reference_values=same,
    )
    yield Figure(
        name="replica-build-memory",
        work="highest private memory of the builder",
        unit="MiB",
        values=memory,
        rate=False,
        target=Target(200, 120, at_most=True),
        note="without the replica's pages",
    )


def _month(lab: Lab) -> Report:
    now = datetime.now(UTC)
    return Report(
        id=ReportId(uuid4()),
        status=Status.PENDING,
        begins_at=instant_of(lab.calendar.month_begins),
        ends_at=instant_of(lab.calendar.month_ends),
        user_id=None,
        segment_id=None,
        header=True,
        as_of=None,
        rows=None,
        size=None,
        sha256=None,
        reason=None,
        created_at=now,
        expires_at=now + timedelta(days=1),
    )


async def _cut_off(url: str) -> datetime:
    async with Database(url, pool_size=1) as database:
        return await cut_off(database)


async def _built(url: str, folder: Path, month: Report) -> tuple[float, int]:
    """Seconds and rows of one build, as the node's worker does it."""
    async with Database(url, pool_size=2) as database:
        begun = time.perf_counter()
        built = await build(database, ReportFiles.at(None, folder), month)
        seconds = time.perf_counter() - begun
    rmtree(folder)
    return seconds, built.rows


def copied(psql: str, url: str, statement: str, options: str = "") -> float:
    """Seconds that psql takes for a COPY whose output is discarded."""
    begun = time.perf_counter()
    ended = subprocess.run(
        [psql, "--no-psqlrc", "--quiet", "--command", statement],
        env={**connection_environment(url), "PGOPTIONS": options},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise BenchError(f"psql failed: {ended.stderr.strip()}")
    return time.perf_counter() - begun


def _build(url: str, folder: Path) -> tuple[Built, float]:
    """One build in a process of its own, and the highest memory measured of it, in MiB."""
    rmtree(folder, ignore_errors=True)
    peak = 0.0
    with subprocess.Popen(
        [sys.executable, "-m", "bench.building", url, str(folder)], stdout=subprocess.PIPE
    ) as process:
        while process.poll() is None:
            peak = max(peak, private_mebibytes(process.pid))
            time.sleep(_SAMPLE_SECONDS)
        said = process.stdout.read() if process.stdout else b""
    if process.returncode != 0:
        raise BenchError(f"the replica was not built: exit code {process.returncode}")
    rmtree(folder)
    return msgspec.json.decode(said, type=Built), peak
