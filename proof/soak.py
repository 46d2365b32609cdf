"""Soak: under a steady mixed load nothing grows without end, and answers stay as quick as they were."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final, NamedTuple

from proof.load import Outcomes, load, prepare
from proof.node import Node, running_node
from proof.results import Measured
from proof.vitals import Vitals, vitals
from segmentd.replica.notes import MOST_BYTES as NOTES_BYTES

_MIB: Final = 1 << 20
_LOOKS_A_QUARTER: Final = 10

# What may be more in the last quarter than in the first: a share, and something for what comes by chance.
MEMORY: Final = (1.15, 8)
DESCRIPTORS: Final = (1.0, 10)
CONNECTIONS: Final = (1.0, 4)
# Its notes, which those that follow the node read, grow up to their own bound.
REPLICA: Final = (1.25, NOTES_BYTES + _MIB)
BYTES_A_ROW: Final = (1.3, 0.0)
P99_S: Final = (2.0, 0.02)
DEAD: Final = 0.3
"""The most rows of a table that may wait for VACUUM at the end, of all its rows."""
_SMALL: Final = 5_000
"""Of a table with fewer rows, pages that are half empty say nothing."""


class Plan(NamedTuple):
    """How long, and at what share of the capacity."""

    seconds: float = 1200.0
    percent: int = 70
    seed: int = 1
    first_s: float = 10.0
    """How long these clients ask as fast as they can, twice; the second time tells the capacity."""


class Quarter(NamedTuple):
    """What was seen in a quarter of the time."""

    looks: Sequence[Vitals]
    outcomes: Outcomes


async def soak(
    plan: Plan, folder: Path, say: Callable[[str], None], *, as_shipped: bool = True
) -> tuple[float, Sequence[Quarter]]:
    """The load, in requests a second, and the quarters."""
    async with running_node(folder, slugs=(), as_shipped=as_shipped) as node:
        await prepare(node.doors)
        for first in (Outcomes(), Outcomes()):
            await load(node.doors, plan.first_s, None, plan.seed, first)
        rate = first.count / plan.first_s * plan.percent / 100
        say(f"{rate:,.0f} requests a second, {plan.percent} % of what these clients and the service reach")
        quarters = []
        for number in range(1, 5):
            quarters.append(await _quarter(node, plan, rate, number))
            say(f"quarter {number}: {_seen(quarters[-1])}")
    return rate, quarters


def measured(rate: float, quarters: Sequence[Quarter], plan: Plan) -> Measured:
    """As a row of the page."""
    first, last = quarters[0], quarters[-1]
    figures = (
        f"{plan.seconds / 60:.0f} minutes, {rate:,.0f} requests a second ({plan.percent} % of the capacity), "
        f"{sum(quarter.outcomes.count for quarter in quarters):,} answers; first and last quarter: "
        f"p99 of reads {_p99s(first, last, 'read')} ms, of changes {_p99s(first, last, 'change')} ms, "
        f"memory of all processes {_memory(first):.0f} and {_memory(last):.0f} MiB"
    )
    return Measured(figures, violations(quarters))


def violations(quarters: Sequence[Quarter]) -> list[str]:
    """What grew beyond its bound from the first to the last quarter, and answers that were no success."""
    first, last = quarters[0], quarters[-1]
    found = [
        f"{count} times {wrong}" for quarter in quarters for wrong, count in quarter.outcomes.wrong.items()
    ]
    begin, end = _figures(first), _figures(last)
    for name, (value, bound) in end.items():
        if name not in begin:
            found.append(f"{name} was not there in the first quarter")
        elif value > (most := bound[0] * begin[name][0] + bound[1]):
            found.append(f"{name}: {value:,.3f}, more than {most:,.3f}")
    for name, table in last.looks[-1].tables.items():
        if table.rows >= _SMALL and table.dead > DEAD * (table.rows + table.dead):
            found.append(f"{name}: {table.dead:,} dead rows beside {table.rows:,}")
    return found


Bounded = tuple[float, tuple[float, float]]


def _figures(quarter: Quarter) -> Mapping[str, Bounded]:
    """What has a bound, each with it."""
    looks, end = quarter.looks, quarter.looks[-1]
    figures: dict[str, Bounded] = {
        f"memory of {name}": (fmean(look.memory[name] for look in looks if name in look.memory), MEMORY)
        for name in end.memory
    }
    figures |= {
        f"descriptors of {name}": (max(look.descriptors.get(name, 0) for look in looks), DESCRIPTORS)
        for name in end.descriptors
    }
    figures["connections"] = (max(look.connections for look in looks), CONNECTIONS)
    figures["replica"] = (max(look.replica for look in looks), REPLICA)
    figures |= {
        f"bytes a row of {name}": (table.size / table.rows, BYTES_A_ROW)
        for name, table in end.tables.items()
        if table.rows >= _SMALL
    }
    figures |= {
        f"p99 of {kind}, in seconds": (quarter.outcomes.quantile(kind, 0.99), P99_S)
        for kind in ("read", "change")
    }
    return figures


async def _quarter(node: Node, plan: Plan, rate: float, number: int) -> Quarter:
    seconds = plan.seconds / 4
    outcomes, looks = Outcomes(), []
    asking = asyncio.create_task(load(node.doors, seconds, rate, plan.seed + number, outcomes))
    for _ in range(_LOOKS_A_QUARTER):
        await asyncio.wait([asking], timeout=seconds / _LOOKS_A_QUARTER)
        looks.append(await vitals(node))
    await asking
    return Quarter(looks, outcomes)


def _memory(quarter: Quarter) -> float:
    """Of all processes, in MiB."""
    return fmean(sum(look.memory.values()) for look in quarter.looks)


def _p99s(first: Quarter, last: Quarter, kind: str) -> str:
    return " and ".join(f"{1000 * quarter.outcomes.quantile(kind, 0.99):.1f}" for quarter in (first, last))


def _seen(quarter: Quarter) -> str:
    end = quarter.looks[-1]
    return (
        f"{quarter.outcomes.count:,} answers, {quarter.outcomes.wrong.total()} wrong, "
        f"read p99 {1000 * quarter.outcomes.quantile('read', 0.99):.1f} ms, "
        f"{_memory(quarter):.0f} MiB, {end.connections} connections"
    )
