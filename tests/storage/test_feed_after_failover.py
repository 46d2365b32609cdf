"""A position goes on after a fail-over, unless the new primary lacks what the position has seen."""

import asyncio

import psycopg
import pytest

from segmentd.domain.errors import PositionExpired
from segmentd.storage.database import Database
from segmentd.storage.feed import present, read
from segmentd.storage.migrate import migrate
from segmentd.storage.positions import Position
from tests.support.pairs import pair


def create(url: str, slug: str) -> Position:
    """Makes a segment; the position after it."""

    async def look() -> Position:
        async with Database(url) as database:
            return await present(database)

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT create_segment(%s, '', NULL, 1)", [slug])
    return asyncio.run(look())


def follow(url: str, position: Position) -> list[str]:
    """The segments of the changes after it."""

    async def look() -> list[str]:
        async with Database(url) as database:
            return [change.segment for _, change in (await read(database, position, 10)).changes]

    return asyncio.run(look())


@pytest.mark.timeout(120)
def test_a_position_survives_a_fail_over_if_the_standby_had_all_that_it_saw() -> None:
    with pair(synchronous=False) as servers:
        asyncio.run(migrate(servers.primary.url))
        seen_by_both = create(servers.primary.url, "BOTH")
        servers.wait_for_standby()
        servers.primary.stop_sending()
        seen_by_one = create(servers.primary.url, "LOST")
        assert follow(servers.primary.url, seen_by_both) == ["LOST"]
        servers.primary.kill()
        servers.promote()
        on_the_new_one = create(servers.primary.url, "NEW")

        assert follow(servers.primary.url, seen_by_both) == ["NEW"]
        with pytest.raises(PositionExpired, match="After a fail-over"):
            follow(servers.primary.url, seen_by_one)

        # PostgreSQL forgets where a timeline began, and segmentd does not.
        servers.primary.kill()
        servers.primary.start()
        assert follow(servers.primary.url, seen_by_both) == ["NEW"]
        assert follow(servers.primary.url, on_the_new_one) == []


def test_positions_expire_where_the_new_primary_crashed_before_anybody_noted_its_timeline() -> None:
    with pair(synchronous=False) as servers:
        asyncio.run(migrate(servers.primary.url))
        servers.wait_for_standby()
        servers.primary.stop_sending()
        seen_by_one = create(servers.primary.url, "LOST")
        servers.primary.kill()
        servers.promote()
        create(servers.primary.url, "NEW")
        servers.primary.kill()
        servers.primary.start()

        with pytest.raises(PositionExpired, match="After a fail-over"):
            follow(servers.primary.url, seen_by_one)
