"""PostgreSQL fails over under nodes that run: nothing that was answered is lost, nothing comes of itself."""

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import pytest
from grpc import StatusCode

from proof.agreement import CONTRADICTIONS
from segmentd.domain.errors import Unavailable
from segmentd.storage.database import Database
from tests.support.calling import Callers, Ids, Node, node_of, running
from tests.support.networks import can_be_made
from tests.support.pairs import Pair, pair
from tests.support.patroni import Cluster, cluster, program_of_patroni
from tests.support.processes import eventually

ROUNDS_BY_PATRONI = 20
CLOCKS_APART_S = 0.5


def answered(callers: list[Callers]) -> int:
    return sum(len(each.answered) for each in callers)


def failed_over(servers: Pair, how: str, callers: list[Callers]) -> float:
    """How many seconds nobody could write."""
    gone = time.monotonic()
    match how:
        case "kill":
            servers.primary.kill()
        case "stop":
            servers.primary.stop()
        case "freeze":
            servers.primary.freeze()
        case "cut":  # those who are cut off hear of nothing, and nobody hears of them
            assert servers.primary.machine is not None
            servers.primary.machine.cut_off()
        case "loss":
            servers.primary.stop_sending()
            before = answered(callers)
            eventually(lambda: answered(callers) > before + 20)
            servers.primary.kill()
    servers.promote()
    if how in {"freeze", "cut"}:
        servers.standby.kill()  # as an operator makes sure that there is no second primary
    return back(callers, gone)


def contradictions(servers: Pair) -> dict[str, object]:
    """What the tables of the primary say against themselves."""
    found = {sentence: servers.primary.execute(query)[0][0] for sentence, query in CONTRADICTIONS.items()}
    return {sentence: count for sentence, count in found.items() if count}


def back(callers: list[Callers], gone: float) -> float:
    """Waits until everybody can write again; how many seconds after `gone` that was."""
    waited = time.monotonic()
    eventually(lambda: min(each.latest for each in callers) > waited)
    return max(each.latest for each in callers) - gone


async def refused(url: str) -> str | None:
    """Why a database cannot be used."""
    async with Database(url) as database:
        with pytest.raises(Unavailable):
            await database.execute("SELECT")
        return database.last_failure


def test_a_fail_over_under_load_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    with pair() as servers, node_of(servers.url, tmp_path / "node") as node:
        assert asyncio.run(refused(servers.standby.url)) == "the server is a standby, which takes no writes"
        callers = Callers(node, first=2, step=1)
        before = node.position()
        with running(*callers.work):
            eventually(lambda: len(callers.answered) > 50)
            failed_over(servers, "kill", [callers])
            callers.end()

        members = node.members()
        assert callers.answered <= members <= callers.asked | {1}
        assert all(batch <= members or not batch & members for batch in callers.batches)
        assert {*callers.statuses} <= {200, 503}
        assert {*callers.reads} == {200}
        eventually(lambda: node.replicated(members) == members)
        added = [change["user_id"] for change in node.changes(before)]
        assert sorted(added) == sorted(members - {1}), "each once"
        assert node.metric("segmentd_replica_rebuilds_total") == 1


class Figures(NamedTuple):
    """Of one fail-over."""

    away_s: float
    answered: int
    lost: int
    expired: int


def one_round(nodes: list[Node], first: int, fail_over: Callable[[list[Callers]], float]) -> Figures:
    """A fail-over under load; afterwards PostgreSQL, replicas, feed and reports have the same members."""
    callers = [Callers(node, first + number, len(nodes)) for number, node in enumerate(nodes)]
    with running(*(work for each in callers for work in each.work)):
        eventually(lambda: min(len(each.answered) for each in callers) > 50)
        away_s = fail_over(callers)
        for each in callers:
            each.end()
    eventually(nodes[0].imports_are_over)
    members = nodes[0].members()
    asked: Ids = set()
    for each in callers:
        assert {*each.statuses} <= {200, 202, 503}, each.statuses
        assert {*each.codes} <= {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED}, each.codes
        assert {*each.reads} == {200}, each.reads
        assert min(each.ages) >= 0
        assert all(batch <= members or not batch & members for batch in each.batches)
        asked |= each.asked
    eventually(lambda: all(node.replicated(asked) == asked & members for node in nodes))
    assert {change.get("user_id", 0) for change in nodes[-1].changes("begin")} == members | {0}
    assert nodes[0].reported() == members
    lost = sum(len(each.answered - members) for each in callers)
    return Figures(away_s, answered(callers), lost, sum(each.expired for each in callers))


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("ways", "synchronous", "rounds"),
    [(("kill", "stop", "freeze", "cut"), True, 8), (("loss", "kill", "stop"), False, 6)],
)
def test_fail_overs_lose_nothing_that_the_standby_had_and_all_views_are_alike(
    tmp_path: Path, ways: tuple[str, ...], rounds: int, *, synchronous: bool
) -> None:
    """By turns the clock of the new primary is half a second behind that of the old one, and before it.

    A server that is cut off has a network of its own. Where none can be made it is frozen instead.
    """
    has_machines = can_be_made()
    if not has_machines:
        ways = tuple(how for how in ways if how != "cut")
    servers_of = partial(pair, on_machines=has_machines, ahead_s=(0.0, -CLOCKS_APART_S))
    with ExitStack() as stack:
        servers = stack.enter_context(servers_of(synchronous=synchronous))
        nodes = [
            # What is lost may be the end of a job, which then waits for another start of its worker.
            stack.enter_context(node_of(servers.url, tmp_path / str(number), has_grpc=synchronous))
            for number in range(2)
        ]
        servers.set_clocks()
        figures: list[Figures] = []
        for number, how in enumerate(islice(cycle(ways), rounds)):
            figures.append(one_round(nodes, 2 + number * 10**6, partial(failed_over, servers, how)))
            sys.stdout.write(f"{how}: {figures[-1]}\n")
            assert contradictions(servers) == {}
            servers.renew(synchronous=synchronous)
        if synchronous:
            assert sum(each.lost for each in figures) == 0
        assert max(each.away_s for each in figures) < 10
        assert [node.metric("segmentd_replica_rebuilds_total") for node in nodes] == [1, 1]


def failed_over_by_patroni(servers: Cluster, how: str, callers: list[Callers]) -> float:
    """How many seconds nobody could write; afterwards all members are there again."""
    gone, leader = time.monotonic(), servers.leader()
    match how:
        case "postgres":
            servers.kill_postgres()
        case "machine":
            servers.kill_machine()
        case "switch":
            servers.switch_over()
    eventually(lambda: servers.leader() != leader)
    away_s = back(callers, gone)
    if how == "machine":
        servers.start(leader)
    servers.wait_for_standby()
    return away_s


@pytest.mark.proof
@pytest.mark.skipif(program_of_patroni() is None, reason="there is no patroni: pip install patroni[raft]")
def test_twenty_fail_overs_by_patroni_lose_nothing(tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = stack.enter_context(cluster(program_of_patroni() or ""))
        nodes = [stack.enter_context(node_of(servers.url, tmp_path / str(number))) for number in range(2)]
        figures: list[Figures] = []
        for number, how in enumerate(islice(cycle(("postgres", "switch", "machine")), ROUNDS_BY_PATRONI)):
            fail_over = partial(failed_over_by_patroni, servers, how)
            figures.append(one_round(nodes, 2 + number * 10**6, fail_over))
            sys.stdout.write(f"{how}: {figures[-1]}\n")
        assert sum(each.lost for each in figures) == 0
        assert max(each.away_s for each in figures) < 40, "Patroni waits 20 s for a machine that is gone"
        assert [node.metric("segmentd_replica_rebuilds_total") for node in nodes] == [1, 1]
