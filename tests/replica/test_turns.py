"""Who waits for whom where hot reads have few cores."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing, nullcontext
from pathlib import Path

import pytest

from segmentd.replica import turns
from segmentd.replica.follower import Follower
from segmentd.replica.status import ReplicaStatus, boot_time, status_path
from segmentd.replica.turns import ENOUGH_CORES, FEW_READS, Turns
from segmentd.storage.database import Database

Taken = Callable[[], AbstractAsyncContextManager[None]]


class Reads:
    """Hot calls so far; more come between two looks at them."""

    def __init__(self, between_two_looks: int) -> None:
        self.between_two_looks = between_two_looks
        self._count = 0

    def __call__(self) -> int:
        self._count += self.between_two_looks
        return self._count


async def waits(first: Taken, second: Taken) -> bool:
    """Whether the second one does not get its turn before the first one has ended its own."""

    async def take() -> None:
        async with second():
            pass

    async with first():
        taking = asyncio.create_task(take())
        for _ in range(10):  # as often as it may need
            await asyncio.sleep(0)
        had_to_wait = not taking.done()
    await taking
    return had_to_wait


@pytest.mark.parametrize(
    ("reads", "cores", "order"),
    [
        (Reads(FEW_READS + 1), ENOUGH_CORES - 1, "in turn"),
        (None, ENOUGH_CORES - 1, "in turn"),  # nobody counts them
        (Reads(FEW_READS), ENOUGH_CORES - 1, "at once"),
        (Reads(FEW_READS + 1), ENOUGH_CORES, "at once"),
    ],
)
async def test_batches_and_rounds_take_turns_while_many_reads_are_answered_by_few_cores(
    reads: Reads | None, cores: int, order: str
) -> None:
    both = Turns(reads, cores)
    for first, second in ((both.batch, both.round), (both.round, both.batch), (both.batch, both.batch)):
        assert await waits(first, second) is (order == "in turn")


async def test_nobody_waits_longer_than_their_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "ROUND_PATIENCE_S", 0.0)
    both = Turns(None, 1)
    async with both.batch():  # it waits for a user whom another transaction holds
        async with both.round():
            pass
        monkeypatch.setattr(turns, "BATCH_PATIENCE_S", 0.05)
        # The round gave back no turn that it did not have.
        assert await waits(nullcontext, both.batch)


async def test_reads_count_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LOOK_EVERY_S", 0.0)
    reads = Reads(FEW_READS + 1)
    both = Turns(reads, 1)
    assert await waits(both.batch, both.round)
    reads.between_two_looks = 0
    assert await waits(both.batch, both.round)
    monkeypatch.setattr(turns, "REMEMBERED_S", 0.0)
    assert not await waits(both.batch, both.round)
    reads.between_two_looks = FEW_READS + 1
    monkeypatch.setattr(turns, "REMEMBERED_S", 30.0)
    assert await waits(both.batch, both.round)


async def test_a_round_waits_for_its_turn(database: Database, tmp_path: Path) -> None:
    turn = asyncio.Lock()
    with (
        closing(Follower(database, tmp_path, turn=lambda: turn)) as follower,
        closing(ReplicaStatus.open(status_path(tmp_path))) as status,
    ):
        await follower.round()
        built_at = status.fresh_at
        async with turn:
            round_of_changes = asyncio.create_task(follower.round())
            await asyncio.sleep(0)
            begun = boot_time()
        await round_of_changes
        # The time for which it waited is not in the age of the replica.
        assert built_at < begun <= status.fresh_at
