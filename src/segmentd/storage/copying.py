"""COPY TO STDOUT, many rows at a time.

psycopg returns one row at a time, each through the event loop; for millions of rows that costs more than the
rows themselves.
"""

from collections.abc import AsyncGenerator
from typing import Final

import psycopg
from psycopg.abc import Params, PQGen, Query

BATCH_BYTES: Final = 256 * 1024


async def batches(
    connection: psycopg.AsyncConnection,
    copy_out: Query,
    parameters: Params | None = None,
    batch_bytes: int = BATCH_BYTES,
) -> AsyncGenerator[list[bytes]]:
    """The rows as PostgreSQL sends them, in batches of about so many bytes. Raises psycopg.Error.

    In a binary COPY the first row begins with the 19 bytes of the signature, and the last row is the trailer.
    """
    async with connection.cursor() as cursor, cursor.copy(copy_out, parameters) as copy:
        while rows := await connection.wait(_batch(copy, batch_bytes)):
            yield rows


def _batch(copy: psycopg.AsyncCopy, batch_bytes: int) -> PQGen[list[bytes]]:
    rows: list[bytes] = []
    size = 0
    while size < batch_bytes:
        row = bytes((yield from copy._read_gen()))  # noqa: SLF001 - what `copy.read()` waits for, one at a time
        if not row:
            break
        rows.append(row)
        size += len(row)
    return rows
