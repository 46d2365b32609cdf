"""Which of many rollouts cover a user, computed for all rollouts at once (docs/decisions/0022, 0033)."""

import os
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segmentd.domain.bucketing import Salted, Word, finish, fold

# numexpr reads this when it is imported. So few words are not worth a second thread. Without it numexpr reads
# OMP_NUM_THREADS, and fails if that is a list.
os.environ["NUMEXPR_NUM_THREADS"] = "1"

import numexpr
from numexpr.expressions import VariableNode

_SIGN: Final = 1 << 31


class Rollouts:
    """Some rollouts, prepared: `salts` and `thresholds` have the shape (n,); every threshold is 1 or more."""

    def __init__(self, salts: Sequence[int], thresholds: Sequence[int]) -> None:
        self._salted = Salted(np.array(salts, dtype=np.int64))
        # A threshold of 2^32 does not fit into 32 bits, so compare with the last bucket that is covered.
        self._last_inside = np.array([threshold - 1 for threshold in thresholds], dtype=np.uint32)
        self._covers = _compiled()
        self._prepared = tuple(
            each.view(np.int32) for each in (*self._salted.parts, self._last_inside ^ np.uint32(_SIGN))
        )

    def covering(self, user_id: int) -> NDArray[np.bool_]:
        """For one positive user id: whether it is covered by each rollout, of the shape (n,)."""
        covered: NDArray[np.bool_] = self._covers(*self._prepared, fold_one(user_id))
        return covered

    def covering_many(self, user_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """For user ids of the shape (m,): whether each is covered by each rollout, of the shape (m, n)."""
        covered: NDArray[np.bool_] = self._salted.buckets(fold(user_ids)[:, None]) <= self._last_inside
        return covered


def fold_one(user_id: int) -> int:
    """The 32 bits of one positive id that the hash uses, as a signed number."""
    return (((user_id ^ (user_id >> 32)) & 0xFFFFFFFF) ^ _SIGN) - _SIGN


@cache
def _compiled() -> numexpr.NumExpr:
    """`finish` and the comparison for one user in one call: each call of NumPy costs more than it computes.

    numexpr has no unsigned words. Sums and differences have the same bits as with signed ones; with the
    highest bit inverted, the order is the same too.
    """

    def rotate(word: Word, bits: int) -> Word:
        return (word << bits) | ((word >> (32 - bits)) & ((1 << bits) - 1))

    names = ("a", "b", "c", "rotated_c", "last_inside", "folded")
    *parts, last_inside, folded = (VariableNode(name, "int") for name in names)
    covered = (finish(folded, tuple(parts), rotate) ^ -_SIGN) <= last_inside
    return numexpr.NumExpr(covered, [(name, np.int32) for name in names])
