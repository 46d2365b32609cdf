"""Whether the database answers: known without waiting for it, and not mistaken where it is merely busy."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from segmentd.storage.database import Database
from segmentd.storage.lookout import Lookout
from tests.support.relay import Relay, relay_to

PATIENCE_S = 60


@pytest.fixture
async def relay(database_url: str) -> AsyncIterator[Relay]:
    async with relay_to(database_url) as relay:
        yield relay


async def says(lookout: Lookout, *, away: bool) -> str | None:
    """Waits until it says so."""
    async with asyncio.timeout(PATIENCE_S):
        while ((reason := await lookout.reason()) is not None) != away:  # noqa: ASYNC110 - a look makes it true
            await asyncio.sleep(0.01)
    return reason


@pytest.mark.parametrize("silent", [False, True])
async def test_a_database_that_goes_is_missed_and_one_that_comes_back_is_seen(
    relay: Relay, *, silent: bool
) -> None:
    async with Database(relay.url) as database:
        lookout = Lookout(database)
        watching = asyncio.create_task(lookout.watch())
        assert await says(lookout, away=False) is None

        if silent:
            relay.hush()
        else:
            await relay.cut()

        assert "database" in (await says(lookout, away=True) or "")
        relay.mend()
        relay.flowing.set()
        await says(lookout, away=False)
        watching.cancel()
        await asyncio.wait([watching])


async def test_without_a_watcher_each_question_checks_the_database(relay: Relay) -> None:
    async with Database(relay.url) as database:
        lookout = Lookout(database)
        assert await lookout.reason() is None
        await relay.cut()
        assert await lookout.reason() is not None
        relay.mend()
        await says(lookout, away=False)


async def test_a_database_whose_connections_are_all_in_use_is_there(database_url: str) -> None:
    async with Database(database_url, pool_size=1) as database:
        busy = [asyncio.create_task(database.execute("SELECT pg_sleep(0.3)")) for _ in range(8)]

        assert await Lookout(database).reason() is None

        assert not busy[-1].done()
        for task in busy:
            task.cancel()
        await asyncio.wait(busy)


async def test_a_database_without_the_schema_is_none_that_can_be_used(empty_database_url: str) -> None:
    async with Database(empty_database_url) as database:
        reason = await Lookout(database).reason()

    assert reason == 'The database cannot be used: relation "catalog" does not exist'
