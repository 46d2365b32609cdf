"""Rows about a segment with a percentage, and about the way of a write to another node."""

import itertools
import random
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Final

import msgspec

from bench.figures import Figure, Target, quantile
from bench.lab import Lab
from bench.programs import BenchError

CREATIONS: Final = 15
_LAST_SIGHT_SECONDS: Final = 10.0


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
