"""What background jobs do with the rows of imports (functions/13_imports.sql)."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import msgspec
import psycopg

from segmentd.domain.errors import ImportNotFound
from segmentd.domain.imports import ImportNumber, Status
from segmentd.domain.memberships import MOST_SLUGS
from segmentd.storage.database import Database, one_row
from segmentd.storage.imports import IMPORT_KEPT, KEY_KEPT

# An import whose receiving process has been silent for so long has failed.
SILENT: Final = timedelta(seconds=60)

# An import is applied over so many connections at once, each with users of its own.
RANGES: Final = 2

TERM_OUT_OF_RANGE: Final = "SG422"

# A check takes as long as it takes: a minute for ten million rows.
_SESSION: Final = "SET LOCAL statement_timeout = 0"


class Batch(msgspec.Struct, frozen=True):
    """What a batch did: the import's status after it, the users in it, and its outcomes.

    `is_over`: no batch of this range comes after it.
    """

    status: Status
    is_over: bool = False
    refusal: str | None = None
    users: int = 0
    added: int = 0
    removed: int = 0
    updated: int = 0
    unchanged: int = 0


async def status(database: Database, number: ImportNumber) -> Status:
    """How far an import is. Raises ImportNotFound, Unavailable."""
    found = await database.one(_Status, "SELECT status FROM imports WHERE number = %s", [number])
    if found is None:
        raise ImportNotFound
    return found.status


async def check(
    database: Database, number: ImportNumber, most_bad_rows: int, most_ranges: int = RANGES
) -> None:
    """Checks all rows and stores what they mean; after that the import is applying, or final.

    Does nothing to an import that was canceled meanwhile. Raises Unavailable.
    """
    async with database.transaction() as connection:
        await connection.execute(_SESSION)
        done = await one_row(
            connection,
            _Done,
            "SELECT check_import(%s, %s, %s, %s) AS done",
            [number, most_bad_rows, MOST_SLUGS, most_ranges],
        )
        if not done.done:
            raise psycopg.Rollback


async def unfinished_ranges(database: Database, number: ImportNumber) -> Sequence[int]:
    """The places of the ranges of users that are not applied to their ends. Raises Unavailable."""
    found = await database.all(
        _Place,
        "SELECT place FROM import_ranges WHERE import_number = %s AND NOT is_over ORDER BY place",
        [number],
    )
    return [each.place for each in found]


async def apply_batch(database: Database, number: ImportNumber, place: int, rows: int) -> Batch:
    """Applies about so many rows of a range in one transaction, with its progress.

    After the last batch of the last range, the import is final. Raises Unavailable.
    """
    try:
        batch = await database.one(
            Batch, "SELECT * FROM apply_import_batch(%s, %s, %s)", [number, place, rows]
        )
    except psycopg.DatabaseError as error:
        if error.sqlstate != TERM_OUT_OF_RANGE:
            raise
        # A term ended while the batch waited for its users. The next look at the clock leaves that row out.
        return Batch(Status.APPLYING)
    if batch is None:
        raise ImportNotFound
    if batch.is_over and not batch.status.final:
        return msgspec.structs.replace(batch, status=await end_if_over(database, number, batch.refusal))
    return batch


async def end_if_over(database: Database, number: ImportNumber, refusal: str | None = None) -> Status:
    """Ends an import that cannot go on, or whose ranges are all over; its status. Raises Unavailable."""
    found = await database.one(_Status, "SELECT end_import_if_over(%s, %s) AS status", [number, refusal])
    if found is None:
        raise ImportNotFound
    return found.status


async def drop_tables(database: Database, number: ImportNumber) -> None:
    """Drops the rows of an import that is final. Raises Unavailable."""
    await database.execute(
        "SELECT drop_import_tables(%s) FROM imports WHERE number = %s AND staged", [number] * 2
    )


async def fail_silent(database: Database) -> int:
    """Ends the imports whose receiving processes are gone; returns how many. Raises Unavailable."""
    found = await database.one(_Count, "SELECT fail_silent_imports(%s) AS count", [SILENT])
    return 0 if found is None else found.count


async def purge(database: Database) -> None:
    """Drops what final imports left, frees old keys, and removes old imports. Raises Unavailable."""
    for left in await database.all(
        _Number, "SELECT number FROM imports WHERE staged AND finished_at < clock_instant() - %s", [SILENT]
    ):
        await drop_tables(database, left.number)
    await database.execute(
        "UPDATE imports SET idempotency_key = NULL"
        " WHERE idempotency_key IS NOT NULL AND created_at < clock_instant() - %s",
        [KEY_KEPT],
    )
    await database.execute("DELETE FROM imports WHERE finished_at < clock_instant() - %s", [IMPORT_KEPT])


class _Status(msgspec.Struct, frozen=True):
    status: Status


class _Done(msgspec.Struct, frozen=True):
    done: bool


class _Place(msgspec.Struct, frozen=True):
    place: int


class _Count(msgspec.Struct, frozen=True):
    count: int


class _Number(msgspec.Struct, frozen=True):
    number: ImportNumber
