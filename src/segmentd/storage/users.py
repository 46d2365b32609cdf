"""Users and their lives in PostgreSQL (functions/08_users.sql)."""

from collections.abc import Sequence
from typing import LiteralString

import msgspec

from segmentd.domain.access import Actor
from segmentd.domain.errors import UserExists, UserNotFound
from segmentd.domain.identifiers import UserId
from segmentd.domain.texts import Name
from segmentd.domain.users import User
from segmentd.storage.database import Database
from segmentd.storage.replication import WRITTEN, OwnWrite


async def register(database: Database, user_id: UserId | None, name: Name | None) -> User:
    """Begins a user's life; without an id, under one that no user ever had.

    Raises UserExists, Unavailable.
    """
    user = await database.one(
        User, "SELECT id, name, registered_at FROM register_user(%s, %s)", [user_id, name]
    )
    if user is None:
        assert user_id is not None, "an id that the service gives out is free"  # noqa: S101 - for mypy and readers
        raise UserExists(user_id)
    return user


async def get(database: Database, user_id: UserId) -> User:
    """A living user. Raises UserNotFound, Unavailable."""
    user = await database.one(
        User, "SELECT id, name, registered_at FROM users WHERE id = %s AND deleted_at IS NULL", [user_id]
    )
    if user is None:
        raise UserNotFound(user_id)
    return user


async def list_after(database: Database, after: UserId | None, limit: int) -> Sequence[User]:
    """Up to `limit` living users with ids above `after`, in their order. Raises Unavailable."""
    return await database.all(
        User,
        # OFFSET 0: a look-up for each user of the page. Deleted users are not walked over.
        "SELECT u.id, u.name, u.registered_at"
        " FROM ("
        "  SELECT k.user_id FROM known_users k WHERE k.user_id > %s ORDER BY k.user_id LIMIT %s"
        ") k"
        " CROSS JOIN LATERAL ("
        "  SELECT u.id, u.name, u.registered_at FROM users u WHERE u.id = k.user_id OFFSET 0"
        ") u"
        " ORDER BY k.user_id",
        [after or 0, limit],
    )


async def delete(database: Database, user_id: UserId, actor: Actor) -> OwnWrite:
    """Ends the life, the memberships and the exclusions; history stays. Returns what the replica is to show.

    Raises UserNotFound, Unavailable.
    """
    return await _written(
        database, user_id, f"SELECT state, {WRITTEN} FROM delete_user(%s, %s, %s) AS state", actor
    )


async def erase(database: Database, user_id: UserId, actor: Actor) -> OwnWrite:
    """Removes all that is known of a user, living or not, and ends the links of reports that may name them.

    Returns what the replica is to show. Raises UserNotFound, Unavailable.
    """
    return await _written(
        database, user_id, f"SELECT state, {WRITTEN} FROM erase_user(%s, %s, %s) AS state", actor
    )


async def _written(database: Database, user_id: UserId, statement: LiteralString, actor: Actor) -> OwnWrite:
    [row] = await database.all(_Ended, statement, [user_id, *actor])
    if row.state is None:
        raise UserNotFound(user_id)
    return OwnWrite(row.state, row.xid, row.catalog_version)


class _Ended(msgspec.Struct, frozen=True):
    state: bytes | None
    xid: int
    catalog_version: int
