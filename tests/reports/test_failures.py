"""Builds that fail, and the purge of what has had its time."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from obstore.store import MemoryStore

from segmentd.domain.reports import ReportId
from segmentd.jobs import Tasks
from segmentd.reports.files import ReportFiles
from segmentd.storage.database import Database
from tests.support.client import Json
from tests.support.clock import Clock
from tests.support.office import Office, until, waits_for_a_table
from tests.support.rows import Rows, rows_of


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    with rows_of(database_url) as rows:
        yield rows


class FullDisk(ReportFiles):
    """A place with no room."""

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        del name, chunks
        raise OSError(28, "No space left on device", "/var/lib/segmentd/reports")


async def test_a_report_fails_with_the_last_attempt_and_is_under_way_until_then(
    office: Office, database: Database
) -> None:
    tasks = Tasks(database, FullDisk(MemoryStore()))
    report = await office.order()
    with pytest.raises(OSError, match="No space"):
        await tasks.build_report(id_of(report), last_attempt=False)
    seen = await office.see(report)
    assert (seen["status"], seen["reason"]) == ("running", None)
    assert (await office.file(report)).status_code == 409

    with pytest.raises(OSError, match="No space"):
        await tasks.build_report(id_of(report), last_attempt=True)
    seen = await office.see(report)
    assert seen["status"] == "failed"
    assert seen["reason"] == "The file could not be written: No space left on device."
    answer = await office.file(report)
    assert (answer.status_code, answer.json()["detail"]) == (409, seen["reason"])


def id_of(report: Json) -> ReportId:
    return ReportId(UUID(report["id"]))


async def test_the_reason_of_a_failure_shows_no_sql(office: Office, rows: Rows, tmp_path: Path) -> None:
    report = await office.order()
    rows.run("ALTER TABLE registrations RENAME COLUMN ended_at TO gone")
    with pytest.raises(psycopg.Error):
        await office.build(report, last_attempt=True)

    seen = await office.see(report)
    assert seen["status"] == "failed"
    assert seen["reason"] == "The report could not be made (UndefinedColumn); the log has the details."
    assert [path for path in (tmp_path / "reports").rglob("*") if path.is_file()] == []


async def test_a_report_that_failed_can_still_be_made(office: Office, database: Database) -> None:
    report = await office.order()
    with pytest.raises(OSError, match="No space"):
        await Tasks(database, FullDisk(MemoryStore())).build_report(id_of(report), last_attempt=True)
    await office.build(report)
    seen = await office.see(report)
    assert (seen["status"], seen["reason"]) == ("done", None)


async def test_a_report_whose_last_attempt_is_stopped_does_not_stay_under_way(
    office: Office, rows: Rows, database_url: str
) -> None:
    report = await office.order()
    with psycopg.connect(database_url) as other:
        other.execute("LOCK TABLE registrations")
        building = asyncio.create_task(office.build(report, last_attempt=True))
        await until(lambda: waits_for_a_table(rows))
        building.cancel()
        with suppress(asyncio.CancelledError):
            await building
    assert (await office.see(report))["status"] == "failed"


async def test_a_report_that_is_done_is_not_made_again(office: Office) -> None:
    report = await office.make()
    await office.build(report)
    assert await office.see(report) == report


async def test_a_report_that_waits_for_writers_too_long_is_tried_again(
    office: Office, database_url: str
) -> None:
    report = await office.order()
    with psycopg.connect(database_url) as other:
        other.execute("SELECT pg_advisory_xact_lock_shared(catalog_lock())")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await office.build(report)
        assert (await office.see(report))["status"] == "running"
    await office.build(report)
    assert (await office.see(report))["status"] == "done"


async def test_files_go_with_the_time_of_their_reports_and_others_stay(
    office: Office, clock: Clock, tmp_path: Path
) -> None:
    await office.api.create("A")
    await office.api.add(1, "A")
    old, failed, pending = await office.make(), await office.order(), await office.order()
    with pytest.raises(OSError, match="No space"):
        await Tasks(office.database, FullDisk(MemoryStore())).build_report(id_of(failed), last_attempt=True)
    leave_unfinished(tmp_path / "reports" / failed["id"])
    clock.advance(days=6)
    young = await office.make()
    clock.advance(days=2)

    await office.tasks.purge_reports()
    await office.tasks.purge_reports()

    assert [path.parent.name for path in (tmp_path / "reports").rglob("*.csv*")] == [young["id"]]
    assert (await office.file(young)).status_code == 200
    assert (await office.file(old)).status_code == 410

    # What is made after its time is no exception.
    await office.build(pending)
    await office.tasks.purge_reports()
    assert [path.parent.name for path in (tmp_path / "reports").rglob("*.csv*")] == [young["id"]]


def leave_unfinished(folder: Path) -> None:
    """Leaves behind what a killed build leaves."""
    folder.mkdir(exist_ok=True)
    Path(folder, "1.csv#1").write_bytes(b"half")
