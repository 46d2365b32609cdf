"""The row about the feed: how long a committed change takes to a follower on another node."""

import itertools
import queue
import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Final, NamedTuple

import msgspec

from bench.figures import Figure, Target, quantile
from bench.lab import Lab
from bench.nodes import Node
from bench.programs import BenchError

_LAST_SIGHT_SECONDS: Final = 10.0
_DATA: Final = b"data: "


class _Came(NamedTuple):
    """A change of a user, and when the follower had it."""

    user_id: int
    at: float


def feed(lab: Lab) -> Iterator[Figure]:
    """From the answer to a write, right after its commit, until a stream of the other node has it."""
    middle, late = [], []
    chance = random.Random(lab.next_seed())
    with (
        lab.node_on(lab.database_url, "second node", workers=1) as second,
        closing(HTTPConnection(*lab.node.address, timeout=30)) as here,
        _following(second) as came,
    ):
        for number in range(lab.plan.rounds):
            lab.say(f"feed: round {number + 1}")
            delays = [_delay(here, came, chance.randint(1, lab.plan.size)) for _ in range(lab.plan.writes)]
            middle.append(quantile(delays, 0.5))
            late.append(quantile(delays, 0.99))
    yield Figure(
        name="feed",
        work=f"p99 of {lab.plan.writes} writes, from the answer until a stream of the other node has it",
        unit="ms",
        values=late,
        rate=False,
        target=Target(100, 30, at_most=True),
        note=f"p50 {quantile(middle, 0.5):.1f} ms",
    )


@contextmanager
def _following(node: Node) -> Iterator["queue.Queue[_Came]"]:
    """What a stream of a node brings, while the context lives."""
    came: queue.Queue[_Came] = queue.Queue()
    with closing(HTTPConnection(*node.address, timeout=30)) as connection:
        connection.request("GET", "/api/v1/changes?after=now", headers={"Accept": "text/event-stream"})
        answer = connection.getresponse()
        if answer.status != 200:  # noqa: PLR2004 - OK
            raise BenchError(f"the stream was answered with {answer.status}")
        answer.readline()  # it is in place
        threading.Thread(target=_read, args=(answer, came), name="follow", daemon=True).start()
        yield came


def _read(answer: HTTPResponse, came: "queue.Queue[_Came]") -> None:
    try:
        for line in answer:
            if line.startswith(_DATA):
                at = time.perf_counter()
                came.put(_Came(msgspec.json.decode(line[len(_DATA) :]).get("user_id", 0), at))
    except (OSError, ValueError, AttributeError):  # the connection was closed at the end of the row
        return


_numbers: Final = itertools.count(1)


def _delay(here: HTTPConnection, came: "queue.Queue[_Came]", user_id: int) -> float:
    # Another term each time, so that each write is a change.
    ttl = 10_000_000 + next(_numbers)
    body = msgspec.json.encode({"add": [{"slug": "campaign-1001", "ttl_seconds": ttl}]})
    here.request("POST", f"/api/v1/users/{user_id}/segments", body, {"Content-Type": "application/json"})
    answer = here.getresponse()
    answer.read()
    written = time.perf_counter()
    if answer.status != 200:  # noqa: PLR2004 - OK
        raise BenchError(f"a write was answered with {answer.status}")
    try:
        while (found := came.get(timeout=_LAST_SIGHT_SECONDS)).user_id != user_id:
            pass
    except queue.Empty:
        raise BenchError("a write did not come to the follower") from None
    return 1000 * max(0.0, found.at - written)
