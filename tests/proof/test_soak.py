from collections.abc import Callable
from pathlib import Path

import pytest

from proof.load import ACTS, Outcomes
from proof.soak import Plan, Quarter, measured, soak, violations
from proof.vitals import Table, Vitals

MIB = 1024 * 1024


def quarter(
    *,
    memory: float = 60.0,
    descriptors: int = 40,
    connections: int = 12,
    replica: int = 3 * MIB,
    table: Table = Table(20_000, 900, 5 * MIB),  # noqa: B008 - it does not change
    seconds: float = 0.004,
    wrong: str | None = None,
) -> Quarter:
    outcomes = Outcomes()
    for kind in ("read", "change"):
        outcomes.seconds[kind].extend([seconds] * 100)
    if wrong:
        outcomes.wrong[wrong] += 1
    process = "http_worker 1"
    look = Vitals({process: memory}, {process: descriptors}, connections, replica, {"users": table})
    return Quarter([look] * 3, outcomes)


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (lambda: quarter(memory=80), "memory of http_worker 1"),
        (lambda: quarter(descriptors=60), "descriptors of http_worker 1"),
        (lambda: quarter(connections=20), "connections"),
        (lambda: quarter(replica=40 * MIB), "replica"),
        (lambda: quarter(table=Table(20_000, 900, 8 * MIB)), "bytes a row of users"),
        (lambda: quarter(table=Table(20_000, 9_000, 5 * MIB)), "9,000 dead rows"),
        (lambda: quarter(seconds=0.05), "p99 of read"),
        (lambda: quarter(wrong="change: 500"), "1 times change: 500"),
    ],
)
def test_a_soak_finds_each_kind_of_growth(last: Callable[[], Quarter], words: str) -> None:
    assert violations([quarter()] * 4) == []
    assert any(words in each for each in violations([quarter()] * 3 + [last()]))


@pytest.mark.proof
async def test_a_short_soak_asks_every_kind_of_request_and_each_is_answered(tmp_path: Path) -> None:
    plan = Plan(seconds=2, percent=50, first_s=1)

    rate, quarters = await soak(plan, tmp_path, print, as_shipped=False)

    assert [quarter.outcomes.wrong.total() for quarter in quarters] == [0, 0, 0, 0]
    asked = {kind for quarter in quarters for kind in quarter.outcomes.seconds}
    assert {"read", "change", "lookup"} <= asked <= {*ACTS}
    end = quarters[-1].looks[-1]
    assert end.tables["memberships"].rows > 0
    assert end.replica > 0
    assert min(end.memory.values()) > 1
    assert "0 minutes" in measured(rate, quarters, plan).figures
