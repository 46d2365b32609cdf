"""What a replica follows: snapshots, changed users and their states (functions/06_states.sql)."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import Final, LiteralString, NamedTuple

import msgspec
import psycopg
from psycopg import sql
from psycopg.rows import args_row, class_row, scalar_row

from segmentd.domain.identifiers import UserId
from segmentd.storage.copying import batches
from segmentd.storage.database import Database, struct_row
from segmentd.storage.snapshots import LATE, NEW, Window

# How long rows of `erasures` are kept, so that every replica applies them. A replica that has not been
# updated for nearly as long is rebuilt.
ERASURES_KEPT: Final = timedelta(days=1)
ERASURES_MARGIN: Final = timedelta(hours=1)

COPY_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0"
COPY_SIGNATURE_BYTES: Final = 19
COPY_TRAILER: Final = b"\xff\xff"

CHANNEL: Final = "segmentd_changes"

# The columns of an OwnWrite beside its state. They stand in the statement that writes.
WRITTEN: Final[LiteralString] = "pg_current_xact_id()::text::bigint AS xid, catalog_version()"

# Almost nothing is newer than the snapshot. The planner cannot know that, and would read the whole history.
HOLD_TO_INDEXES: Final[LiteralString] = """
    SET LOCAL enable_seqscan = off;
    SET LOCAL jit = off;
    SET LOCAL max_parallel_workers_per_gather = 0;
"""

# What a round looks for. `outdated` is false where only something was written down that readers knew before:
# that a term had ended, or that a segment had been deleted. No answer changes by that.
CHANGED_USERS: Final[LiteralString] = f"""
    -- Materialized: otherwise the planner reads the whole index by user, to save the sorting.
    WITH changed AS MATERIALIZED (
        SELECT user_id, cause NOT IN ('expiry', 'segment-deleted') AS outdated
        FROM membership_events
        WHERE {NEW}
        UNION ALL
        SELECT user_id, cause NOT IN ('expiry', 'segment-deleted')
        FROM membership_events
        WHERE {LATE}
        UNION ALL
        SELECT user_id, true FROM erasures WHERE {NEW}
        UNION ALL
        SELECT user_id, true FROM erasures WHERE {LATE}
    )
    -- Thousands of ids in a row: rows of one id each would cost their reader more than the ids.
    SELECT outdated, string_agg(int8send(user_id), '' ORDER BY user_id)
    FROM (
        SELECT user_id, bool_or(outdated) AS outdated,
               (row_number() OVER (ORDER BY user_id) - 1) / 8192 AS part
        FROM changed
        GROUP BY user_id
    ) c
    GROUP BY part, outdated
    ORDER BY part
"""

ALL_STATES: Final[LiteralString] = """
    SELECT o.user_id, int8send(u.version * 1048576 + o.overrides) || o.words || coalesce(o.terms, '')
    FROM (
        -- Grouped before the join with users: that leaves a tenth of the rows to join.
        SELECT m.user_id, count(*) AS overrides,
               string_agg(override_word(m.segment_id, m.included, m.until), '' ORDER BY m.segment_id)
                   AS words,
               string_agg(term_word(m.until), '' ORDER BY m.segment_id)
                   FILTER (WHERE m.until IS NOT NULL) AS terms
        FROM memberships m
        WHERE m.ended_at IS NULL
        GROUP BY m.user_id
    ) o
    JOIN users u ON u.id = o.user_id
    ORDER BY o.user_id
"""

# The source is the cluster and the database. All that the snapshot shows is before the place in the log: that
# is read later. On a standby this fails, as it should: a standby has no current place in the log.
_POSITION: Final[LiteralString] = """
    SELECT pg_current_snapshot()::text AS snapshot,
           system_identifier
           || ' ' || (SELECT oid FROM pg_database WHERE datname = current_database()) AS source,
           current_timeline() AS timeline,
           (pg_current_wal_insert_lsn() - '0/0')::bigint AS place,
           (extract(epoch FROM clock_instant()) * 1000000)::bigint AS instant
    FROM pg_control_system()
"""


class Position(msgspec.Struct, frozen=True):
    """A snapshot, as PostgreSQL writes it; the database that it means something in; when it was taken."""

    snapshot: str
    source: str
    timeline: int
    """The timeline of the write-ahead log: each standby that becomes the primary begins another one."""
    place: int
    """A place in the log, in bytes, before which is all that the snapshot shows."""
    instant: int
    """By PostgreSQL's clock, in microseconds since 1970."""

    @property
    def erasures_since(self) -> int:
        """The instant from which on all erasures are still stored, in microseconds since 1970."""
        return self.instant - (ERASURES_KEPT - ERASURES_MARGIN) // timedelta(microseconds=1)


class OwnWrite(msgspec.Struct, frozen=True):
    """What a write of this node led to: the user's state, which its replica is to show."""

    state: bytes
    xid: int
    """The transaction that wrote it."""
    catalog_version: int
    """The version of the segments and rollouts under which it was written."""


class UserState(NamedTuple):
    """A user's overrides as replicas store them; see replica/states.py."""

    user_id: UserId
    state: bytes


class ReplicatedSegment(msgspec.Struct, frozen=True, array_like=True):
    """A living segment; `threshold` is None where it has no percentage."""

    id: int
    slug: str
    salt: int
    threshold: int | None


class ChangedUsers(NamedTuple):
    """Users who changed, by id; the ids are 8 bytes each, big-endian, as replicas have them."""

    outdated: Sequence[bytes]
    """Their answers change with their new states."""
    settled: Sequence[bytes]
    """Of them it gives the same answers: terms and deletions were written down that readers knew already."""


class Reading:
    """One repeatable-read transaction: everything read through it is of one snapshot."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection

    async def position(self) -> Position:
        """Where this transaction stands in the history of its database.

        Call it first: it takes the snapshot.
        """
        async with self._connection.cursor(row_factory=struct_row(Position)) as cursor:
            await cursor.execute(_POSITION)
            [position] = await cursor.fetchall()
            return position

    async def still_has(self, position: Position) -> bool:
        """Whether the database has all that a reader at this position saw; False if that is not known.

        It notes where the present timeline began.
        """
        await self._connection.execute("SELECT note_timeline()")
        query = "SELECT still_has(%s, '0/0'::pg_lsn + %s::numeric)"
        cursor = await self._connection.execute(query, [position.timeline, position.place])
        return await cursor.fetchone() == (True,)

    async def clock(self) -> int:
        """What a reader takes as now, in microseconds since 1970; never before the latest catalog change."""
        present = (
            "SELECT (extract(epoch FROM greatest(clock_instant(), last_at)) * 1000000)::bigint FROM catalog"
        )
        return int(str(await self._scalar(present)))

    async def catalog_version(self) -> int:
        """The number that every change of a segment or rollout raises."""
        return int(str(await self._scalar("SELECT version FROM catalog")))

    async def segments(self) -> Sequence[ReplicatedSegment]:
        """All living segments."""
        async with self._connection.cursor(row_factory=class_row(ReplicatedSegment)) as cursor:
            await cursor.execute("SELECT id, slug, salt, threshold FROM replicated_segments")
            return await cursor.fetchall()

    async def changed_users(self, window: Window) -> AsyncGenerator[ChangedUsers]:
        """The users with events or erasures of the window's transactions, by id, in batches."""
        await self._connection.execute(HOLD_TO_INDEXES)
        copy_out = sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(sql.SQL(CHANGED_USERS))
        async with aclosing(batches(self._connection, copy_out, window.parameters)) as batches_of_rows:
            async for rows in batches_of_rows:
                outdated: list[bytes] = []
                settled: list[bytes] = []
                for row in _whole_rows(rows):
                    # How many fields, in 2 bytes; each field after its length in 4 bytes: a boolean, the ids.
                    ids = row[11:]
                    parts = (ids[place : place + 8] for place in range(0, len(ids), 8))
                    (outdated if row[6] else settled).extend(parts)
                yield ChangedUsers(outdated, settled)

    async def states(self, user_ids: Sequence[UserId]) -> Sequence[UserState]:
        """The present states of these users, the erased among them."""
        async with self._connection.cursor(binary=True, row_factory=args_row(UserState)) as cursor:
            await cursor.execute(
                "SELECT user_id, state FROM user_states(%(user_ids)s::bigint[])"
                " UNION ALL SELECT user_id, state FROM erased_states(%(user_ids)s::bigint[])",
                # As text: psycopg takes twenty times as long for a list.
                {"user_ids": f"{{{','.join(map(str, user_ids))}}}"},
            )
            return await cursor.fetchall()

    async def all_states(self) -> AsyncGenerator[list[tuple[bytes, bytes]]]:
        """The state of every user that has overrides, by id, in batches; the ids as 8 bytes, big-endian."""
        copy_out = f"COPY ({ALL_STATES}) TO STDOUT (FORMAT binary)".encode()
        async with aclosing(batches(self._connection, copy_out)) as batches_of_rows:
            async for rows in batches_of_rows:
                # A row: how many fields, in 2 bytes; the id, after its length in 4 bytes; the state likewise.
                if states := [(row[6:14], row[18:]) for row in _whole_rows(rows)]:
                    yield states

    async def approximate_users(self) -> int:
        """How many users there are, by the planner's estimate."""
        return max(
            int(
                str(
                    await self._scalar("SELECT reltuples::bigint FROM pg_class WHERE oid = 'users'::regclass")
                )
            ),
            0,
        )

    async def _scalar(self, query: LiteralString) -> object:
        async with self._connection.cursor(row_factory=scalar_row) as cursor:
            await cursor.execute(query)
            return await cursor.fetchone()


def _whole_rows(rows: list[bytes]) -> Sequence[bytes]:
    """The rows of a binary COPY without its signature and trailer."""
    if rows[0].startswith(COPY_SIGNATURE):
        rows[0] = rows[0][COPY_SIGNATURE_BYTES:]
    return rows[:-1] if rows[-1] == COPY_TRAILER else rows


@asynccontextmanager
async def reading(database: Database) -> AsyncIterator[Reading]:
    """A transaction on the primary. Raises Unavailable."""
    async with database.transaction() as connection:
        await connection.execute(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SET LOCAL statement_timeout = 0"
        )
        yield Reading(connection)


async def notify(database: Database) -> None:
    """Sends a change notification to the followers of all nodes."""
    await database.execute("SELECT pg_notify(%s, '')", [CHANNEL])
