"""What a replica follows: snapshots, changed users and their states (functions/06_states.sql)."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import Final, LiteralString, NamedTuple

import msgspec
import psycopg
from psycopg.rows import class_row, scalar_row

from segmentd.domain.identifiers import UserId
from segmentd.storage.copying import batches
from segmentd.storage.database import Database, struct_row

# How long rows of `erasures` are kept, so that every replica applies them. A replica that has not been
# updated for nearly as long is rebuilt.
ERASURES_KEPT: Final = timedelta(days=1)
ERASURES_MARGIN: Final = timedelta(hours=1)

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

CHANGED_USERS: Final[LiteralString] = """
    -- Materialized: otherwise the planner reads the whole index by user, to save the sorting.
    WITH changed AS MATERIALIZED (
        SELECT user_id FROM membership_events WHERE xid >= %(xmax)s::xid8
        UNION ALL
        SELECT user_id FROM membership_events WHERE xid = ANY (%(xip)s::xid8[])
        UNION ALL
        SELECT user_id FROM erasures WHERE xid >= %(xmax)s::xid8
        UNION ALL
        SELECT user_id FROM erasures WHERE xid = ANY (%(xip)s::xid8[])
    )
    SELECT DISTINCT user_id FROM changed ORDER BY user_id LIMIT %(limit)s
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

# The source is the cluster, the database and the timeline. On a standby this fails, as it should: a standby
# has no current place in the log.
_POSITION: Final[LiteralString] = """
    SELECT pg_current_snapshot()::text AS snapshot,
           system_identifier
           || ' ' || (SELECT oid FROM pg_database WHERE datname = current_database())
           || ' ' || left(pg_walfile_name(pg_current_wal_lsn()), 8) AS source,
           (extract(epoch FROM clock_instant()) * 1000000)::bigint AS instant
    FROM pg_control_system()
"""


class Snapshot(NamedTuple):
    """Which transactions a reader could not see: all from `xmax` on, and those of `xip`."""

    xmax: int
    xip: Sequence[int]

    @classmethod
    def parsed(cls, text: str) -> "Snapshot":
        """From PostgreSQL's text form, `xmin:xmax:xip,xip`. Raises ValueError."""
        match = re.fullmatch(r"(\d+):(\d+):((?:\d+,?)*)", text)
        if match is None:
            raise ValueError(f"{text!r} is not a snapshot")
        return cls(int(match[2]), [int(xid) for xid in match[3].split(",") if xid])

    def saw(self, xid: int) -> bool:
        """Whether a reader under it saw what this transaction did, if that was committed at all."""
        return xid < self.xmax and xid not in self.xip


class Position(msgspec.Struct, frozen=True):
    """A snapshot, as PostgreSQL writes it; the database that it means something in; when it was taken."""

    snapshot: str
    source: str
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


class UserState(msgspec.Struct, frozen=True):
    """A user's overrides as replicas store them; see replica/states.py."""

    user_id: UserId
    state: bytes


class ReplicatedSegment(msgspec.Struct, frozen=True, array_like=True):
    """A living segment; `threshold` is None where it has no percentage."""

    id: int
    slug: str
    salt: int
    threshold: int | None


class Feed:
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

    async def users_changed_since(self, snapshot: Snapshot, limit: int | None = None) -> Sequence[UserId]:
        """Up to `limit` users with events or erasures that a reader under the snapshot could not see."""
        await self._connection.execute(HOLD_TO_INDEXES)
        async with self._connection.cursor(row_factory=scalar_row) as cursor:
            await cursor.execute(
                CHANGED_USERS,
                {
                    "xmax": str(snapshot.xmax),
                    "xip": [str(xid) for xid in snapshot.xip],
                    "limit": limit,
                },
                prepare=False,
            )
            return await cursor.fetchall()

    async def states(self, user_ids: Sequence[UserId]) -> Sequence[UserState]:
        """The present states of these users, the erased among them."""
        async with self._connection.cursor(row_factory=struct_row(UserState)) as cursor:
            await cursor.execute(
                "SELECT user_id, state FROM user_states(%(user_ids)s)"
                " UNION ALL SELECT user_id, state FROM erased_states(%(user_ids)s)",
                {"user_ids": [*user_ids]},
            )
            return await cursor.fetchall()

    async def all_states(self) -> AsyncGenerator[list[tuple[bytes, bytes]]]:
        """The state of every user that has overrides, by id, in batches; the ids as 8 bytes, big-endian."""
        copy_out = f"COPY ({ALL_STATES}) TO STDOUT (FORMAT binary)".encode()
        signature = COPY_SIGNATURE_BYTES
        async with aclosing(batches(self._connection, copy_out)) as batches_of_rows:
            async for rows in batches_of_rows:
                rows[0] = rows[0][signature:]
                signature = 0
                # A row: how many fields, in 2 bytes; the id, after its length in 4 bytes; the state likewise.
                if states := [(row[6:14], row[18:]) for row in rows if row != COPY_TRAILER]:
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


@asynccontextmanager
async def feed(database: Database) -> AsyncIterator[Feed]:
    """A feed on the primary. Raises Unavailable."""
    async with database.transaction() as connection:
        await connection.execute(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SET LOCAL statement_timeout = 0"
        )
        yield Feed(connection)


async def notify(database: Database) -> None:
    """Sends a change notification to the followers of all nodes."""
    await database.execute("SELECT pg_notify(%s, '')", [CHANNEL])
