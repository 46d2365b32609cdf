"""The kernel in C (_kernel.c); importing this fails where it was not compiled."""

from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar

import numpy as np

from segmentd.domain.bucketing import Salted
from segmentd.replica._kernel import Kernel as KernelInC
from segmentd.replica.kernel import Plan


class CompiledKernel(KernelInC):
    """A kernel."""

    __slots__ = ()

    def join_many(self, user_ids: Sequence[int], states: Sequence[bytes | None], now: int) -> list[bytes]:
        """`join` for several users, with nothing before or after."""
        join = self.join
        return [join(user_id, state, now, b"", b"") for user_id, state in zip(user_ids, states, strict=True)]


class CompiledKernels:
    """Makes them."""

    name: ClassVar[str] = "compiled"

    def __init__(self, plan: Plan) -> None:
        by_id = sorted(zip(plan.ids, range(len(plan.ids)), strict=True))
        # A threshold of 2^32 does not fit into 32 bits, so compare with the last bucket that is covered.
        last_inside = [threshold - 1 for threshold in plan.thresholds]
        self._parts = (
            plan.undecided,
            _words([segment_id for segment_id, _ in by_id]),
            _words([rank for _, rank in by_id]),
            b"".join(part.tobytes() for part in Salted(np.array(plan.salts, np.int64)).parts)
            + _words(last_inside),
            _words(plan.rollout_ranks),
        )

    def kernel(self, pieces: Sequence[bytes], separator: bytes) -> CompiledKernel:
        """One that joins these pieces, by rank, with a separator between two."""
        separated = [separator + piece for piece in pieces]
        ends = _words([*accumulate(map(len, separated))])
        return CompiledKernel(*self._parts, b"".join(separated), ends, len(separator))


def _words(numbers: Sequence[int]) -> bytes:
    return np.array(numbers, np.uint32).tobytes()
