"""How a report is made: its cut-off, its size, and builds that get in each other's way."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Final, LiteralString
from uuid import UUID

import numpy as np
import psycopg
import pytest
from obstore.store import LocalStore, ObjectStore

from segmentd.domain.bucketing import buckets, threshold
from segmentd.domain.reports import ReportId
from segmentd.reports.build import build
from segmentd.reports.files import CHUNK_BYTES, ReportFiles
from segmentd.storage import reports
from segmentd.storage.database import Database
from segmentd.storage.report_rows import cut_off
from tests.support.changing import CHANGE
from tests.support.clock import Clock
from tests.support.office import Office, until

# A row of the COPY protocol is smaller than this.
LONGEST_ROW: Final = 200

WAITING_FOR_WRITERS: LiteralString = """
    SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND NOT granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class Watched(ReportFiles):
    """Files that note the sizes of what they are fed, and wait with the last byte until they may go on."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self.sizes: list[int] = []
        self.at_the_end = asyncio.Event()
        self.may_end = asyncio.Event()

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        await super().write(name, self._watched(chunks))

    async def _watched(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self.sizes.append(len(chunk))
            yield chunk
        self.at_the_end.set()
        await self.may_end.wait()


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """Where the service looks for its files."""
    return LocalStore(tmp_path / "reports", mkdir=True)


async def test_a_write_under_way_is_waited_for_and_is_in_the_report(
    office: Office, database_url: str
) -> None:
    await office.api.create("A")
    await office.api.add(1, "A")
    report = await office.order()
    async with await psycopg.AsyncConnection.connect(database_url) as writer:
        # It has read its time and waits for its commit.
        await writer.execute(CHANGE, [2, "A", True, None])
        building = asyncio.create_task(office.build(report))
        await until(lambda: answer_of(database_url, WAITING_FOR_WRITERS))
        late = asyncio.create_task(office.api.add(3, "A"))
        await writer.commit()
        await asyncio.gather(building, late)

    report = await office.see(report)
    rows = [row.split(";") for row in (await office.file(report)).text.splitlines()]
    assert [row[0] for row in rows] == ["1", "2"]
    assert rows[1][3] < report["as_of"] < (await office.api.history(3))[0]["at"]


async def answer_of(database_url: str, question: LiteralString) -> int:
    """The number that a query gives."""
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        row = await (await connection.execute(question)).fetchone()
        return int(row[0]) if row else 0


async def test_after_the_cut_off_no_change_has_an_earlier_time(office: Office, database: Database) -> None:
    await office.api.create("A", percent=10)
    for round_number in range(5):
        changes = [
            asyncio.create_task(office.api.add(user_id, "A"))
            for user_id in range(round_number * 20 + 1, round_number * 20 + 21)
        ]
        as_of = await cut_off(database)
        before = await rows_before(database, as_of)
        await asyncio.gather(*changes)
        assert await rows_before(database, as_of) == before


async def rows_before(database: Database, instant: object) -> object:
    async with database.transaction() as connection:
        cursor = await connection.execute(
            "SELECT user_id, at FROM effective_changes(%s) WHERE at < %s ORDER BY 1, 2", [instant, instant]
        )
        return await cursor.fetchall()


async def test_while_a_report_is_written_changes_and_reads_go_on(
    office: Office, database: Database, store: ObjectStore
) -> None:
    await office.api.create("A")
    await office.api.add(1, "A")
    watched = Watched(store)
    ordered = await office.order()
    building = asyncio.create_task(build(database, watched, await reports.get(database, id_of(ordered))))
    await watched.at_the_end.wait()

    await office.api.add(2, "A")
    await office.api.change_segment("A", percent=50)
    await office.api.delete("segments/A")
    watched.may_end.set()

    assert (await building).rows == 1


def id_of(report: dict[str, str]) -> ReportId:
    return ReportId(UUID(report["id"]))


async def test_a_build_that_was_thought_dead_does_not_touch_what_the_next_one_made(
    office: Office, database: Database, store: ObjectStore
) -> None:
    await office.api.create("A")
    await office.api.add(1, "A")
    ordered = await office.order()
    first, second = Watched(store), Watched(store)
    report = await reports.start(database, id_of(ordered))
    thought_dead = asyncio.create_task(build(database, first, report))
    await first.at_the_end.wait()
    await office.api.add(2, "A")
    second.may_end.set()
    await reports.finish(database, report.id, await build(database, second, report))

    first.may_end.set()
    await reports.finish(database, report.id, await thought_dead)
    await reports.fail(database, report.id, "too late")

    done = await office.see(ordered)
    assert (done["status"], done["reason"], done["rows"]) == ("done", None, 2)
    assert sha256((await office.file(done)).content).hexdigest() == done["sha256"]


EVENTS: LiteralString = """
    INSERT INTO membership_events (user_id, segment_id, at, operation, effective, cause, actor)
    SELECT 1 + number / 10, s.id, clock_instant() - number * interval '1 microsecond',
           (CASE WHEN number %% 2 = 0 THEN 'add' ELSE 'remove' END)::event_operation,
           true, 'request', 'anonymous'
    FROM segments s, generate_series(1, %(rows)s) AS number
"""


async def test_a_large_report_goes_into_its_file_in_small_pieces(
    office: Office, database: Database, store: ObjectStore, clock: Clock
) -> None:
    await office.api.create("AVITO_VOICE_MESSAGES")
    clock.advance(days=40)
    await database.execute("SELECT make_event_partitions(1)")
    await database.execute(EVENTS, {"rows": 200_000})
    ordered = await office.order()
    watched = Watched(store)
    watched.may_end.set()

    built = await build(database, watched, await reports.get(database, id_of(ordered)))

    assert built.rows == 200_000
    assert built.size == sum(watched.sizes) > 10 * CHUNK_BYTES
    assert max(watched.sizes) < CHUNK_BYTES + LONGEST_ROW
    await reports.finish(database, id_of(ordered), built)
    assert sha256((await office.file(await office.see(ordered))).content).hexdigest() == built.sha256


class FullDisk(ReportFiles):
    """A place with room for one piece."""

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        del name
        async for _ in chunks:
            raise OSError(28, "No space left on device")


async def test_a_place_that_is_full_ends_the_build_and_its_query_at_once(
    office: Office, database_url: str, store: ObjectStore, clock: Clock
) -> None:
    await office.api.create("A")
    clock.advance(days=40)
    async with Database(database_url, pool_size=1) as database:
        await database.execute("SELECT make_event_partitions(1)")
        await database.execute(EVENTS, {"rows": 40_000})
        report = await reports.get(database, id_of(await office.order()))

        with pytest.raises(OSError, match="No space"):
            await build(database, FullDisk(store), report)

        # The only connection is free again.
        assert (await build(database, ReportFiles(store), report)).rows == 40_000
    await until(lambda: is_quiet(database_url))


async def test_a_build_that_is_stopped_ends_its_query_at_once(office: Office, database_url: str) -> None:
    report = await office.order()
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("LOCK TABLE memberships")
        building = asyncio.create_task(office.build(report))
        await until(lambda: answer_of(database_url, COPYING))
        building.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait([building])
        await until(lambda: is_quiet(database_url))
    assert building.cancelled()
    assert (await office.see(report))["status"] == "running"


COPYING: LiteralString = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE 'COPY%' AND state = 'active' AND wait_event = 'relation'
"""
BUSY: LiteralString = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'segmentd' AND state <> 'idle'
"""


async def is_quiet(database_url: str) -> bool:
    """Whether the service has nothing under way in its database."""
    return await answer_of(database_url, BUSY) == 0


REGISTRATIONS: LiteralString = """
    INSERT INTO users (id, registered_at, last_at)
    SELECT id, at, at FROM generate_series(1, %(users)s) AS id,
    LATERAL (SELECT %(begin)s::timestamptz + (id - %(users)s / 2) * interval '1 microsecond' AS at) t;
"""


@pytest.mark.parametrize("users", [50_000, pytest.param(300_000, marks=pytest.mark.proof)])
async def test_a_tenth_of_all_users_by_percentage_is_in_the_report_at_the_right_times(
    office: Office, database: Database, clock: Clock, users: int
) -> None:
    segment = await office.api.create("TENTH", percent=10)
    # Half of them came before the percentage, half after it.
    async with database.transaction() as connection:
        await connection.execute(REGISTRATIONS, {"users": users, "begin": segment["created_at"]})
        await connection.execute(
            "INSERT INTO registrations (user_id, registered_at) SELECT id, registered_at FROM users"
        )
    clock.advance(days=1)

    rows = await office.rows()

    bucket = buckets(np.arange(1, users + 1), np.full(users, int(segment["salt"])))
    inside = (np.flatnonzero(bucket < threshold(Decimal(10))) + 1).tolist()
    started = np.datetime64(segment["created_at"].removesuffix("Z"), "us")
    expected = [
        f"{user_id};TENTH;add;{started + np.timedelta64(max(user_id - users // 2, 0), 'us')}Z"
        for user_id in inside
    ]
    assert rows == expected
    assert abs(len(rows) - users / 10) < users / 100
