"""API tokens as tests make them."""

from datetime import datetime

from segmentd.auth.tokens import digest_of, new_secret
from segmentd.domain.access import Actor, CallerName, Role
from segmentd.storage import tokens
from segmentd.storage.database import Database

OPERATOR = Actor("operator")


async def new_token(
    database: Database, name: str, role: Role = Role.READER, expires_at: datetime | None = None
) -> str:
    """Makes a token; its secret."""
    secret = new_secret()
    await tokens.create(database, CallerName(name), role, digest_of(secret), expires_at, OPERATOR)
    return secret


async def revoke(database: Database, name: str) -> None:
    """Ends the token."""
    await tokens.revoke(database, name, OPERATOR)


def bearer(secret: str) -> dict[str, str]:
    """The header with which a caller shows the token."""
    return {"Authorization": f"Bearer {secret}"}
