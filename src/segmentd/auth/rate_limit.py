"""How often a caller may come: so many times a second on each node, whichever of its processes they reach."""

import time
from hashlib import blake2b
from pathlib import Path
from typing import Final, Self

from segmentd.shared_memory import WORD_BYTES, SharedMemory

# Two callers share a place, and so a rate, where they fall on the same one of these.
_PLACES: Final = 1 << 16
_SECOND_NS: Final = 1_000_000_000


class RateLimit:
    """The generic cell rate algorithm: a word for each caller, in memory that the node's processes share.

    A word is the time, by the monotonic clock, at which the caller's allowance is full again. Processes write
    it without a lock; where two do so at once, one request goes uncounted.

    Which word is a caller's follows from a secret of the node, the `key` of up to 64 bytes: else it could be
    computed which name shares the word of another one, and take up its allowance.
    """

    def __init__(self, memory: SharedMemory, per_second: float, key: bytes) -> None:
        self._memory = memory
        self._full_at = memory.words
        self._key = key
        self._cost_ns = int(_SECOND_NS / per_second)
        # A second's worth at once, or one request where that is less.
        self._most_ns = max(_SECOND_NS, self._cost_ns)

    @classmethod
    def open(cls, path: Path, per_second: float, key: bytes) -> Self:
        """The words at this path, made if need be; on a full disk each process has its own."""
        return cls(SharedMemory(path, _PLACES), per_second, key)

    def close(self) -> None:
        self._memory.close()

    def take(self, caller: str) -> float:
        """Counts one request; 0, or the seconds until there is room for it, and then it is not counted."""
        digest = blake2b(caller.encode(), digest_size=WORD_BYTES, key=self._key).digest()
        place = int.from_bytes(digest) % _PLACES
        now = time.monotonic_ns()
        full_at = self._full_at[place]
        # What is out of reach was written before the machine's last start.
        if not now < full_at <= now + self._most_ns:
            full_at = now
        waiting_ns = full_at + self._cost_ns - now - self._most_ns
        if waiting_ns > 0:
            return waiting_ns / _SECOND_NS
        self._full_at[place] = full_at + self._cost_ns
        return 0.0
