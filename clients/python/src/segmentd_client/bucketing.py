"""Which users a percentage covers, computed bit for bit as the service does.

`bucket(user_id, salt)` is the low 32 bits of PostgreSQL's `hashint8extended(user_id, salt)`; a user is
covered when the bucket is below the threshold of the percentage. It takes some microseconds for a segment.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from segmentd_client.models import Segment

if TYPE_CHECKING:
    from segmentd_client.vectorized import Vectorized

BUCKETS: Final = 2**32
WORTH_NUMPY: Final = 16
"""From how many buckets on NumPy is quicker: some 50 microseconds for the first, against 4 for each."""

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
    """The percentages of all segments, prepared for many users. Uses NumPy if it is there and quicker."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._prepared: Mapping[str, tuple[tuple[int, int, int], int]] = {
            each.slug: (salted(int(each.salt)), threshold(each.percent))
            for each in sorted(segments, key=lambda each: each.slug.encode())
            if each.percent is not None
        }
        self._slugs = [*self._prepared]
        self._vectorized = _vectorized([*self._prepared.values()])

    def covers(self, user_id: int, slug: str) -> bool:
        """Whether the percentage of a segment covers the user; False without one."""
        prepared = self._prepared.get(slug)
        return prepared is not None and _covers(fold(user_id), *prepared)

    def covered(self, user_ids: Sequence[int], slug: str) -> Sequence[int]:
        """Those whom the percentage of a segment covers, in the given order; nobody without one."""
        prepared = self._prepared.get(slug)
        if prepared is None:
            return []
        if len(user_ids) >= WORTH_NUMPY and (vectorized := _vectorized([prepared])):
            return [user_ids[user] for user, _ in vectorized.of_many(user_ids)]
        return [user_id for user_id in user_ids if _covers(fold(user_id), *prepared)]

    def of(self, user_id: int) -> Sequence[str]:
        """The slugs of all segments whose percentage covers the user, sorted bytewise."""
        folded = fold(user_id)
        if len(self._prepared) >= WORTH_NUMPY and self._vectorized:
            return [self._slugs[segment] for segment in self._vectorized.of_one(folded)]
        return [slug for slug, prepared in self._prepared.items() if _covers(folded, *prepared)]

    def of_many(self, user_ids: Sequence[int]) -> Mapping[int, Sequence[str]]:
        """What `of` gives for each user."""
        if len(user_ids) * len(self._prepared) < WORTH_NUMPY or not self._vectorized:
            return {user_id: self.of(user_id) for user_id in user_ids}
        found: dict[int, list[str]] = {user_id: [] for user_id in user_ids}
        distinct = [*found]
        for user, segment in self._vectorized.of_many(distinct):
            found[distinct[user]].append(self._slugs[segment])
        return found


def _covers(folded: int, parts: tuple[int, int, int], most: int) -> bool:
    return finish(folded, parts) < most


def _vectorized(prepared: Sequence[tuple[tuple[int, int, int], int]]) -> "Vectorized | None":
    try:
        from segmentd_client.vectorized import Vectorized  # noqa: PLC0415 - NumPy may be missing, and loads slowly
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        return None
    return Vectorized([parts for parts, _ in prepared], [most for _, most in prepared])
