"""Kill cycles: whatever is killed, no acknowledged change is lost and none is made by mistake."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from proof.company import company
from proof.ledger import Ledger, Told
from proof.node import BACKEND, GRPC, HTTP, NODE, POSTGRES, Node, gone, one_of, running_node, send, stopped
from proof.results import Measured

WRITERS: Final = 16
_LONGEST_STOP_S: Final = 2.0
# After which a cycle fails, not a limit on how long something may take.
_PATIENCE_S: Final = 180.0


class Plan(NamedTuple):
    """How much is done."""

    cycles: int = 100
    seed: int = 1
    writers: int = WRITERS
    seconds: float = 1500.0
    """After so long, no further cycle begins."""
    kinds: Sequence[str] = (
        "an HTTP worker",
        "the node worker",
        "the gRPC worker",
        "the supervisor",
        "PostgreSQL",
        "a backend of PostgreSQL",
        "everything",
    )
    waits_for_imports: bool = True
    """Whether at the end every import has to be over; other processes take it up after a minute."""


class Report(NamedTuple):
    """What came of it."""

    acknowledged: int
    refused: int
    unanswered: int
    kills: Counter[str]
    differences: list[str]
    slowest_start_s: float
    """From the start of the supervisor to its ready line."""

    @property
    def cycles(self) -> int:
        return self.kills.total()


Victims = Callable[[Node, random.Random], list[int]]

KINDS: Final[dict[str, Victims]] = {
    "an HTTP worker": lambda node, chance: one_of(chance, node.of(HTTP)),
    "the node worker": lambda node, _: node.of(NODE),
    "the gRPC worker": lambda node, _: node.of(GRPC),
    "the supervisor": lambda node, _: node.of("supervisor"),
    "PostgreSQL": lambda node, _: node.of(POSTGRES),
    "a backend of PostgreSQL": lambda node, chance: one_of(chance, node.of(BACKEND)),
    "everything": lambda node, _: [*node.family()],
}
# After these, nobody is left who starts anything again.
_OUR_TURN: Final = {"the supervisor", "everything"}
_WAYS: Final = ("killed", "stopped, then killed", "stopped for a while")


async def kill_cycles(
    plan: Plan, folder: Path, say: Callable[[str], None], *, as_shipped: bool = True
) -> Report:
    """Runs the cycles; after each of them everything is compared with everything."""
    chance = random.Random(plan.seed)
    kills, differences = Counter[str](), list[str]()
    async with (
        running_node(folder, as_shipped=as_shipped) as node,
        company(node, plan.writers, plan.seed) as users,
    ):
        over = time.monotonic() + plan.seconds
        for cycle in range(plan.cycles):
            is_last = cycle + 1 == plan.cycles or time.monotonic() > over
            name, way = plan.kinds[cycle % len(plan.kinds)], chance.choice(_WAYS)
            await _until(users.ledger, 3 * plan.writers, chance)
            await _strike(node, name, way, chance)
            kills[f"{name}, {way}"] += 1
            found = await users.differences(final=is_last and plan.waits_for_imports)
            differences += [f"cycle {cycle + 1}, {name} {way}: {each}" for each in found]
            acknowledged = users.ledger.count(Told.ACKNOWLEDGED)
            say(f"cycle {cycle + 1}: {name} {way}; {acknowledged} acknowledged, {len(differences)} wrong")
            if is_last:
                break
    counts = {
        "acknowledged": Told.ACKNOWLEDGED,
        "refused": Told.REFUSED,
        "unanswered": Told.NOTHING,
    }
    counted = {name: users.ledger.count(told) for name, told in counts.items()}
    return Report(**counted, kills=kills, differences=differences, slowest_start_s=node.slowest_start_s)


def measured(report: Report, plan: Plan) -> Measured:
    """As a row of the page."""
    is_short = report.cycles < plan.cycles
    short = f" of {plan.cycles}, then the time was over" if is_short else ""
    figures = (
        f"{report.cycles} cycles{short}, {plan.writers} writers;"
        f" {report.acknowledged:,} changes acknowledged, {report.refused:,} refused,"
        f" {report.unanswered:,} without an answer; the slowest start took {report.slowest_start_s:.0f} s"
    )
    return Measured(figures, report.differences)


async def _until(ledger: Ledger, more: int, chance: random.Random) -> None:
    """Waits for some acknowledged changes, and then for a moment that nothing in the service decides."""
    enough = ledger.count(Told.ACKNOWLEDGED) + more
    async with asyncio.timeout(_PATIENCE_S):
        while ledger.count(Told.ACKNOWLEDGED) < enough:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.05)
    await asyncio.sleep(chance.uniform(0, 0.7))


async def _strike(node: Node, name: str, way: str, chance: random.Random) -> None:
    family, victims = [*node.family()], KINDS[name](node, chance)
    if way != "killed":
        await stopped(victims, chance.uniform(0.3, _LONGEST_STOP_S))
    if way == "stopped for a while":
        await node.healthy()
        return
    send(victims, signal.SIGKILL)
    if name in _OUR_TURN:
        await node.start()
        await gone(family)
    else:
        await gone(victims)
        await node.healthy()
