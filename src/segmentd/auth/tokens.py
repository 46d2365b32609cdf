"""API tokens: opaque and random; only a hash is stored."""

import secrets
from hashlib import sha256
from typing import Final

PREFIX: Final = "segmentd_"
"""People, and programs that search for leaked secrets, recognise a token by it."""

TOKEN_BYTES: Final = 8192
"""The longest JWT."""

_RANDOM_BYTES: Final = 32


def new_secret() -> str:
    """A token as its owner sees it, once: 256 random bits in URL-safe Base64, after a prefix."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest_of(secret: str) -> bytes:
    """What is stored of a token. A fast hash is enough, because nobody guesses 256 random bits."""
    return sha256(secret.encode()).digest()
