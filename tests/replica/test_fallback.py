"""Reads that the replica cannot answer ask the database a few at a time; they are refused, not piled up."""

import asyncio
from functools import partial

import pytest

from segmentd.domain.errors import Overloaded
from segmentd.replica.fallback import MOST_AT_ONCE, MOST_WAITING, Fallback


class Asked:
    """A database that answers when the test says so."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.running = 0
        self.most = 0

    async def read(self, number: int) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        await self.answers.wait()
        self.running -= 1
        return number


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("pool_size", "at_once"), [(1, 1), (2, 1), (6, 3), (100, MOST_AT_ONCE)])
async def test_so_many_ask_at_once_that_half_of_the_connections_stay_free(
    pool_size: int, at_once: int
) -> None:
    asked, fallback = Asked(), Fallback(pool_size)
    reads = [asyncio.create_task(fallback.ask(partial(asked.read, number))) for number in range(20)]
    await settled()

    assert asked.running == at_once
    asked.answers.set()
    assert await asyncio.gather(*reads) == [*range(20)]
    assert asked.most == at_once


async def test_a_read_that_would_make_a_pile_is_refused_at_once_and_the_others_are_answered() -> None:
    asked, fallback = Asked(), Fallback(2)
    reads = [
        asyncio.create_task(fallback.ask(partial(asked.read, number))) for number in range(1 + MOST_WAITING)
    ]
    await settled()

    with pytest.raises(Overloaded):
        await fallback.ask(partial(asked.read, 0))

    asked.answers.set()
    assert await asyncio.gather(*reads) == [*range(1 + MOST_WAITING)]
    assert await fallback.ask(partial(asked.read, 7)) == 7


async def test_a_read_whose_turn_does_not_come_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segmentd.replica.fallback.LONGEST_WAIT_SECONDS", 0.01)
    asked, fallback = Asked(), Fallback(2)
    first = asyncio.create_task(fallback.ask(partial(asked.read, 1)))
    await settled()

    with pytest.raises(Overloaded):
        await fallback.ask(partial(asked.read, 2))

    asked.answers.set()
    assert await first == 1
    assert await fallback.ask(partial(asked.read, 3)) == 3


async def test_a_cancelled_read_gives_its_place_back() -> None:
    asked, fallback = Asked(), Fallback(2)
    reads = [asyncio.create_task(fallback.ask(partial(asked.read, number))) for number in range(3)]
    await settled()

    for read in reads:
        read.cancel()
    await asyncio.wait(reads)

    asked.answers.set()
    assert await fallback.ask(partial(asked.read, 7)) == 7
