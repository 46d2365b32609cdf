"""Imports as callers see them: how they begin and end, and what is known (functions/13_imports.sql)."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Final, LiteralString, NamedTuple
from uuid import uuid4

import msgspec
import psycopg

from segmentd.domain.access import Actor
from segmentd.domain.errors import (
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    ImportFinished,
    ImportNotFound,
    SegmentHasPercentage,
    SegmentNotFound,
    Unavailable,
)
from segmentd.domain.imports import (
    BadRow,
    IdempotencyKey,
    Import,
    ImportId,
    ImportLimits,
    ImportLoad,
    ImportNumber,
    ImportOperation,
    ImportOrder,
)
from segmentd.storage import history
from segmentd.storage.database import Database, Succeeded, one_row, struct_row
from segmentd.storage.import_rows import note_bad_rows

# For how long a key names its import, and an import can be asked for after its end.
KEY_KEPT: Final = timedelta(days=7)
IMPORT_KEPT: Final = timedelta(days=30)

# Of the bad rows in one page of imports; beyond, the page ends.
PAGE_BYTES: Final = 2**20

_LAST: Final = 2**63 - 1

_IMPORT: Final[LiteralString] = "SELECT * FROM shown_imports"


async def begin(
    database: Database,
    order: ImportOrder,
    actor: Actor,
    key: IdempotencyKey | None,
    limits: ImportLimits,
    announced_bytes: int,
) -> tuple[Import, bool]:
    """A new import that is ready to be filled, and True; or the one that this key names, and False.

    Raises Invalid, SegmentNotFound, SegmentHasPercentage, IdempotencyKeyReused, IdempotencyKeyInUse,
    TooManyImports, ImportStoreFull, Unavailable.
    """
    now = await history.instant(database)
    async with database.transaction() as connection:
        try:
            load = await one_row(connection, ImportLoad, "SELECT * FROM import_load(%s)", [actor.name])
        except psycopg.errors.LockNotAvailable:
            raise Unavailable from None
        # First of all: the segment may be gone, and the term over, since the import that the key names.
        if key is not None and (earlier := await _earlier(connection, order, actor, key)) is not None:
            return await _shown(connection, earlier), False
        order.check(now)
        segment_id = await _segment_id(connection, order)
        limits.check(load, announced_bytes)
        number = await _insert(connection, order, segment_id, actor, key)
        await connection.execute("SELECT make_import_blocks(%s)", [number])
        return await _shown(connection, number), True


async def _segment_id(connection: psycopg.AsyncConnection, order: ImportOrder) -> int | None:
    if order.segment is None:
        return None
    async with connection.cursor(row_factory=struct_row(_Segment)) as cursor:
        await cursor.execute(
            "SELECT id, percent IS NOT NULL AS has_percentage FROM living_segment(%s)", [order.segment]
        )
        segment = await cursor.fetchone()
    if segment is None:
        raise SegmentNotFound([order.segment])
    if order.operation is ImportOperation.REPLACE and segment.has_percentage:
        raise SegmentHasPercentage(order.segment)
    return segment.id


async def _earlier(
    connection: psycopg.AsyncConnection, order: ImportOrder, actor: Actor, key: IdempotencyKey
) -> ImportNumber | None:
    """The import that the key names; a key whose body never came whole, or came long ago, is free again."""
    async with connection.cursor(row_factory=struct_row(_Keyed)) as cursor:
        await cursor.execute(
            "SELECT number, status = 'receiving' AS is_open, fingerprint,"
            "  sha256 IS NULL OR created_at < clock_instant() - %s AS is_free"
            " FROM imports WHERE ordered_by = %s AND idempotency_key = %s",
            [KEY_KEPT, actor.name, key],
        )
        found = await cursor.fetchone()
    if found is None:
        return None
    if found.is_open:
        raise IdempotencyKeyInUse
    if found.is_free:
        await connection.execute(
            "UPDATE imports SET idempotency_key = NULL WHERE number = %s", [found.number]
        )
        return None
    if found.fingerprint != _fingerprint(order, actor):
        raise IdempotencyKeyReused
    return found.number


async def _insert(
    connection: psycopg.AsyncConnection,
    order: ImportOrder,
    segment_id: int | None,
    actor: Actor,
    key: IdempotencyKey | None,
) -> ImportNumber:
    made = await one_row(
        connection,
        _Number,
        "INSERT INTO imports (id, operation, segment_id, until, ttl_seconds, reason, dry_run, skip_invalid,"
        "  format, ordered_by, on_behalf_of, idempotency_key, fingerprint, heard_at, created_at)"
        " SELECT %(id)s, %(operation)s, %(segment_id)s, %(until)s, %(ttl_seconds)s, %(reason)s, %(dry_run)s,"
        "  %(skip_invalid)s, %(format)s, %(ordered_by)s, %(on_behalf_of)s, %(key)s, %(fingerprint)s, t.now,"
        "  t.now"
        " FROM (SELECT clock_instant() AS now) t RETURNING number",
        msgspec.structs.asdict(order)
        | {
            "id": uuid4(),
            "segment_id": segment_id,
            "ordered_by": actor.name,
            "on_behalf_of": actor.on_behalf_of,
            "key": key,
            "fingerprint": _fingerprint(order, actor),
        },
    )
    return made.number


def _fingerprint(order: ImportOrder, actor: Actor) -> str:
    """The same for the same parameters."""
    return sha256(msgspec.json.encode([order, actor.on_behalf_of])).hexdigest()


async def fail(database: Database, number: ImportNumber, detail: str, bad_row: BadRow | None = None) -> None:
    """Ends an import that is not final, with the reason, and drops its rows. Raises Unavailable."""
    async with database.transaction() as connection:
        ended = await one_row(
            connection, Succeeded, "SELECT end_import(%s, 'failed', %s) AS succeeded", [number, detail]
        )
        if ended.succeeded:
            if bad_row is not None:  # says more than what else is wrong in this line
                await connection.execute(
                    "DELETE FROM import_errors WHERE import_number = %s AND line = %s", [number, bad_row.line]
                )
            await note_bad_rows(connection, number, [] if bad_row is None else [bad_row])
            await connection.execute("SELECT drop_import_tables(%s)", [number])


async def cancel(database: Database, import_id: ImportId, actor: Actor) -> Import:
    """Ends an import; what was applied stays. Raises ImportNotFound, ImportFinished, Unavailable."""
    found = await get(database, import_id)
    ended = await database.one(
        Succeeded,
        "SELECT cancel_import(%s, %s, %s) AS succeeded",
        [found.number, actor.name, actor.on_behalf_of],
    )
    if ended is None or not ended.succeeded:
        raise ImportFinished
    return await get(database, import_id)


async def get(database: Database, import_id: ImportId) -> Import:
    """One import. Raises ImportNotFound, Unavailable."""
    found = await database.one(Import, f"{_IMPORT} WHERE id = %s", [import_id])
    if found is None:
        raise ImportNotFound
    return found


async def final(database: Database, ids: Sequence[ImportId]) -> Mapping[ImportId, Import]:
    """Those of these imports that are final, by id. Raises Unavailable."""
    found = await database.all(Import, f"{_IMPORT} WHERE id = ANY (%s) AND finished_at IS NOT NULL", [ids])
    return {each.id: each for each in found}


class Some(NamedTuple):
    """Some imports, the newest first, and whether there are older ones."""

    items: Sequence[Import]
    is_cut: bool


async def list_before(database: Database, before: ImportNumber | None, limit: int) -> Some:
    """Up to `limit` imports older than that one; fewer where their bad rows take much room.

    Raises Unavailable.
    """
    found = await database.all(
        _Listed,
        "SELECT * FROM ("
        "  SELECT l.*,"
        "    sum(length(l.errors::text)) OVER (ORDER BY l.number DESC) - length(l.errors::text) AS size,"
        "    l.number > (SELECT min(number) FROM imports) AS has_older"
        "  FROM ("
        "    SELECT * FROM shown_imports"
        "    WHERE number < %(before)s"
        "    ORDER BY number DESC LIMIT %(limit)s"
        "  ) l"
        ") sized WHERE size < %(most)s ORDER BY number DESC",
        {"before": _LAST if before is None else before, "limit": limit, "most": PAGE_BYTES},
    )
    return Some(found, bool(found) and found[-1].has_older)


async def bad_rows_after(database: Database, number: ImportNumber, line: int, limit: int) -> Sequence[BadRow]:
    """Up to `limit` bad rows after that line. Raises Unavailable."""
    return await database.all(
        BadRow,
        "SELECT line, detail, text FROM import_errors WHERE import_number = %s AND line > %s"
        " ORDER BY line LIMIT %s",
        [number, line, limit],
    )


async def _shown(connection: psycopg.AsyncConnection, number: ImportNumber) -> Import:
    return await one_row(connection, Import, f"{_IMPORT} WHERE number = %s", [number])


class _Segment(msgspec.Struct, frozen=True):
    id: int
    has_percentage: bool


class _Keyed(msgspec.Struct, frozen=True):
    number: ImportNumber
    is_open: bool
    fingerprint: str
    is_free: bool


class _Number(msgspec.Struct, frozen=True):
    number: ImportNumber


class _Listed(Import, frozen=True):
    has_older: bool
