"""A position goes on after a fail-over, unless the new primary lacks what the position has seen."""

import asyncio
import shutil
from pathlib import Path

import psycopg
import pytest

from segmentd.domain.errors import PositionExpired
from segmentd.storage import embedded
from segmentd.storage.database import Database
from segmentd.storage.feed import present, read
from segmentd.storage.migrate import migrate
from segmentd.storage.positions import Position


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
def test_a_position_survives_a_fail_over_if_the_standby_had_all_that_it_saw(used_dir: Path) -> None:
    primary = embedded.start(used_dir)
    try:
        asyncio.run(migrate(primary.url))
        seen_by_both = create(primary.url, "BOTH")
    finally:
        primary.stop()
    standby_dir = Path(shutil.copytree(used_dir, used_dir.with_name("standby")))
    primary = embedded.start(used_dir)
    try:
        seen_by_one = create(primary.url, "LOST")
        assert follow(primary.url, seen_by_both) == ["LOST"]
    finally:
        primary.stop()

    (standby_dir / "postgres" / "standby.signal").touch()
    standby = embedded.start(standby_dir)
    try:
        with psycopg.connect(standby.url, autocommit=True) as connection:
            assert connection.execute("SELECT pg_is_in_recovery(), pg_promote()").fetchone() == (True, True)
        on_the_new_one = create(standby.url, "NEW")

        assert follow(standby.url, seen_by_both) == ["NEW"]
        with pytest.raises(PositionExpired, match="After a fail-over"):
            follow(standby.url, seen_by_one)
    finally:
        standby.stop()

    # PostgreSQL forgets where a timeline began, and segmentd does not.
    restarted = embedded.start(standby_dir)
    try:
        assert follow(restarted.url, seen_by_both) == ["NEW"]
        assert follow(restarted.url, on_the_new_one) == []
    finally:
        restarted.stop()
