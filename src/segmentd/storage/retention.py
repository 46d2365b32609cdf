"""Removes what is older than the history has to be (functions/16_retention.sql)."""

import asyncio
import time
from datetime import datetime, timedelta
from typing import Final, Literal, LiteralString

import msgspec
import psycopg
import structlog
from psycopg import sql

from segmentd.storage.database import Database

# What was removed may be read for so long after the beginning moved: by requests that began before.
PATIENCE: Final = timedelta(hours=1)
# A batch of so many events holds its locks for some tens of milliseconds.
BATCH_EVENTS: Final = 1000
BATCH_LIVES: Final = 1000
# Less than the time from one run to the next.
LONGEST_S: Final = 1800.0

SUM_UP: Final[LiteralString] = "SELECT sum_up_earlier(%s) AS done"
REMOVE_LIVES: Final[LiteralString] = "SELECT remove_earlier_lives(%s) AS done"

_log = structlog.get_logger(__name__)


async def shorten(database: Database, months: int) -> datetime | None:
    """Moves the beginning of the history to so many months ago; returns it if it moved. Raises Unavailable.

    From then on what was before is refused; `remove` removes it later.
    """
    [moved] = await database.all(_Moved, "SELECT shorten_history(%s) AS begins_at", [months])
    if moved.begins_at is not None:
        _log.info("the history is shorter", begins_at=moved.begins_at.isoformat())
    return moved.begins_at


async def remove(database: Database, patience: timedelta = PATIENCE, seconds: float = LONGEST_S) -> int:
    """Removes what was before the beginning of the history, if nobody reads it any more; how many months.

    It ends after about so many seconds, can be interrupted at any place, and goes on there the next time.
    Raises Unavailable.
    """
    [readers] = await database.all(_Readers, "SELECT nobody_reads_earlier(%s) AS are_gone", [patience])
    months, give_up = 0, time.monotonic() + seconds
    if not readers.are_gone or not await _summed_up(database, give_up):
        return months
    while partition := await database.one(Partition, "SELECT name, state FROM partition_to_drop()"):
        if not await drop(database, partition):
            break
        months += 1
    return months


class Partition(msgspec.Struct, frozen=True):
    """A month that is being removed, and how far that is."""

    name: str
    state: Literal["attached", "pending", "detached"]


async def drop(database: Database, partition: Partition) -> bool:
    """Removes a month; False if somebody uses the history for too long. Raises Unavailable.

    Neither step blocks those who read or write other months. If detaching is cut off, it is finished later.
    """
    name = sql.Identifier(partition.name)
    how = sql.SQL("FINALIZE" if partition.state == "pending" else "CONCURRENTLY")
    try:
        if partition.state != "detached":
            await database.run_once(
                sql.SQL("ALTER TABLE membership_events DETACH PARTITION {} {}").format(name, how)
            )
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as error:
        _log.info(
            "a month is still in use, and removed later", month=partition.name, error=type(error).__name__
        )
        return False
    await database.execute("SELECT drop_detached_partition(%s)", [partition.name])
    _log.info("a month of the history was removed", month=partition.name)
    return True


async def _summed_up(database: Database, give_up: float) -> bool:
    """Sums up what has to stay, in batches; False if there was not enough time.

    After each batch it rests for as long as that took, so that it uses half a core at most.
    """
    for query, limit in ((SUM_UP, BATCH_EVENTS), (REMOVE_LIVES, BATCH_LIVES)):
        done: int | None = 1
        while done:
            begun = time.monotonic()
            if begun > give_up:
                return False
            [batch] = await database.all(_Batch, query, [limit])
            done = batch.done
            await asyncio.sleep(time.monotonic() - begun)
    return True


class _Moved(msgspec.Struct, frozen=True):
    begins_at: datetime | None


class _Readers(msgspec.Struct, frozen=True):
    are_gone: bool


class _Batch(msgspec.Struct, frozen=True):
    done: int | None
