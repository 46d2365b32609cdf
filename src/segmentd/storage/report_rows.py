"""The rows of a report: which they are, and how they are copied out of PostgreSQL.

They are copied by ranges of users, one after the other in one snapshot. The rows of a range are sorted in
memory, so PostgreSQL needs no temporary files, however large a report is (docs/decisions/0066).
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import Final, LiteralString, NamedTuple

from psycopg import AsyncConnection, sql

from segmentd.domain.history import check_kept
from segmentd.domain.reports import Report
from segmentd.storage.copying import batches
from segmentd.storage.database import Database

# A range of users has about so many rows: 25 MB, less than half of the session's work_mem.
RANGE_ROWS: Final = 200_000
_FIRST_USERS: Final = 10_000
_MOST_USERS: Final = 100_000
# The percentages of its users make at most so many times as many rows as a range should have.
_MOST_COMPUTED: Final = 10


class Users(NamedTuple):
    """The users after one id up to and including the last one; None: up to the end of all."""

    after: int
    last: int | None


# The parameters are literals because COPY takes no others.
REPORT_ROWS: Final[LiteralString] = """
    SELECT c.user_id, s.slug, c.operation,
           to_char(c.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS time
    FROM effective_changes({as_of}) c
    JOIN segments s ON s.id = c.segment_id
    WHERE c.at >= {begins_at}
      AND c.at < least({ends_at}, {as_of})
      AND {user_filter}
      AND {segment_filter}
    ORDER BY c.user_id, c.at, s.slug, c.segment_id
"""

# A session without time limits and with more memory, because a report may be large.
_SESSION: Final = """
    SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
    SET LOCAL statement_timeout = 0;
    -- After the last row the transaction is idle until the store has the last part of the file.
    SET LOCAL idle_in_transaction_session_timeout = 0;
    SET LOCAL work_mem = '64MB';
    SET LOCAL hash_mem_multiplier = 4;
"""


async def cut_off(database: Database) -> datetime:
    """The instant up to which the history is complete from now on. Raises Unavailable."""
    async with database.transaction() as connection:
        cursor = await connection.execute("SELECT report_cut_off()")
        row = await cursor.fetchone()
    if row is None or not isinstance(row[0], datetime):
        raise TypeError("report_cut_off gives an instant")
    return row[0]


def rows_query(report: Report, as_of: datetime, users: Users | None = None) -> sql.Composed:
    """The SELECT of a report's rows, in their order; with `users`, only the rows of this range."""
    if report.user_id is not None:
        user_filter: sql.Composable = sql.SQL("c.user_id = {}").format(sql.Literal(report.user_id))
    else:
        user_filter = _in_range(users or Users(0, None))
    only = sql.SQL("c.segment_id = {}").format(sql.Literal(report.segment_id))
    return sql.SQL(REPORT_ROWS).format(
        as_of=sql.Literal(as_of),
        begins_at=sql.Literal(report.begins_at),
        ends_at=sql.Literal(report.ends_at),
        user_filter=user_filter,
        segment_filter=sql.SQL("true") if report.segment_id is None else only,
    )


def _in_range(users: Users) -> sql.Composable:
    if users.last is None:
        return sql.SQL("c.user_id > {}").format(sql.Literal(users.after)) if users.after else sql.SQL("true")
    return sql.SQL("c.user_id > {} AND c.user_id <= {}").format(
        sql.Literal(users.after), sql.Literal(users.last)
    )


@asynccontextmanager
async def report_snapshot(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction to copy the rows in. Raises Unavailable."""
    async with database.transaction() as connection:
        await connection.execute(_SESSION)
        yield connection


async def copied_rows(
    connection: AsyncConnection,
    report: Report,
    as_of: datetime,
    chunk_bytes: int,
    range_rows: int = RANGE_ROWS,
) -> AsyncGenerator[bytes]:
    """The rows as CSV, in chunks of about so many bytes, from ranges of users of about `range_rows` rows.

    Raises Gone if the history begins after the period of the report by now.
    """
    await _check_kept(connection, report)
    if report.user_id is not None:
        users, most = Users(0, None), 0
    else:
        most = await _most_users(connection, report, range_rows)
        size = min(most, _FIRST_USERS)
        users = await _users_after(connection, 0, size)
    while True:
        rows = 0
        copy_out = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, DELIMITER ';')").format(
            rows_query(report, as_of, users)
        )
        async with aclosing(batches(connection, copy_out, batch_bytes=chunk_bytes)) as copied:
            async for batch in copied:
                rows += len(batch)
                yield b"".join(batch)
        if users.last is None:
            return
        # It at most doubles: the next users may have more rows than these.
        size = max(min(size * range_rows // max(rows, 1), 2 * size, most), 1)
        users = await _users_after(connection, users.last, size)


async def _check_kept(connection: AsyncConnection, report: Report) -> None:
    cursor = await connection.execute("SELECT begins_at FROM kept_history")
    row = await cursor.fetchone()
    check_kept(report.begins_at, None if row is None else row[0])


async def _users_after(connection: AsyncConnection, after: int, size: int) -> Users:
    """The next users that there are, so many of them; every user with a history was registered."""
    cursor = await connection.execute(
        "SELECT l.user_id FROM registrations l WHERE l.user_id > %s ORDER BY l.user_id OFFSET %s LIMIT 1",
        [after, size - 1],
    )
    row = await cursor.fetchone()
    return Users(after, None if row is None else int(row[0]))


async def _most_users(connection: AsyncConnection, report: Report, range_rows: int) -> int:
    """How many users a range may have, so that not even all percentages together make too many rows."""
    cursor = await connection.execute(
        "SELECT count(*) FROM rollouts r"
        " WHERE r.started_at < %s AND (r.ended_at IS NULL OR r.ended_at >= %s)"
        "  AND (r.segment_id = %s OR %s::bigint IS NULL)",
        [report.ends_at, report.begins_at, report.segment_id, report.segment_id],
    )
    row = await cursor.fetchone()
    rollouts = int(row[0]) if row else 0
    # Each adds a user once in a life, and removes them once.
    return min(max(_MOST_COMPUTED * range_rows // max(2 * rollouts, 1), 1), _MOST_USERS)
