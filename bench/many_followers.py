"""The row about many followers: what fifty nodes cost the primary, reckoned from ten without HTTP."""

import asyncio
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from bench.figures import Figure, Target
from bench.lab import Lab
from bench.nodes import Node
from bench.processor import processor_seconds, server_process
from bench.programs import BenchError
from segmentd.observability.logs import set_up_logging
from segmentd.replica.follower import Follower
from segmentd.replica.notifications import listen
from segmentd.storage.database import Database

FOLLOWERS: Final = 10
NODES: Final = 50
WRITES_PER_SECOND: Final = 500
_WRITERS: Final = 8
_ROUND_SECONDS: Final = 1.0
_READY: Final = "ready\n"


def many_followers(lab: Lab) -> Iterator[Figure]:
    """Processor time of PostgreSQL with the followers, less that without them, reckoned for fifty."""
    url, size = lab.small_database_url, lab.plan.small_size
    found: dict[str, list[float]] = {"idle": [], "writes": []}
    alone: list[float] = []
    rates: list[float] = []
    with lab.node_on(url, "followed node", workers=1) as node:
        for number in range(lab.plan.rounds):
            lab.say(f"many-followers: round {number + 1}")
            seconds = 2 * lab.plan.seconds
            nobody = _cost(url, seconds)
            with _writing(node, size) as written:
                busy = _cost(url, seconds)
                rates.append(written[0] / seconds)
            with _following(url, lab.folder / f"followers-{number}"):
                found["idle"].append(_of_fifty(_cost(url, seconds) - nobody))
                with _writing(node, size):
                    found["writes"].append(_of_fifty(_cost(url, seconds) - busy))
            alone.append(100 * busy)
    for name, work in (("idle", "no writes"), ("writes", f"{WRITES_PER_SECOND} writes/s asked for")):
        yield Figure(
            name=f"many-followers-{name}",
            work=f"PostgreSQL's processor for {NODES} followers, reckoned from {FOLLOWERS}; {work}",
            unit="% of a core",
            values=found[name],
            rate=False,
            target=Target(10, 5, at_most=True),
            note=""
            if name == "idle"
            else f"{min(rates):.0f} writes/s or more; these and the node take {max(alone):.0f} %",
        )


def _of_fifty(cores: float) -> float:
    return max(0.0, 100 * cores * NODES / FOLLOWERS)


def _cost(url: str, seconds: float) -> float:
    """Cores that PostgreSQL used meanwhile."""
    server = [server_process(url)]
    before, begun = processor_seconds(server), time.monotonic()
    time.sleep(seconds)
    return (processor_seconds(server) - before) / (time.monotonic() - begun)


@contextmanager
def _following(url: str, folder: Path) -> Iterator[None]:
    """Ten followers with replicas of their own, while the context lives."""
    command = [sys.executable, "-m", "bench.many_followers", url, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None  # noqa: S101 - asked for above
        assert process.stdout is not None  # noqa: S101 - asked for above
        try:
            if process.stdout.readline() != _READY:
                raise BenchError("the followers did not start")
            yield
        finally:
            process.stdin.close()


@contextmanager
def _writing(node: Node, users: int) -> Iterator[list[int]]:
    """Changes of users at the rate; how many there were."""
    ended, written, numbers = threading.Event(), [0], itertools.count(1)

    def write() -> None:
        begun = time.monotonic()
        with closing(HTTPConnection(*node.address, timeout=30)) as connection:
            for turn in itertools.count():
                if ended.wait(max(0.0, begun + turn * _WRITERS / WRITES_PER_SECOND - time.monotonic())):
                    return
                number = next(numbers)
                body = msgspec.json.encode(
                    {"add": [{"slug": "campaign-1001", "ttl_seconds": 10_000_000 + number}]}
                )
                path = f"/api/v1/users/{1 + number * 7919 % users}/segments"
                connection.request("POST", path, body, {"Content-Type": "application/json"})
                connection.getresponse().read()
                written[0] += 1

    writers = [threading.Thread(target=write, name="write", daemon=True) for _ in range(_WRITERS)]
    for writer in writers:
        writer.start()
    try:
        yield written
    finally:
        ended.set()
        for writer in writers:
            writer.join()


async def follow(url: str, folder: Path) -> None:
    """Runs the followers until the end of the standard input."""
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        followers: list[Follower] = []
        for number in range(FOLLOWERS):
            database = await stack.enter_async_context(Database(url, pool_size=2))
            followers.append(stack.enter_context(closing(Follower(database, folder / str(number)))))
            await followers[-1].round()
        async with asyncio.TaskGroup() as group:
            for follower in followers:
                wake = asyncio.Event()
                group.create_task(listen(url, wake, stop))
                group.create_task(follower.follow(stop, wake, _ROUND_SECONDS))
            sys.stdout.write(_READY)
            sys.stdout.flush()
            await asyncio.to_thread(sys.stdin.read)
            stop.set()


if __name__ == "__main__":
    set_up_logging("warning")  # which does not write to the standard output
    uvloop.run(follow(sys.argv[1], Path(sys.argv[2])))
