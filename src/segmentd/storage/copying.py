"""COPY TO STDOUT, many rows at a time.

psycopg returns one row at a time, each through the event loop; for millions of rows that costs more than the
rows themselves.
"""

from collections.abc import AsyncGenerator
from typing import Final

import psycopg
from psycopg.abc import Params, PQGen, Query
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn
from psycopg.waiting import Wait

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
    async with connection.cursor() as cursor, cursor.copy(copy_out, parameters):
        ended = False
        while not ended:
            rows: list[bytes] = []
            ended = await connection.wait(_fill(rows, connection.pgconn, batch_bytes))
            if rows:
                yield rows


def _fill(rows: list[bytes], connection: PGconn, batch_bytes: int) -> PQGen[bool]:
    """Adds rows until they have so many bytes, or there are no more; returns whether there are no more."""
    size = 0
    while size < batch_bytes:
        length, row = connection.get_copy_data(1)  # 1: do not wait
        if length > 0:
            rows.append(bytes(row))
            size += length
        elif length == 0:
            yield from _wait(connection)
        else:
            yield from _check_end(connection)
            return True
    return False


def _check_end(connection: PGconn) -> PQGen[None]:
    """Reads what PostgreSQL says after the last row. Raises psycopg.Error if it was not the last one."""
    failure: psycopg.Error | None = None
    while True:
        while connection.is_busy():
            yield from _wait(connection)
        result = connection.get_result()
        if result is None:
            break
        if result.status == ExecStatus.FATAL_ERROR:
            failure = error_from_result(result)
    if failure is not None:
        raise failure


def _wait(connection: PGconn) -> PQGen[None]:
    while not (yield Wait.R):  # it was asked too early
        pass
    connection.consume_input()
