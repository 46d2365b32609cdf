"""Sessions of people in the console."""

from datetime import timedelta
from typing import Final

import msgspec

from segmentd.storage.database import Database

MOST_OF_A_CALLER: Final = 20
"""Sessions of one caller; the next one ends the oldest."""


class StoredSession(msgspec.Struct, frozen=True):
    """A session that has not expired; only who has its cookie can open `sealed`."""

    sealed: bytes


async def begin(database: Database, digest: bytes, caller: str, sealed: bytes, lasts: timedelta) -> None:
    """Stores a session of this caller. Raises Unavailable."""
    await database.execute(
        """
        WITH begun AS (
            INSERT INTO console_sessions (digest, caller, sealed, created_at, expires_at)
            SELECT %(digest)s, %(caller)s, %(sealed)s, at, at + %(lasts)s FROM clock_instant() AS at
        )
        DELETE FROM console_sessions
        WHERE digest IN (
            SELECT s.digest
            FROM console_sessions s
            WHERE s.caller = %(caller)s
            ORDER BY s.created_at DESC
            OFFSET %(most)s - 1
        )
        """,
        {"digest": digest, "caller": caller, "sealed": sealed, "lasts": lasts, "most": MOST_OF_A_CALLER},
    )


async def find(database: Database, digest: bytes) -> StoredSession | None:
    """The session with this digest, if it has not expired. Raises Unavailable."""
    return await database.one(
        StoredSession,
        "SELECT sealed FROM console_sessions WHERE digest = %s AND expires_at > clock_instant()",
        [digest],
    )


async def end(database: Database, digest: bytes) -> None:
    """Ends a session, on every node at once. Raises Unavailable."""
    await database.execute("DELETE FROM console_sessions WHERE digest = %s", [digest])


async def forget(database: Database) -> None:
    """Removes sessions that have expired. Raises Unavailable."""
    await database.execute("DELETE FROM console_sessions WHERE expires_at <= clock_instant()")
