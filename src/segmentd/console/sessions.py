"""Sessions: a cookie that stands for a token, as long as the token holds and the person has not logged out.

The database has only the SHA-256 of the cookie, and the token encrypted with a key made from the cookie. So
neither the database nor a cookie after its session shows a token, and each request is admitted by the token
itself: its end, its revocation and the rate limit are the authenticator's (docs/decisions/0083).
"""

import math
import secrets
from datetime import timedelta
from hashlib import blake2b, sha256
from typing import Final, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from segmentd.auth.administration import TokenDesk
from segmentd.auth.authenticator import Authenticator
from segmentd.auth.rate_limit import RateLimit
from segmentd.domain.access import OnBehalfOf, Principal
from segmentd.domain.errors import TooManyRequests, Unauthenticated
from segmentd.storage import console_sessions
from segmentd.storage.database import Database

LASTS: Final = timedelta(days=7)
"""A session ends after this time at the latest."""

LOGINS_PER_SECOND: Final = 5.0
"""Attempts to log in from one address, on one node."""

_SECRET_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class Session(NamedTuple):
    """Who is logged in: the token's name and role, and the person who uses it, if they said so."""

    principal: Principal
    person: OnBehalfOf | None


class Sessions:
    """Begins sessions, finds and ends them, on any node."""

    def __init__(self, database: Database, authenticator: Authenticator, logins: RateLimit) -> None:
        self._database = database
        self._authenticator = authenticator
        self._logins = logins
        self.tokens = TokenDesk(database)
        """The tokens that sessions begin with."""

    def admit_without(self) -> Principal:
        """The caller of a request that shows nothing. Raises Unauthenticated if access is not open to all."""
        return self._authenticator.admit(None)

    async def begin(self, token: str, person: OnBehalfOf | None, address: str) -> str:
        """Begins a session with a token or a JWT; what the cookie is to hold.

        Raises Unauthenticated, TooManyRequests, Unavailable.
        """
        if seconds := self._logins.take(address):
            raise TooManyRequests(
                "Too many attempts to log in from this address; wait a moment.",
                retry_after=math.ceil(seconds),
            )
        principal = self._authenticator.admit(_header(token))
        secret = new_secret()
        sealed = _seal(secret, _Sealed(token, person))
        await console_sessions.begin(self._database, _digest(secret), principal.name, sealed, LASTS)
        return secret

    async def find(self, secret: str) -> Session | None:
        """The session of a cookie; None if it has ended or there was none.

        Raises Unauthenticated if the token does not hold any more, TooManyRequests, Unavailable.
        """
        stored = await console_sessions.find(self._database, _digest(secret))
        opened = None if stored is None else _open(secret, stored.sealed)
        if opened is None:
            return None
        try:
            return Session(self._authenticator.admit(_header(opened.token)), opened.person)
        except Unauthenticated:
            await self.end(secret)
            raise

    async def end(self, secret: str) -> None:
        """Ends the session of a cookie, if there is one. Raises Unavailable."""
        await console_sessions.end(self._database, _digest(secret))


def new_secret() -> str:
    """A random value for a cookie, 256 bits."""
    return secrets.token_urlsafe(_SECRET_BYTES)


class _Sealed(msgspec.Struct, frozen=True, array_like=True):
    token: str
    person: OnBehalfOf | None


def _header(token: str) -> bytes:
    try:
        return b"Bearer " + token.encode("ascii")
    except UnicodeEncodeError:
        raise Unauthenticated("A token has no characters but ASCII.") from None


def _digest(secret: str) -> bytes:
    return sha256(secret.encode()).digest()


def _cipher(secret: str) -> AESGCM:
    return AESGCM(blake2b(secret.encode(), digest_size=32, person=b"console seal").digest())


def _seal(secret: str, content: _Sealed) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + _cipher(secret).encrypt(nonce, msgspec.msgpack.encode(content), None)


def _open(secret: str, sealed: bytes) -> _Sealed | None:
    try:
        content = _cipher(secret).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
        return msgspec.msgpack.decode(content, type=_Sealed)
    except (InvalidTag, ValueError, msgspec.MsgspecError):
        return None
