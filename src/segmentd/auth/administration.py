"""Use cases of administrators: API tokens, and the keys that sign the links of reports."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from segmentd.auth.tokens import digest_of, new_secret
from segmentd.domain.access import Actor, CallerName, Role, Token
from segmentd.domain.errors import Fault, Invalid
from segmentd.storage import reports, tokens
from segmentd.storage.database import Database


async def create_token(
    database: Database, name: CallerName, role: Role, expires: datetime | timedelta | None, actor: Actor
) -> str:
    """Makes a token and returns its secret, which is shown only now.

    Raises Invalid for an end in the past, TokenExists, Unavailable.
    """
    now = (await tokens.state(database)).now
    if isinstance(expires, timedelta):
        expires = now + expires
    if expires is not None and expires <= now:
        raise Invalid(Fault("/expires", "the token would have expired already: name a time in the future"))
    secret = new_secret()
    await tokens.create(database, name, role, digest_of(secret), expires, actor)
    return secret


async def list_tokens(database: Database) -> tuple[datetime, Sequence[Token]]:
    """The database's time, and all tokens that there ever were. Raises Unavailable."""
    return (await tokens.state(database)).now, await tokens.list_all(database)


async def revoke_token(database: Database, name: str, actor: Actor) -> None:
    """Ends a token. Raises TokenNotFound, Unavailable."""
    await tokens.revoke(database, name, actor)


class TokenDesk:
    """The same for a door, which keeps the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self, name: CallerName, role: Role, expires: datetime | timedelta | None, actor: Actor
    ) -> str:
        """As `create_token`."""
        return await create_token(self._database, name, role, expires, actor)

    async def list(self) -> tuple[datetime, Sequence[Token]]:
        """As `list_tokens`."""
        return await list_tokens(self._database)

    async def revoke(self, name: str, actor: Actor) -> None:
        """As `revoke_token`."""
        await revoke_token(self._database, name, actor)


async def rotate_signing_key(database: Database, keep: timedelta, actor: Actor) -> None:
    """Makes a new key for the links of reports; the old ones verify for so long. Raises Unavailable."""
    await reports.replace_signing_key(database, keep, actor)
