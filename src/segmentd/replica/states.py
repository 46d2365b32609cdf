"""How a replica stores one user's overrides: the bytes that the SQL function `user_states` makes.

Big-endian: a word of 64 bits, version × 2^20 + number of overrides; a word of 32 bits for each override
(segment id, + 2^30 with a term, + 2^31 for an exclusion); a word of 64 bits for each term, its end in
microseconds since 1970.
"""

import struct
from collections.abc import Iterator
from functools import cache
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


def words_of(state: bytes) -> tuple[int, ...]:
    """The word of each override, by segment id."""
    count = _HEAD.unpack_from(state)[0] & ((1 << _COUNT_BITS) - 1)
    return _words(count).unpack_from(state, _HEAD.size)


def ends_of(state: bytes, count: int) -> Iterator[int]:
    """The ends of the terms of those overrides that have one, in the order of the overrides."""
    for (end,) in struct.iter_unpack(">q", state[_HEAD.size + _WORD_BYTES * count :]):
        yield end


def override_of(state: bytes, segment_id: int, now: int) -> bool | None:
    """Whether the override of this segment includes the user; None if none holds at `now`."""
    words = words_of(state)
    if segment_id in words:
        return True
    if segment_id + EXCLUDED in words:
        return False
    if segment_id + HAS_TERM not in words:
        return None
    terms = [word for word in words if word & HAS_TERM]
    end = [*ends_of(state, len(words))][terms.index(segment_id + HAS_TERM)]
    return True if end > now else None


def next_end(state: bytes, now: int) -> int | None:
    """The next end of a term after `now`, both in microseconds since 1970; None if there is none."""
    return min((end for end in ends_of(state, len(words_of(state))) if end > now), default=None)


@cache
def _words(count: int) -> struct.Struct:
    return struct.Struct(f">{count}I")
