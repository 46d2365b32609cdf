"""API tokens: opaque, random, kept as a hash."""

import secrets
from hashlib import sha256
from typing import Final

PREFIX: Final = "segmentd_"
"""So that people, and programs that look for leaked secrets, know one when they see it."""

_RANDOM_BYTES: Final = 32


def new_secret() -> str:
    """A token as its owner gets to see it, once: 256 random bits in URL-safe Base64, after a prefix."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest_of(secret: str) -> bytes:
    """What is kept of a token. A fast hash will do, for nobody guesses 256 random bits."""
    return sha256(secret.encode()).digest()
