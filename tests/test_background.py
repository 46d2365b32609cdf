"""Background tasks end with the context that owns them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from segmentd.background import background, end


@contextmanager
def ending(ended: list[str]) -> Iterator[None]:
    try:
        yield
    finally:
        ended.append("task")


async def run_on(ended: list[str]) -> None:
    with ending(ended):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # it takes its time to end


async def test_after_the_context_the_task_has_ended() -> None:
    ended: list[str] = []
    async with background(run_on(ended), "run on"):
        await asyncio.sleep(0)
        assert ended == []
    assert ended == ["task"]


async def fail(ended: list[str]) -> None:
    async with background(run_on(ended), "run on"):
        await asyncio.sleep(0)
        raise LookupError


async def test_it_has_ended_also_where_the_context_fails() -> None:
    ended: list[str] = []
    with pytest.raises(LookupError):
        await fail(ended)
    assert ended == ["task"]


async def test_there_may_be_nothing_to_end() -> None:
    await end()
