"""Rows about the console: how long its pages take, one after another, and how large they are."""

import random
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Final

from bench.figures import Figure, Target, quantile
from bench.lab import Lab
from bench.programs import BenchError

PAGES_OF_A_ROUND: Final = 100
_OK: Final = 200


def console(lab: Lab) -> Iterator[Figure]:
    """A user's page, of random users, and the list of segments."""
    chance = random.Random(lab.next_seed())
    work = {
        "console-user": "a user's page: segments with their reasons, timeline, history",
        "console-segments": "the list of segments, without their sizes",
    }
    with closing(HTTPConnection(*lab.node.address, timeout=30)) as connection:
        for name, what in work.items():
            late, middle, largest = [], [], 0
            for number in range(lab.plan.rounds):
                lab.say(f"{name}: round {number + 1}")
                found = []
                for _ in range(PAGES_OF_A_ROUND):
                    user_id = chance.randint(1, lab.plan.size)
                    path = f"users/{user_id}" if name == "console-user" else "segments"
                    seconds, size = _page(connection, f"/console/{path}")
                    found.append(seconds * 1000)
                    largest = max(largest, size)
                late.append(quantile(found, 0.99))
                middle.append(quantile(found, 0.5))
            yield Figure(
                name=name,
                work=f"{what}; p99, one at a time",
                unit="ms",
                values=late,
                rate=False,
                target=Target(100, 50, at_most=True),
                note=f"p50 {quantile(middle, 0.5):.1f} ms, {largest / 1000:.0f} kB at most",
            )


def _page(connection: HTTPConnection, path: str) -> tuple[float, int]:
    begun = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    size = len(answer.read())
    if answer.status != _OK:
        raise BenchError(f"{path} was answered with {answer.status}")
    return time.perf_counter() - begun, size
