"""Buckets and thresholds: which users a percentage covers.

`bucket(user_id, salt)` is the low 32 bits of PostgreSQL's `hashint8extended(user_id, salt)`
(src/backend/access/hash/hashfunc.c; the mixing is Bob Jenkins' lookup3, src/common/hashfn.c).
SQL has the same function; tests compare the two.

The hash folds a 64-bit id to 32 bits first, so ids whose folded halves coincide share all their buckets.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from segmentd.domain.segments import Percent, Threshold

BUCKETS: Final = 2**32

Word = Any
"""Many words of 32 bits: an array, or what stands for one in an expression to be compiled."""

# 0x9e3779b9 + sizeof(uint32) + 3923095: how PostgreSQL starts the hash of one 32-bit word.
_START: Final = np.uint32(0x9E3779B9 + 4 + 3923095)


def threshold(percent: Percent) -> Threshold:
    """`floor(percent / 100 * 2^32)` for a percentage from 0 to 100, exactly."""
    return Threshold(int(percent * BUCKETS / 100))


def fold(user_ids: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The 32 bits of each id that the hash uses (`hashint8extended`)."""
    low = user_ids.astype(np.uint32)
    high = (user_ids >> np.int64(32)).astype(np.uint32)
    return low ^ np.where(user_ids >= 0, high, ~high)


class Salted:
    """The part of the hash that depends on the salts alone, computed once for many users.

    `salts` has the shape (n,), dtype int64, and so have the parts, dtype uint32.
    """

    def __init__(self, salts: NDArray[np.int64]) -> None:
        seeds = salts.view(np.uint64)
        high = (seeds >> np.uint64(32)).astype(np.uint32)
        low = seeds.astype(np.uint32)
        start = np.full(salts.shape, _START, dtype=np.uint32)
        mixed_a, mixed_b, mixed_c = _mix(start + high, start + low, start.copy())
        # PostgreSQL skips the first mixing when the seed is 0.
        seeded = seeds != 0
        a, b, c = (np.where(seeded, mixed, start) for mixed in (mixed_a, mixed_b, mixed_c))
        # The first step of the last mixing does not depend on the user.
        c = (c ^ b) - _rotate(b, 14)
        self.parts = (a, b, c, _rotate(c, 11))

    def buckets(self, folded: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The buckets of folded ids; shapes broadcast against (n,), so (m, 1) gives (m, n)."""
        found: NDArray[np.uint32] = finish(folded, self.parts, _rotate)
        return found


def buckets(user_ids: NDArray[np.int64], salts: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The bucket of each pair of user id and salt; both of the shape (n,), dtype int64."""
    return Salted(salts).buckets(fold(user_ids))


def finish(folded: Word, parts: tuple[Word, Word, Word, Word], rotate: Callable[[Word, int], Word]) -> Word:
    """The last mixing, with the user in it: the bucket."""
    a, b, c, rotated_c = parts
    a = ((a + folded) ^ c) - rotated_c
    b = (b ^ a) - rotate(a, 25)
    c = (c ^ b) - rotate(b, 16)
    a = (a ^ c) - rotate(c, 4)
    b = (b ^ a) - rotate(a, 14)
    return (c ^ b) - rotate(b, 24)


def _rotate(x: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    return (x << np.uint32(bits)) | (x >> np.uint32(32 - bits))


def _mix(
    a: NDArray[np.uint32], b: NDArray[np.uint32], c: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]:
    for bits in (4, 6, 8, 16, 19, 4):
        a = (a - c) ^ _rotate(c, bits)
        c = c + b
        a, b, c = b, c, a
    return a, b, c
