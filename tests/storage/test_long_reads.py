"""Reads of whole segments are few at once, each of one moment, and end in time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from segmentd.domain.errors import Overloaded
from segmentd.observability.metrics import Metrics
from segmentd.storage import long_reads
from segmentd.storage.database import Database
from segmentd.storage.long_reads import AT_ONCE, SESSION, LongReads, Moment
from tests.support.rows import Rows
from tests.support.scraping import Scrape


class Number(msgspec.Struct):
    number: int


async def registered(source: Moment | Database) -> int:
    [row] = await source.all(Number, "SELECT count(*) AS number FROM registrations")
    return row.number


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def reads(database: Database, metrics: Metrics) -> LongReads:
    return LongReads(database, metrics)


def scraped(metrics: Metrics) -> tuple[float, float]:
    """Long reads under way, and those that were refused."""
    page = Scrape(metrics.page([], "").content.decode())
    return page("segmentd_long_reads"), page("segmentd_http_refused_total", reason="long-read")


@asynccontextmanager
async def held(reads: LongReads, how_many: int) -> AsyncIterator[asyncio.Event]:
    """So many reads under way, until the event is set or the context ends."""
    under_way, leave = asyncio.Semaphore(0), asyncio.Event()

    async def hold() -> None:
        async with reads.moment():
            under_way.release()
            await leave.wait()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(how_many):
            tasks.create_task(hold())
        for _ in range(how_many):
            await under_way.acquire()
        yield leave
        leave.set()


async def test_beyond_a_few_at_once_a_read_waits_for_a_while_and_is_refused(
    reads: LongReads, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_reads, "LONGEST_WAIT_S", 0.05)
    async with held(reads, AT_ONCE):
        with pytest.raises(Overloaded):
            async with reads.moment():
                pass
        assert scraped(metrics) == (AT_ONCE, 1)
    async with reads.moment() as moment:
        assert await registered(moment) == 0
    assert scraped(metrics) == (0, 1)


async def test_a_read_that_waits_has_the_next_place_and_few_may_wait(
    reads: LongReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_reads, "LONGEST_WAIT_S", 60)
    monkeypatch.setattr(long_reads, "MOST_WAITING", 1)

    async def read() -> int:
        async with reads.moment() as moment:
            return await registered(moment)

    async with held(reads, AT_ONCE) as leave:
        waiting = asyncio.create_task(read())
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await read()
        assert not waiting.done()
        leave.set()
        assert await waiting == 0


@pytest.mark.parametrize(("pool_size", "at_once"), [(10, AT_ONCE), (2, 1)])
async def test_a_connection_remains_for_other_requests(
    database_url: str, pool_size: int, at_once: int
) -> None:
    async with Database(database_url, pool_size=pool_size) as database:
        reads = LongReads(database, Metrics())
        async with held(reads, at_once):
            assert await registered(database) == 0


async def test_all_statements_of_a_read_see_one_moment(
    reads: LongReads, database: Database, rows: Rows
) -> None:
    async with reads.moment() as moment:
        assert await registered(moment) == 0
        rows("SELECT register_user(1, NULL)")
        assert await registered(moment) == 0
        assert await registered(database) == 1


async def test_a_read_that_takes_too_long_is_stopped_and_gives_its_place_and_connection_back(
    database_url: str, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_reads, "SESSION", SESSION.replace("60s", "50ms"))
    async with Database(database_url, pool_size=1) as database:
        with pytest.raises(Overloaded, match="60 s"):
            async with LongReads(database, metrics).moment() as moment:
                await moment.all(Number, "SELECT 1 AS number FROM pg_sleep(60)")
        assert scraped(metrics) == (0, 1)
        # The bound held for that read alone.
        [usual] = await database.all(Number, "SELECT 1 AS number FROM pg_sleep(0.1)")
        assert usual.number == 1
