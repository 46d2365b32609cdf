"""API tokens in PostgreSQL (functions/11_tokens.sql)."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, LiteralString

import msgspec
import psycopg

from segmentd.domain.access import Actor, CallerName, Role, Token, TokenId
from segmentd.domain.errors import TokenExists, TokenNotFound
from segmentd.storage.database import Database

_COLUMNS: Final[LiteralString] = "id, name, role, digest, created_at, expires_at, revoked_at, last_used_on"


class AccessState(msgspec.Struct, frozen=True):
    """Whether there are or ever were tokens, and a version that each change of them raises."""

    version: int
    has_tokens: bool
    now: datetime
    """By PostgreSQL's clock."""


async def state(database: Database) -> AccessState:
    """The state that every process polls. Raises Unavailable."""
    [found] = await database.all(
        AccessState,
        "SELECT version, EXISTS (SELECT FROM tokens) AS has_tokens, clock_instant() AS now FROM access",
    )
    return found


async def in_force(database: Database) -> Sequence[Token]:
    """The tokens that are not revoked, the expired ones included. Raises Unavailable."""
    return await database.all(Token, f"SELECT {_COLUMNS} FROM tokens WHERE revoked_at IS NULL")


async def list_all(database: Database) -> Sequence[Token]:
    """All tokens that there ever were, the oldest first. Raises Unavailable."""
    return await database.all(Token, f"SELECT {_COLUMNS} FROM tokens ORDER BY id")


async def create(
    database: Database, name: CallerName, role: Role, digest: bytes, expires_at: datetime | None, actor: Actor
) -> Token:
    """Stores a new token. Raises TokenExists, Unavailable."""
    try:
        [token] = await database.all(
            Token,
            f"SELECT {_COLUMNS} FROM create_token(%s, %s, %s, %s, %s, %s)",
            [name, role, digest, expires_at, *actor],
        )
    except psycopg.errors.UniqueViolation:
        raise TokenExists(name) from None
    return token


async def revoke(database: Database, name: str, actor: Actor) -> Token:
    """Ends the token in force that has this name. Raises TokenNotFound, Unavailable."""
    token = await database.one(Token, f"SELECT {_COLUMNS} FROM revoke_token(%s, %s, %s)", [name, *actor])
    if token is None:
        raise TokenNotFound(name)
    return token


async def note_used(database: Database, token_ids: Iterable[TokenId]) -> None:
    """Records that these tokens were used today. Raises Unavailable."""
    await database.execute("SELECT note_tokens_used(%s)", [[*token_ids]])
