"""Histories of concurrent clients by all doors of two nodes, while their processes are killed and stopped."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from proof.checking import FeedEvent, violations
from proof.node import GRPC, HTTP, NODE, Node, one_of, running_node, send, stopped
from proof.recording import SLUGS, Recorder, Recording, feed_of
from proof.results import Measured

_CLIENTS: Final = 24
# Per user so many operations that they overlap, and so few that a search is short.
_OPERATIONS_PER_USER: Final = 400
_LONGEST_STOP_S: Final = 3.0
_PAUSE_S: Final = 4.0


class Plan(NamedTuple):
    """How much is done."""

    operations: int = 100_000
    seed: int = 1
    seconds: float = 1200.0
    """After so long, no further operation begins."""
    disturbed: bool = True


async def record(
    plan: Plan, nodes: dict[str, Node], say: Callable[[str], None]
) -> tuple[Recording, dict[str, list[FeedEvent]]]:
    """What the clients asked and were answered, and then the feed of each node."""
    recording = Recording()
    users = max(8, plan.operations // _OPERATIONS_PER_USER)
    doors = {name: node.doors for name, node in nodes.items()}
    recorders = [
        Recorder(f"c{number}", doors, users, recording, random.Random(plan.seed * 1000 + number))
        for number in range(_CLIENTS)
    ]
    loop = asyncio.get_running_loop()
    give_up = loop.time() + plan.seconds
    async with asyncio.TaskGroup() as tasks:
        disturbing = tasks.create_task(_disturb(nodes, plan, recording, say))
        async with asyncio.TaskGroup() as working:
            for recorder in recorders:
                working.create_task(
                    recorder.work(lambda: recording.operations >= plan.operations or loop.time() > give_up)
                )
        disturbing.cancel()
    for recorder in recorders:
        await recorder.close()
    for node in nodes.values():
        await node.healthy()
    feeds = {}
    for name, node in nodes.items():
        client = node.doors.client()
        feeds[f"a follower of {name}"] = await feed_of(client)
        client.close()
    return recording, feeds


async def _disturb(
    nodes: dict[str, Node], plan: Plan, recording: Recording, say: Callable[[str], None]
) -> None:
    """Stops the processes that follow, so that replicas age, and kills those that answer."""
    chance = random.Random(plan.seed)
    while plan.disturbed:
        await asyncio.sleep(chance.uniform(0.5, _PAUSE_S))
        name = chance.choice([*nodes])
        kind = chance.choice([NODE, NODE, NODE, HTTP, GRPC])
        victims = one_of(chance, nodes[name].of(kind))
        say(f"{recording.operations} operations; {kind} of {name}")
        if kind is NODE or chance.random() < 0.5:
            await stopped(victims, chance.uniform(0.3, _LONGEST_STOP_S))
        else:
            send(victims, signal.SIGKILL)


async def histories(
    plan: Plan, url: str, folder: Path, say: Callable[[str], None], *, as_shipped: bool = True
) -> Measured:
    """Records a history of nodes on this database, and checks it."""
    async with two_nodes(url, folder, as_shipped=as_shipped) as nodes:
        recording, feeds = await record(plan, nodes, say)
    found = [*recording.wrong, *violations(recording.history(feeds))]
    short = (
        f" of {plan.operations:,}, then the time was over," if recording.operations < plan.operations else ""
    )
    unanswered = sum(write.after is None for write in recording.writes)
    oldest = max((read.age for read in recording.reads), default=0)
    figures = (
        f"{recording.operations:,} operations{short} of {_CLIENTS} clients on two nodes:"
        f" {len(recording.writes):,} writes to users, {unanswered:,} of them without an answer;"
        f" {len(recording.reads):,} reads of users, the oldest of {oldest} s;"
        f" {sum(map(len, feeds.values())):,} changes from two feeds"
    )
    return Measured(figures, found)


@asynccontextmanager
async def two_nodes(url: str, folder: Path, *, as_shipped: bool) -> AsyncIterator[dict[str, Node]]:
    """Two nodes on one database, with the segments of the recorders."""
    async with AsyncExitStack() as stack:
        nodes = {}
        for name in ("one", "two"):
            (folder / name).mkdir()
            env = {"SEGMENTD_DATABASE_URL": url}
            nodes[name] = await stack.enter_async_context(
                running_node(folder / name, env, SLUGS, as_shipped=as_shipped)
            )
        yield nodes
