"""How a replica stores one user's overrides: the bytes that the SQL function `user_states` makes.

Big-endian: a word of 64 bits, version × 2^20 + number of overrides; a word of 32 bits for each override
(segment id, + 2^30 with a term, + 2^31 for an exclusion); a word of 64 bits for each term, its end in
microseconds since 1970.
"""

import struct
from functools import lru_cache
from typing import Final

HAS_TERM: Final = 1 << 30
EXCLUDED: Final = 1 << 31
SEGMENT_BITS: Final = HAS_TERM - 1

_COUNT_BITS: Final = 20
_HEAD: Final = struct.Struct(">Q")
_WORD_BYTES: Final = 4


def version_of(state: bytes) -> int:
    """The version of the user that the state shows; a higher one is newer."""
    head: int = _HEAD.unpack_from(state)[0]
    return head >> _COUNT_BITS


def is_as_new(state: bytes, other: bytes) -> bool:
    """Whether a state is of the same version of the user as another, or of a later one."""
    # The version is in the upper bits of the first word.
    return state[: _HEAD.size] >= other[: _HEAD.size] or version_of(state) == version_of(other)


def words_and_ends(state: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The word of each override, by segment id, and the ends of their terms, in the same order.

    Raises ValueError for a state that is torn.
    """
    try:
        count = _HEAD.unpack_from(state)[0] & ((1 << _COUNT_BITS) - 1)
        begin = _HEAD.size + _WORD_BYTES * count
        words = _numbers("I", count).unpack(state[_HEAD.size : begin])
        terms = len([word for word in words if word & HAS_TERM])
        return words, _numbers("q", terms).unpack(state[begin:])
    except struct.error as error:
        raise ValueError("a state is torn") from error


def next_end(state: bytes, now: int) -> int | None:
    """The next end of a term after `now`, both in microseconds since 1970; None if there is none."""
    _, ends = words_and_ends(state)
    return min((end for end in ends if end > now), default=None)


@lru_cache
def _numbers(kind: str, count: int) -> struct.Struct:
    return struct.Struct(f">{count}{kind}")
