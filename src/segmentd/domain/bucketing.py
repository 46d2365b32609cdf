"""Buckets and thresholds: who is in a percentage.

`bucket(user_id, salt)` is the low 32 bits of PostgreSQL's `hashint8extended(user_id, salt)`
(src/backend/access/hash/hashfunc.c; the mixing is Bob Jenkins' lookup3, src/common/hashfn.c).
SQL has the same function; tests hold the two together.

The hash folds a 64-bit id to 32 bits first, so ids whose folded halves coincide share all their buckets.
"""

from decimal import Decimal
from typing import Final, NewType

import numpy as np
from numpy.typing import NDArray

Bucket = NewType("Bucket", int)
"""Where a user falls in a rollout: 0 to 2^32 - 1."""

Threshold = NewType("Threshold", int)
"""The first bucket that is outside of a rollout: 0 to 2^32."""

BUCKETS: Final = 2**32

# 0x9e3779b9 + sizeof(uint32) + 3923095: how PostgreSQL starts the hash of one 32-bit word.
_START: Final = np.uint32(0x9E3779B9 + 4 + 3923095)


def threshold(percent: Decimal) -> Threshold:
    """`floor(percent / 100 * 2^32)` for a percentage from 0 to 100, exactly."""
    return Threshold(int(percent * BUCKETS / 100))


def fold(user_ids: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The 32 bits of each id that the hash looks at (`hashint8extended`)."""
    low = user_ids.astype(np.uint32)
    high = (user_ids >> np.int64(32)).astype(np.uint32)
    return low ^ np.where(user_ids >= 0, high, ~high)


class Salted:
    """The part of the hash that depends on the salts alone, computed once for many users.

    `salts` has the shape (n,), dtype int64. Not for several threads at once: it has buffers of its own.
    """

    def __init__(self, salts: NDArray[np.int64]) -> None:
        seeds = salts.view(np.uint64)
        high = (seeds >> np.uint64(32)).astype(np.uint32)
        low = seeds.astype(np.uint32)
        start = np.full(salts.shape, _START, dtype=np.uint32)
        mixed_a, mixed_b, mixed_c = _mix(start + high, start + low, start.copy())
        # PostgreSQL skips the first mixing when the seed is 0.
        seeded = seeds != 0
        self._a = np.where(seeded, mixed_a, start)
        self._b = np.where(seeded, mixed_b, start)
        c = np.where(seeded, mixed_c, start)
        # The first step of the last mixing does not see the user yet.
        self._c = (c ^ self._b) - _rotate(self._b, 14)
        self._rotated_c = _rotate(self._c, 11)
        self._buffers = tuple(np.empty_like(start) for _ in range(4))

    def buckets(self, folded: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The buckets of folded ids; shapes broadcast against (n,), so (m, 1) gives (m, n)."""
        a = self._a + folded
        return _finish(
            a, np.empty_like(a), np.empty_like(a), np.empty_like(a), self._b, self._c, self._rotated_c
        )

    def buckets_of(self, folded: int) -> NDArray[np.uint32]:
        """The buckets of one folded id, of the shape (n,); valid until the next call."""
        a, b, c, scratch = self._buffers
        np.add(self._a, np.uint32(folded), a)
        return _finish(a, b, c, scratch, self._b, self._c, self._rotated_c)


def buckets(user_ids: NDArray[np.int64], salts: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The bucket of each pair of user id and salt; both of the shape (n,), dtype int64."""
    return Salted(salts).buckets(fold(user_ids))


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


def _finish(
    a: NDArray[np.uint32],
    b: NDArray[np.uint32],
    c: NDArray[np.uint32],
    scratch: NDArray[np.uint32],
    salted_b: NDArray[np.uint32],
    salted_c: NDArray[np.uint32],
    rotated_c: NDArray[np.uint32],
) -> NDArray[np.uint32]:
    """The last mixing, in place from its second step on; gives `c`."""
    np.bitwise_xor(a, salted_c, a)
    np.subtract(a, rotated_c, a)
    _stir(np.bitwise_xor(salted_b, a, b), a, 25, scratch)
    _stir(np.bitwise_xor(salted_c, b, c), b, 16, scratch)
    _stir(np.bitwise_xor(a, c, a), c, 4, scratch)
    _stir(np.bitwise_xor(b, a, b), a, 14, scratch)
    _stir(np.bitwise_xor(c, b, c), b, 24, scratch)
    return c


def _stir(x: NDArray[np.uint32], y: NDArray[np.uint32], bits: int, scratch: NDArray[np.uint32]) -> None:
    """`x -= rotate(y, bits)`: the two parts of a rotation share no bit, so each is taken off in turn."""
    left, right = _SHIFTS[bits]
    np.left_shift(y, left, scratch)
    np.subtract(x, scratch, x)
    np.right_shift(y, right, scratch)
    np.subtract(x, scratch, x)


_SHIFTS: Final = {
    bits: (np.array(bits, np.uint32), np.array(32 - bits, np.uint32)) for bits in (25, 16, 4, 14, 24)
}
