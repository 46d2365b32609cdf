"""The tokens of a node that has no database: its neighbour tells it which are in force.

Ages are durations, because two machines have two clocks. A token is never told, only its hash.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from hashlib import blake2b
from typing import Final

import msgspec

from segmentd.auth.authenticator import Authenticator
from segmentd.auth.known_tokens import Known, KnownTokens
from segmentd.domain.access import Token
from segmentd.domain.errors import Overloaded, Unavailable

MOST_FOLLOWERS: Final = 64
LONGEST_WAIT_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.05
_SECOND_US: Final = 1_000_000


class ToldTokens(msgspec.Struct, frozen=True, array_like=True):
    """Which tokens are in force, as the neighbour knew it some time ago."""

    version: int
    """Another one for other tokens."""
    has_tokens: bool
    tokens: Sequence[Token] | None
    """None: those that the asker knows."""
    held: int
    """For how long the question was held back, in microseconds."""
    age: int
    """For how long the neighbour has not looked for changes, in microseconds."""
    clock: int
    """PostgreSQL's clock at the end of that time, in microseconds since 1970."""


class TokenTeller:
    """Tells other nodes what the authenticator of this process knows."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._followers = 0

    async def tell(self, known: int | None, wait_s: float) -> ToldTokens:
        """The tokens; waits a while for others than those known. Raises Overloaded, Unavailable."""
        if self._followers >= MOST_FOLLOWERS:
            raise Overloaded("As many nodes follow this process as it allows; follow another node.")
        self._followers += 1
        begun = time.monotonic()
        try:
            while True:
                told = self._told(known, begun)
                if told.tokens is not None or time.monotonic() - begun >= min(wait_s, LONGEST_WAIT_S):
                    return told
                await asyncio.sleep(_LOOK_EVERY_S)
        finally:
            self._followers -= 1

    def _told(self, known: int | None, begun: float) -> ToldTokens:
        found = self._authenticator.known
        if found is None:
            raise Unavailable("This node does not know the tokens yet; try again shortly.")
        present, seen_at = found
        tokens = [*present.tokens]
        content = msgspec.msgpack.encode([present.has_tokens, tokens])
        version = int.from_bytes(blake2b(content, digest_size=7).digest())
        now = time.monotonic()
        clock = (timedelta(seconds=now) + present.clock_offset) // timedelta(microseconds=1)
        return ToldTokens(
            version,
            present.has_tokens,
            None if version == known else tokens,
            int((now - begun) * _SECOND_US),
            int((now - seen_at) * _SECOND_US),
            clock,
        )


class ToldHere:
    """Keeps what the neighbour tells, for all processes of this node."""

    def __init__(self, ask: Callable[[int | None], Awaitable[ToldTokens]], left: KnownTokens) -> None:
        self._ask = ask
        self._left = left
        self._version: int | None = None
        self._tokens: Sequence[Token] = ()

    async def look(self) -> None:
        """Asks once, which takes about a second if nothing changed. Raises what `ask` does."""
        asked = time.monotonic()
        told = await self._ask(self._version)
        answered = time.monotonic()
        if told.tokens is not None:
            self._version, self._tokens = told.version, told.tokens
        # The neighbour said it at some time between; what counts for a revocation is the earliest.
        earliest = asked + told.held / _SECOND_US
        offset = timedelta(microseconds=told.clock) - timedelta(seconds=(earliest + answered) / 2)
        known = Known(told.version, told.has_tokens, offset, self._tokens)
        self._left.leave(known, earliest - told.age / _SECOND_US)
