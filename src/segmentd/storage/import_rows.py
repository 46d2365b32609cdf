"""The rows of an import on their way into the database (functions/13_imports.sql)."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import psycopg
from psycopg import sql

from segmentd.domain.access import Actor
from segmentd.domain.errors import ImportStoreFull
from segmentd.domain.imports import BadRow, ImportNumber, store_full
from segmentd.storage.database import Database, one_row

Enqueue = Callable[[psycopg.AsyncConnection, ImportNumber, int], Awaitable[None]]
"""Puts the work on an import into the job queue, in the transaction of the connection.

The number is how many imports of the caller are under way: the more they are, the later its turn."""


class StagedBlock(NamedTuple):
    """Some lines, as the table of an import's lines has them."""

    first_line: int
    parsed: bool
    content: str


class Piece(NamedTuple):
    """What is staged at once: lines, bad rows among them, and what they add to the import's figures."""

    blocks: Sequence[StagedBlock]
    bad_rows: Sequence[BadRow]
    bytes: int
    rows: int


class FileFigures(NamedTuple):
    """What is known of a file once all of it is here: how its values stand in lines, and its hash."""

    separator: str
    width: int
    places: Mapping[str, int]
    sha256: str


class Ended(Exception):
    """The import has ended meanwhile: it was canceled, or taken for one whose sender is gone."""


async def stage(database: Database, number: ImportNumber, piece: Piece, most_bytes: int | None) -> None:
    """Stores some lines, all or none; None: whether there is room for them is not looked at.

    Raises Ended, ImportStoreFull, Unavailable.
    """
    async with database.transaction() as connection:
        # First the figures: who ends the import locks its row, and then drops the table of its lines.
        counted = await connection.execute(
            "UPDATE imports SET bytes = bytes + %s, rows = rows + %s, invalid_rows = invalid_rows + %s,"
            "  heard_at = clock_instant()"
            " WHERE number = %s AND status = 'receiving'",
            [piece.bytes, piece.rows, len(piece.bad_rows), number],
        )
        if not counted.rowcount:
            raise Ended
        if most_bytes is not None:
            stored = await one_row(connection, _Stored, "SELECT import_bytes() AS bytes")
            if stored.bytes > most_bytes:
                raise ImportStoreFull(store_full(most_bytes))
        table = sql.Identifier(f"import_blocks_{number}")
        copy_in = sql.SQL("COPY {} (first_line, parsed, content) FROM STDIN").format(table)
        async with connection.cursor() as cursor, cursor.copy(copy_in) as copy:
            for block in piece.blocks:
                await copy.write_row(block)
        await note_bad_rows(connection, number, piece.bad_rows)


async def note_bad_rows(
    connection: psycopg.AsyncConnection, number: ImportNumber, bad_rows: Sequence[BadRow]
) -> None:
    """Stores bad rows; of one line the first one stays."""
    if bad_rows:
        await connection.execute(
            "INSERT INTO import_errors (import_number, line, detail, text)"
            " SELECT %s, b.* FROM unnest(%s::bigint[], %s::text[], %s::text[]) b ON CONFLICT DO NOTHING",
            [number, *([getattr(row, name) for row in bad_rows] for name in BadRow.__struct_fields__)],
        )


async def beat(database: Database, number: ImportNumber) -> None:
    """Shows that the process that receives the import is alive. Raises Unavailable."""
    await database.execute("UPDATE imports SET heard_at = clock_instant() WHERE number = %s", [number])


async def received(
    database: Database, number: ImportNumber, actor: Actor, figures: FileFigures, enqueue: Enqueue
) -> None:
    """All rows are here: the import is to be checked, and its job is in the queue.

    Raises Ended, Unavailable.
    """
    async with database.transaction() as connection:
        taken = await connection.execute(
            "UPDATE imports"
            " SET status = 'checking', separator = %s, width = %s, places = %s::jsonb, sha256 = %s"
            " WHERE number = %s AND status = 'receiving'",
            [
                figures.separator,
                figures.width,
                msgspec.json.encode(figures.places).decode(),
                figures.sha256,
                number,
            ],
        )
        if not taken.rowcount:
            raise Ended
        under_way = await one_row(
            connection,
            _Count,
            "SELECT count(*) FROM imports WHERE ordered_by = %s AND finished_at IS NULL",
            [actor.name],
        )
        await enqueue(connection, number, under_way.count)


class _Stored(msgspec.Struct, frozen=True):
    bytes: int


class _Count(msgspec.Struct, frozen=True):
    count: int
