"""Rows about the start, and about the computation of buckets."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from http.client import HTTPConnection
from typing import Final

import numpy as np
import xxhash

from bench.figures import Figure, Target
from bench.lab import Lab
from bench.nodes import node
from bench.programs import BenchError, free_port
from segmentd.domain.decisions import Decision
from segmentd.replica.kernel import BEST, Kernel, Plan

_COMPUTATIONS: Final = 2000


def start(lab: Lab) -> Iterator[Figure]:
    """From the command to the ready line: the first start on a data directory, and the next one."""
    first: list[float] = []
    warm: list[float] = []
    alive: list[float] = []
    for number in range(min(lab.plan.rounds, 3)):
        folder = lab.folder / f"start {number}"
        for times, name in ((first, "first"), (warm, "warm")):
            lab.say(f"start: {name}, round {number + 1}")
            with (
                node(folder, database_url=None, port=free_port()) as started,
                closing(HTTPConnection(*started.address)) as asked,
            ):
                times.append(started.started_in)
                alive.append(started.alive_in or 0)
                asked.request("GET", "/readyz")
                if asked.getresponse().status != 200:  # noqa: PLR2004 - OK
                    raise BenchError("the node printed its ready line before it was ready")
    work = "`segmentd serve` to its ready line, embedded PostgreSQL included"
    yield Figure(
        name="start",
        work=f"{work}, warm data directory",
        unit="s",
        values=warm,
        rate=False,
        target=Target(2, 1.2, at_most=True),
    )
    yield Figure(
        name="start-first",
        work=f"{work}, no data directory yet",
        unit="s",
        values=first,
        rate=False,
        target=Target(6, 3, at_most=True),
    )
    yield Figure(
        name="livez",
        work="`segmentd serve` to the first 200 of GET /livez, first starts and others",
        unit="s",
        values=alive,
        rate=False,
        target=Target(1, 0.5, at_most=True),
    )


def rollouts(lab: Lab) -> Iterator[Figure]:
    """Which of many rollouts cover a user, against one xxh64 for each rollout in a Python loop."""
    for count, most_us in ((100, 25.0), (1000, 60.0)):
        chance = np.random.default_rng(count)
        salts: list[int] = chance.integers(0, 2**63 - 1, count).tolist()
        thresholds: list[int] = chance.integers(1, 2**31, count).tolist()
        ranks = range(count)
        plan = Plan(ranks, bytes([Decision.UNCOVERED] * count), ranks, salts, thresholds)
        kernel = BEST(plan).kernel([b""] * count, b"")
        ours, theirs = [], []
        for _ in range(max(5, lab.plan.rounds)):
            ours.append(_microseconds(partial(_decided, kernel)))
            theirs.append(_microseconds(partial(_hashed, salts)))
        work = f"one user, {count:,} rollouts"
        yield Figure(
            name=f"rollouts-{count}",
            work=work,
            unit="µs",
            values=ours,
            rate=False,
            target=Target(most_us, most_us * 0.6, at_most=True),
        )
        yield Figure(
            name=f"rollouts-{count}-xxh64",
            work=work,
            unit="µs",
            values=ours,
            rate=False,
            reference="one xxh64 a rollout, in µs",
            reference_values=theirs,
        )


def _decided(kernel: Kernel, user_id: int) -> bytes:
    return kernel.codes(user_id, None, 0)


def _hashed(salts: list[int], user_id: int) -> list[int]:
    key = user_id.to_bytes(8, "little")
    digest = xxhash.xxh64_intdigest
    return [digest(key, salt) for salt in salts]


def _microseconds(compute: Callable[[int], object]) -> float:
    begun = time.perf_counter()
    for user_id in range(1, _COMPUTATIONS + 1):
        compute(user_id)
    return (time.perf_counter() - begun) * 1e6 / _COMPUTATIONS
