"""Rows about writes: their rate, a segment with a percentage, and the way to another node."""

import itertools
import random
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

import msgspec
import psycopg

from bench.closed_loop import Requests, put_load
from bench.figures import Figure, Target, quantile
from bench.lab import POOL_SIZE, Lab
from bench.programs import BenchError, connection_environment, cores, postgres_program

CREATIONS: Final = 15
_LAST_SIGHT_SECONDS: Final = 10.0

# The statement that the service sends for 2 adds and 1 removal, with numbers chosen as in load.lua.
_PGBENCH: Final = r"""
\set user_id random(1, :users)
\set first random(0, 499)
\set one 1000 + :first
\set two 1000 + mod(:first + 167, 500)
\set three 1000 + mod(:first + 333, 500)
SELECT segments, added, removed, updated, unchanged, state
FROM change_memberships(
    :user_id, ARRAY['campaign-' || :one, 'campaign-' || :two, 'campaign-' || :three],
    '{t,t,f}'::boolean[], '{NULL,NULL,NULL}'::timestamptz[], '{NULL,NULL,NULL}'::bigint[], 'bench', NULL
);
"""


def write(lab: Lab) -> Iterator[Figure]:
    """Changes over HTTP against the same SQL function called by pgbench, over as many connections."""
    pgbench = postgres_program("pgbench")
    connections = cores() * POOL_SIZE
    requests = Requests("change", lab.plan.size, connections)
    ours: list[float] = []
    theirs: list[float] = []
    script = lab.folder / "change.sql"
    script.write_text(_PGBENCH, "utf-8")
    put_load(lab.node.url, requests, 1, lab.next_seed())
    for number in range(lab.plan.rounds):
        lab.say(f"write: pgbench, round {number + 1}")
        with lab.node.paused():
            _settle(lab)
            theirs.append(_transactions(pgbench, lab, script, connections))
        lab.node.wait_for_replica()
        _settle(lab)
        lab.say(f"write: segmentd, round {number + 1}")
        ours.append(put_load(lab.node.url, requests, lab.plan.seconds, lab.next_seed()).rate)
        lab.node.wait_for_replica()
    yield Figure(
        name="write",
        work=f"POST /users/{{id}}/segments, 2 adds and 1 removal, {connections} connections",
        unit="/s",
        values=ours,
        reference="pgbench, the same SQL function",
        reference_values=theirs,
        target=Target(0.5, 0.8),
    )


def create_rollout(lab: Lab) -> Iterator[Figure]:
    """A new segment that half of all users are in."""
    times = []
    with closing(HTTPConnection(*lab.node.address, timeout=30)) as connection:
        for number in range(CREATIONS):
            lab.say(f"create-rollout: {number + 1} of {CREATIONS}")
            slug = f"half-{number}"
            begun = time.perf_counter()
            _asked(connection, "POST", "/api/v1/segments", {"slug": slug, "percent": 50})
            times.append(1000 * (time.perf_counter() - begun))
            _asked(connection, "DELETE", f"/api/v1/segments/{slug}")
    yield Figure(
        name="create-rollout",
        work=f"POST /segments with 50 % of {lab.plan.size:,} users",
        unit="ms",
        values=times,
        rate=False,
        target=Target(20, 10, at_most=True),
    )


def freshness(lab: Lab) -> Iterator[Figure]:
    """For how long after the answer to a write the other node still gives the old answer."""
    middle, late = [], []
    chance = random.Random(lab.next_seed())
    with (
        lab.node_on(lab.database_url, "second node", workers=1) as second,
        closing(HTTPConnection(*lab.node.address, timeout=30)) as here,
        closing(HTTPConnection(*second.address, timeout=30)) as there,
    ):
        for number in range(lab.plan.rounds):
            lab.say(f"freshness: round {number + 1}")
            delays = [_delay(here, there, chance.randint(1, lab.plan.size)) for _ in range(lab.plan.writes)]
            middle.append(quantile(delays, 0.5))
            late.append(quantile(delays, 0.99))
    yield Figure(
        name="freshness",
        work=f"p99 of {lab.plan.writes} writes a round, from the answer until the other node shows it",
        unit="ms",
        values=late,
        rate=False,
        target=Target(100, 50, at_most=True),
        note=f"p50 {quantile(middle, 0.5):.1f} ms",
    )


def _transactions(pgbench: str, lab: Lab, script: Path, connections: int) -> float:
    command = [
        pgbench,
        *(
            "--no-vacuum",
            "--protocol",
            "prepared",
            "--file",
            str(script),
            "--define",
            f"users={lab.plan.size}",
        ),
        *("--client", str(connections), "--jobs", str(cores()), "--time", str(round(lab.plan.seconds))),
        *("--random-seed", str(lab.next_seed())),
    ]
    ended = subprocess.run(
        command,
        env=connection_environment(lab.database_url),
        capture_output=True,
        text=True,
        check=False,
        timeout=lab.plan.seconds + 60,
    )
    rate = re.search(r"^tps = ([0-9.]+)", ended.stdout, re.MULTILINE)
    if ended.returncode != 0 or rate is None:
        raise BenchError(f"pgbench failed: {ended.stderr.strip()}")
    return float(rate[1])


def _settle(lab: Lab) -> None:
    """Vacuums and checkpoints, so that each side begins in the same state."""
    with psycopg.connect(lab.database_url, autocommit=True) as connection:
        connection.execute("VACUUM users, memberships, membership_events")
        connection.execute("CHECKPOINT")


def _delay(here: HTTPConnection, there: HTTPConnection, user_id: int) -> float:
    path = f"/api/v1/users/{user_id}/segments"
    old = _asked(there, "GET", path)
    members = set(msgspec.json.decode(old)["segments"])
    slug = next(name for name in (f"campaign-{n}" for n in itertools.count(1001)) if name not in members)
    _asked(here, "POST", path, {"add": [slug]})
    written = time.perf_counter()
    while _asked(there, "GET", path) == old:
        if time.perf_counter() - written > _LAST_SIGHT_SECONDS:
            raise BenchError("a write was not seen on the other node")
    return 1000 * (time.perf_counter() - written)


def _asked(connection: HTTPConnection, method: str, path: str, body: object = None) -> bytes:
    connection.request(
        method,
        path,
        None if body is None else msgspec.json.encode(body),
        {} if body is None else {"Content-Type": "application/json"},
    )
    answer = connection.getresponse()
    content = answer.read()
    if answer.status >= 300:  # noqa: PLR2004 - not a success
        raise BenchError(f"{method} {path} was answered with {answer.status}: {content.decode()}")
    return content
