"""The rate limit: how many requests a second a caller may send to a node, over all its processes."""

import time
from hashlib import blake2b
from pathlib import Path
from typing import Final, Self

from segmentd.shared_memory import WORD_BYTES, SharedMemory

# Callers are hashed onto so many words. Two callers with the same word share its rate.
_PLACES: Final = 1 << 16
_SECOND_NS: Final = 1_000_000_000


class RateLimit:
    """The generic cell rate algorithm: a word for each caller, in memory that the node's processes share.

    A word is the time, by the monotonic clock, at which the caller's allowance is full again
    (docs/decisions/0029). Processes write it without a lock; if two write at once, one request is not
    counted.

    A secret of the node, the `key` of up to 64 bytes, decides which word is a caller's. Otherwise a caller
    could compute a name that shares the word of another caller, and use up that caller's allowance.
    """

    def __init__(self, memory: SharedMemory, per_second: float, key: bytes) -> None:
        self.memory = memory
        self._key = key
        self._cost_ns = int(_SECOND_NS / per_second)
        # The burst: the requests of one second, at least one.
        self._most_ns = max(_SECOND_NS, self._cost_ns)

    @classmethod
    def open(cls, path: Path, per_second: float, key: bytes) -> Self:
        """The words at this path, made if need be; on a full disk each process has its own."""
        return cls(SharedMemory(path, _PLACES), per_second, key)

    def close(self) -> None:
        self.memory.close()

    def take(self, caller: str) -> float:
        """Counts one request and returns 0, or returns the seconds to wait and does not count it."""
        digest = blake2b(caller.encode(), digest_size=WORD_BYTES, key=self._key).digest()
        place = int.from_bytes(digest) % _PLACES
        now = time.monotonic_ns()
        words = self.memory.words
        full_at = words[place]
        # A time too far ahead was written before the machine's last start.
        if not now < full_at <= now + self._most_ns:
            full_at = now
        waiting_ns = full_at + self._cost_ns - now - self._most_ns
        if waiting_ns > 0:
            return waiting_ns / _SECOND_NS
        words[place] = full_at + self._cost_ns
        return 0.0
