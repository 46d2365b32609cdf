"""What background jobs do to the tables (functions/09_upkeep.sql)."""

from datetime import UTC, datetime
from typing import Final

import msgspec

from segmentd.storage.database import Database
from segmentd.storage.replication import ERASURES_KEPT

# Users of one batch. A batch of this size holds its locks for some tens of milliseconds.
BATCH_USERS: Final = 500
MONTHS_AHEAD: Final = 3

_BEGINNING: Final = datetime(1, 1, 1, tzinfo=UTC)


async def settle_due_terms(database: Database, batch_users: int = BATCH_USERS) -> int:
    """Writes the events of terms that have ended; returns how many users were settled. Raises Unavailable.

    Users whom another transaction has locked are left to it or to the next call.
    """
    place: _TermBatch | None = _TermBatch(_BEGINNING, 0, 0)
    settled = 0
    while place is not None and place.after_until is not None:
        place = await database.one(
            _TermBatch,
            "SELECT * FROM settle_due_terms(%s, %s, %s)",
            [batch_users, place.after_until, place.after_user_id],
        )
        settled += place.settled if place else 0
    return settled


async def settle_deleted_segments(database: Database, batch_users: int = BATCH_USERS) -> int:
    """Closes what is open in deleted segments; returns how many users were settled. Raises Unavailable."""
    settled = 0
    for segment in await database.all(_Unsettled, "SELECT id, settled_to FROM segments_to_settle"):
        place: _SegmentBatch | None = _SegmentBatch(segment.settled_to, 0)
        while place is not None and place.after_user_id is not None:
            place = await database.one(
                _SegmentBatch,
                "SELECT * FROM settle_deleted_segment(%s, %s, %s)",
                [segment.id, batch_users, place.after_user_id],
            )
            settled += place.settled if place else 0
    return settled


async def forget_erasures(database: Database) -> None:
    """Removes the rows of erasures that every replica has applied; the feed remembers which transactions.

    Raises Unavailable.
    """
    await database.execute(
        """
        WITH forgotten AS (DELETE FROM erasures WHERE at < clock_instant() - %s RETURNING xid, segment_ids)
        INSERT INTO forgotten_erasures SELECT xid FROM forgotten WHERE segment_ids <> '{}'
        ON CONFLICT DO NOTHING
        """,
        [ERASURES_KEPT],
    )


async def make_partitions(database: Database) -> None:
    """Makes the missing partitions of this month and the next ones. Raises Unavailable."""
    await database.execute("SELECT make_event_partitions(%s)", [MONTHS_AHEAD])


class _TermBatch(msgspec.Struct, frozen=True):
    after_until: datetime | None
    after_user_id: int | None
    settled: int


class _SegmentBatch(msgspec.Struct, frozen=True):
    after_user_id: int | None
    settled: int


class _Unsettled(msgspec.Struct, frozen=True):
    id: int
    settled_to: int
