"""Fills a database with made-up data by binary COPY, as fast as PostgreSQL takes it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from bench.population import (
    SEGMENTS,
    USUAL,
    Calendar,
    Overrides,
    Shape,
    Users,
    batches,
    instant_of,
    segments,
)

Progress = Callable[[str], None]

_HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_END: Final = b"\xff\xff"
_EVENTS_AT_A_TIME: Final = 250_000

# In this role the triggers of foreign keys are off: the loaded rows are consistent without their checks.
_SESSION: Final[LiteralString] = """
    SET session_replication_role = replica;
    SET synchronous_commit = off;
    SET maintenance_work_mem = '1GB';
    SET max_parallel_maintenance_workers = 2;
    SET timezone = 'UTC';
"""


def load_users(
    url: str, size: int, calendar: Calendar, seed: int, say: Progress, shape: Shape = USUAL
) -> None:
    """Loads the segments, and the users 1 to `size` with their overrides, into an empty schema."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_SESSION)
        _load_segments(connection, calendar, seed, shape)
        with _without_indexes(connection, "memberships", say):
            done = 0
            for users, overrides in batches(size, calendar, seed, shape):
                _copy_users(connection, users)
                _copy_overrides(connection, overrides)
                done += len(users.ids)
                say(f"loading: {done:,} of {size:,} users")
        say("loading: statistics")
        connection.execute("VACUUM (ANALYZE, FREEZE) users, registrations, memberships")
        connection.execute("CHECKPOINT")


def load_events(url: str, events: int, users: int, calendar: Calendar, seed: int, say: Progress) -> None:
    """Loads a month of effective events: in pairs, a user gets into a segment and later out of it."""
    rng = np.random.default_rng([seed, events])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_SESSION)
        connection.execute("SELECT ensure_event_partition(%s)", [instant_of(calendar.month_begins)])
        length = calendar.month_ends - calendar.month_begins
        for done in range(0, events, _EVENTS_AT_A_TIME):
            pairs = min(_EVENTS_AT_A_TIME, events - done) // 2
            user_ids = rng.integers(1, users + 1, pairs)
            segment_ids = rng.integers(1, SEGMENTS + 1, pairs)
            added_at = calendar.month_begins + (rng.random(pairs) * length / 2).astype(np.int64)
            for operation, at in ((b"add", added_at), (b"remove", added_at + length // 2)):
                _copy_events(connection, user_ids, segment_ids, at, operation)
            say(f"loading: {done + 2 * pairs:,} of {events:,} events")
        connection.execute("VACUUM (ANALYZE, FREEZE) membership_events")
        connection.execute("CHECKPOINT")


def _load_segments(connection: psycopg.Connection, calendar: Calendar, seed: int, shape: Shape) -> None:
    made_at = instant_of(calendar.segments_made)
    population = segments(seed, shape)
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO segments (id, slug, salt, created_at) OVERRIDING SYSTEM VALUE"
            " VALUES (%s, %s, %s, %s)",
            [(segment.id, segment.slug, segment.salt, made_at) for segment in population],
        )
        cursor.executemany(
            "INSERT INTO rollouts (segment_id, percent, started_at) VALUES (%s, %s, %s)",
            [(segment.id, segment.percent, made_at) for segment in population if segment.percent is not None],
        )
        cursor.execute("SELECT setval(pg_get_serial_sequence('segments', 'id'), %s)", [shape.segments])
        cursor.execute("UPDATE catalog SET version = %s, last_at = %s", [shape.segments, made_at])


def load_more_segments(url: str, total: int, calendar: Calendar) -> None:
    """Adds segments without a percentage, that nobody is in, until there are so many."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO segments (slug, salt, created_at)"
            " SELECT 'unused-' || n, n, %s FROM generate_series((SELECT count(*) FROM segments) + 1, %s) n",
            [instant_of(calendar.segments_made), total],
        )
        connection.execute("UPDATE catalog SET version = %s", [total])
        connection.execute("VACUUM (ANALYZE, FREEZE) segments")


def _copy_users(connection: psycopg.Connection, users: Users) -> None:
    ids, registered_at = users
    _copy(
        connection,
        "COPY users (id, registered_at, last_at) FROM STDIN (FORMAT binary)",
        ids, registered_at, registered_at + 1,
    )  # fmt: skip
    _copy(
        connection,
        "COPY registrations (user_id, registered_at) FROM STDIN (FORMAT binary)",
        ids, registered_at,
    )  # fmt: skip


def _copy_overrides(connection: psycopg.Connection, overrides: Overrides) -> None:
    """Rows with a term have another length, so each kind gets its own COPY."""
    user_ids, segment_ids, included, since, until = overrides
    lasting = until == 0
    _copy(
        connection,
        "COPY memberships (user_id, segment_id, included, since) FROM STDIN (FORMAT binary)",
        user_ids[lasting], segment_ids[lasting], included[lasting], since[lasting],
    )  # fmt: skip
    ending = ~lasting
    _copy(
        connection,
        "COPY memberships (user_id, segment_id, included, since, until) FROM STDIN (FORMAT binary)",
        user_ids[ending], segment_ids[ending], included[ending], since[ending], until[ending],
    )  # fmt: skip


def _copy_events(
    connection: psycopg.Connection,
    user_ids: NDArray[np.int64],
    segment_ids: NDArray[np.int64],
    at: NDArray[np.int64],
    operation: bytes,
) -> None:
    _copy(
        connection,
        "COPY membership_events (user_id, segment_id, at, operation, effective, cause, actor)"
        " FROM STDIN (FORMAT binary)",
        user_ids,
        segment_ids,
        at,
        np.full(len(at), operation),
        np.full(len(at), fill_value=True),
        np.full(len(at), b"request"),
        np.full(len(at), b"bench"),
    )


def _copy(connection: psycopg.Connection, statement: LiteralString, *columns: NDArray[np.generic]) -> None:
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(_HEADER)
        copy.write(binary_rows(*columns))
        copy.write(_END)


def binary_rows(*columns: NDArray[np.generic]) -> bytes:
    """The columns as rows of PostgreSQL's binary COPY: int8, timestamptz, bool, and text of one length."""
    fields: list[tuple[str, str]] = [("count", ">i2")]
    for place, column in enumerate(columns):
        fields += [(f"length{place}", ">i4"), (f"value{place}", column.dtype.newbyteorder(">").str)]
    rows = np.empty(len(columns[0]), dtype=np.dtype(fields))
    rows["count"] = len(columns)
    for place, column in enumerate(columns):
        rows[f"length{place}"] = column.dtype.itemsize
        rows[f"value{place}"] = column
    return rows.tobytes()


@contextmanager
def _without_indexes(connection: psycopg.Connection, table: str, say: Progress) -> Iterator[None]:
    """Drops the indexes and the primary key and makes them again at the end: sorted once, not row by row."""
    constraints = connection.execute(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE contype = 'p' AND conrelid = %s::regclass",
        [table],
    ).fetchall()
    indexes = connection.execute(
        "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index i"
        " WHERE indrelid = %s::regclass"
        " AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)",
        [table],
    ).fetchall()
    for name, _ in constraints:
        connection.execute(
            sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(sql.Identifier(table), sql.Identifier(name))
        )
    for name, _ in indexes:
        connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))
    yield
    for name, definition in indexes:
        say(f"loading: index {name}")
        connection.execute(definition)
    for name, definition in constraints:
        say(f"loading: constraint {name}")
        connection.execute(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} ").format(sql.Identifier(table), sql.Identifier(name))
            + sql.SQL(definition)
        )
