"""Which users a percentage covers, computed bit for bit as the service does.

`bucket(user_id, salt)` is the low 32 bits of PostgreSQL's `hashint8extended(user_id, salt)`; a user is
covered when the bucket is below the threshold of the percentage. It takes some microseconds for a segment.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from segmentd_client.models import Segment

BUCKETS: Final = 2**32
_MASK: Final = BUCKETS - 1
# 0x9e3779b9 + sizeof(uint32) + 3923095: how PostgreSQL starts the hash of one 32-bit word.
_START: Final = (0x9E3779B9 + 4 + 3923095) & _MASK


def threshold(percent: float | Decimal) -> int:
    """The first bucket that is outside: `floor(percent / 100 * 2^32)`, exactly."""
    # The shortest form of a float is the number that the service sent.
    return int(Decimal(str(percent)) * BUCKETS / 100)


def bucket(user_id: int, salt: int) -> int:
    """Where a user falls in the rollout of a segment with this salt: 0 to 2^32 - 1."""
    return finish(fold(user_id), salted(salt))


def fold(user_id: int) -> int:
    """The 32 bits of an id that the hash uses."""
    high = user_id >> 32
    return (user_id ^ (high if user_id >= 0 else ~high)) & _MASK


def salted(salt: int) -> tuple[int, int, int]:
    """The part of the hash that depends on the salt alone."""
    seed = salt & (2**64 - 1)
    a = b = c = _START
    if seed:  # PostgreSQL skips the first mixing when the seed is 0
        a, b = (a + (seed >> 32)) & _MASK, (b + seed) & _MASK
        for bits in (4, 6, 8, 16, 19, 4):
            a = ((a - c) & _MASK) ^ _rotated(c, bits)
            c = (c + b) & _MASK
            a, b, c = b, c, a
    return a, b, c


def finish(folded: int, parts: tuple[int, int, int]) -> int:
    """The last mixing, with the user in it: the bucket."""
    a, b, c = parts
    a = (a + folded) & _MASK
    c = ((c ^ b) - _rotated(b, 14)) & _MASK
    a = ((a ^ c) - _rotated(c, 11)) & _MASK
    b = ((b ^ a) - _rotated(a, 25)) & _MASK
    c = ((c ^ b) - _rotated(b, 16)) & _MASK
    a = ((a ^ c) - _rotated(c, 4)) & _MASK
    b = ((b ^ a) - _rotated(a, 14)) & _MASK
    return ((c ^ b) - _rotated(b, 24)) & _MASK


def _rotated(word: int, bits: int) -> int:
    return ((word << bits) | (word >> (32 - bits))) & _MASK


class Rollouts:
    """The percentages of all segments, prepared for many users."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._prepared: Mapping[str, tuple[tuple[int, int, int], int]] = {
            each.slug: (salted(int(each.salt)), threshold(each.percent))
            for each in sorted(segments, key=lambda each: each.slug.encode())
            if each.percent is not None
        }

    def covers(self, user_id: int, slug: str) -> bool:
        """Whether the percentage of a segment covers the user; False without one."""
        prepared = self._prepared.get(slug)
        return prepared is not None and finish(fold(user_id), prepared[0]) < prepared[1]

    def of(self, user_id: int) -> Sequence[str]:
        """The slugs of all segments whose percentage covers the user, sorted bytewise."""
        folded = fold(user_id)
        return [slug for slug, (parts, most) in self._prepared.items() if finish(folded, parts) < most]
