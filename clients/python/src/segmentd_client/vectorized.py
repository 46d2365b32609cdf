"""Buckets of many users and segments at once, with NumPy: bit for bit those of `bucketing`."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]

_CELLS: Final = 1 << 18
"""How many buckets are computed at once: the arrays of one step then stay in the processor's cache."""


class Vectorized:
    """The percentages of n segments. `parts` and `thresholds` are those of `bucketing`, n of each."""

    def __init__(self, parts: Sequence[tuple[int, int, int]], thresholds: Sequence[int]) -> None:
        a, b, c = np.array(parts, dtype=np.uint32).reshape(-1, 3).T
        # The first step of the last mixing does not depend on the user.
        c = (c ^ b) - _rotated(b, 14)
        self._parts = (a, b, c, _rotated(c, 11))
        self._thresholds = np.array(thresholds, dtype=np.uint64)

    def of_one(self, folded: int) -> Sequence[int]:
        """The numbers of the segments that cover a user, whose id is folded already."""
        found: Sequence[int] = np.flatnonzero(self._covered(np.uint32(folded))).tolist()
        return found

    def of_many(self, user_ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Pairs of user and segment, numbered as they were given, in this order."""
        folded = _folded(np.array(user_ids, dtype=np.int64))[:, np.newaxis]
        step = max(1, _CELLS // max(1, len(self._thresholds)))
        for begin in range(0, len(folded), step):
            users, segments = np.nonzero(self._covered(folded[begin : begin + step]))
            yield from zip((users + begin).tolist(), segments.tolist(), strict=True)

    def _covered(self, folded: np.uint32 | Words) -> NDArray[np.bool_]:
        a, b, c, rotated_c = self._parts
        a = ((a + folded) ^ c) - rotated_c
        b = (b ^ a) - _rotated(a, 25)
        c = (c ^ b) - _rotated(b, 16)
        a = (a ^ c) - _rotated(c, 4)
        b = (b ^ a) - _rotated(a, 14)
        return ((c ^ b) - _rotated(b, 24)) < self._thresholds


def _folded(user_ids: NDArray[np.int64]) -> Words:
    high = (user_ids >> np.int64(32)).astype(np.uint32)
    return user_ids.astype(np.uint32) ^ np.where(user_ids >= 0, high, ~high)


def _rotated(words: Words, bits: int) -> Words:
    return (words << np.uint32(bits)) | (words >> np.uint32(32 - bits))
