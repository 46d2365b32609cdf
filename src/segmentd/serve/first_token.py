"""Access control before the first request: the first token."""

import ipaddress
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from segmentd.auth.tokens import digest_of, new_secret
from segmentd.config import SHORTEST_SECRET, Settings
from segmentd.domain.access import Actor, CallerName, Role
from segmentd.domain.errors import StartupFailed, TokenExists, Unavailable
from segmentd.storage import tokens
from segmentd.storage.database import Database

if TYPE_CHECKING:
    from segmentd.auth.jwt import JwtVerifier

ADMIN: Final = CallerName("admin")

_log = structlog.get_logger(__name__)


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can reach the socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


async def prepare_access(database_url: str, settings: Settings, *, may_be_open: bool) -> None:
    """Makes the admin token of the settings; refuses to serve other machines without access control.

    Raises StartupFailed.
    """
    has_jwt = jwt_verifier(settings) is not None
    async with open_database(database_url) as database:
        if settings.admin_token is not None:
            await _ensure(database, settings.admin_token)
        elif settings.admin_token_file is not None and not (await tokens.state(database)).has_tokens:
            await _ensure(database, _kept_secret(Path(settings.admin_token_file)))
        has_tokens = (await tokens.state(database)).has_tokens
    if not (may_be_open or has_jwt or has_tokens):
        raise StartupFailed(
            f"everybody who reaches {settings.host} could do everything, for there is no access control:"
            " make a token (segmentd token create --role admin --name admin), set JWT keys,"
            " listen on 127.0.0.1, or allow it with --insecure-open"
        )


def jwt_verifier(settings: Settings) -> "JwtVerifier | None":
    """What verifies JWTs, if the settings name a key. Raises StartupFailed."""
    if settings.jwt_key is None and settings.jwt_jwks_file is None:
        return None
    from segmentd.auth.jwt import JwtRules, JwtVerifier  # noqa: PLC0415 - a start without JWTs loads no ciphers

    return JwtVerifier.of(
        JwtRules(
            key=settings.jwt_key,
            jwks_file=None if settings.jwt_jwks_file is None else Path(settings.jwt_jwks_file),
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            leeway_seconds=settings.jwt_leeway_seconds,
            role_claim=settings.jwt_role_claim,
        )
    )


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """One connection, to a database that has to be there. Raises StartupFailed."""
    database = Database(url, pool_size=1)
    try:
        async with database:
            yield database
    except Unavailable as error:
        reason = database.last_failure
        raise StartupFailed(f"cannot use the database: {reason}" if reason else error.detail) from error


async def _ensure(database: Database, secret: str) -> None:
    """Makes a token with this secret, once; a revoked one stays revoked."""
    try:
        await tokens.create(database, ADMIN, Role.ADMIN, digest_of(secret), None, Actor("segmentd"))
    except TokenExists:
        if digest_of(secret) not in {token.digest for token in await tokens.in_force(database)}:
            _log.warning(
                "the setting admin_token is not in force: it was revoked, or another token is named admin"
            )


def _kept_secret(path: Path) -> str:
    """The secret in this file; a new one is synced to the disk before it is used. Raises StartupFailed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            descriptor = os.open(path.with_suffix(".new"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(new_secret() + "\n")
                file.flush()
                os.fsync(file.fileno())
            path.with_suffix(".new").rename(path)
        secret = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise StartupFailed(f"the admin token cannot be kept in {path}: {error.strerror}") from error
    # An empty file would make a token with an empty secret, which anybody could guess.
    if len(secret) < SHORTEST_SECRET or not secret.isascii():
        raise StartupFailed(f"{path} holds no token: remove it, and the next start makes one")
    _log.info("the first token, an admin's, is in a file", file=str(path))
    return secret
