"""Which of many rollouts cover a user: the hot computation, over all rollouts at once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segmentd.domain.bucketing import Salted, fold


class Rollouts:
    """Some rollouts, prepared: `salts` and `thresholds` have the shape (n,); every threshold is 1 or more."""

    def __init__(self, salts: Sequence[int], thresholds: Sequence[int]) -> None:
        self._salted = Salted(np.array(salts, dtype=np.int64))
        # A threshold of 2^32 does not fit into 32 bits; the last bucket that is inside does.
        self._last_inside = np.array([threshold - 1 for threshold in thresholds], dtype=np.uint32)

    def covering(self, user_id: int) -> NDArray[np.intp]:
        """The positions of the rollouts that cover the user, ascending."""
        buckets = self._salted.buckets_of(fold_one(user_id))
        return (buckets <= self._last_inside).nonzero()[0]

    def covering_many(self, user_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """For user ids of the shape (m,): whether each is covered by each rollout, of the shape (m, n)."""
        covered: NDArray[np.bool_] = self._salted.buckets(fold(user_ids)[:, None]) <= self._last_inside
        return covered


def fold_one(user_id: int) -> int:
    """The 32 bits of one positive id that the hash looks at."""
    return (user_id ^ (user_id >> 32)) & 0xFFFFFFFF
