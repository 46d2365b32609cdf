"""The kernel for installations without a compiler."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from segmentd.domain.decisions import Decision
from segmentd.replica.kernel import Plan
from segmentd.replica.rollouts import Rollouts
from segmentd.replica.states import EXCLUDED, HAS_TERM, SEGMENT_BITS, words_and_ends


class NumpyKernels:
    """Makes them. A table has a cell for each rank, and a last one for overrides of deleted segments."""

    name: ClassVar[str] = "numpy"

    def __init__(self, plan: Plan) -> None:
        self.undecided = plan.undecided + bytes(1)
        self.rollouts = Rollouts(plan.salts, plan.thresholds)
        self.rollout_ranks = np.array(plan.rollout_ranks, dtype=np.intp)
        self._rank_of = {segment_id: rank for rank, segment_id in enumerate(plan.ids)}

    def kernel(self, pieces: Sequence[bytes], separator: bytes) -> "NumpyKernel":
        """One that joins these pieces, by rank, with a separator between two."""
        return NumpyKernel(self, pieces, separator)

    def override(
        self,
        cells: bytearray,
        first: int,
        state: bytes,
        now: int,
        included: int = 1,
        excluded: int = 0,
    ) -> None:
        """Applies the overrides that hold: they win over rollouts. The row begins at the cell `first`."""
        rank_of = self._rank_of.get
        nowhere = len(self._rank_of)
        words, terms = words_and_ends(state)
        ends = iter(terms)
        for word in words:
            if word < HAS_TERM:  # most overrides are inclusions without a term
                cells[first + rank_of(word, nowhere)] = included
            elif not word & HAS_TERM or next(ends) > now:
                rank = rank_of(word & SEGMENT_BITS, nowhere)
                cells[first + rank] = included if word < EXCLUDED else excluded
        cells[first + nowhere] = 0


class NumpyKernel:
    """A kernel."""

    def __init__(self, shared: NumpyKernels, pieces: Sequence[bytes], separator: bytes) -> None:
        self._shared = shared
        self._pieces = np.array(pieces, dtype=np.object_)
        self._separator = separator
        self._width = len(pieces) + 1
        self._cells = bytearray(self._width)
        self._row = np.frombuffer(self._cells, dtype=np.bool_)

    def codes(self, user_id: int, state: bytes | None, now: int, /) -> bytes:
        """The number of the decision about the user and each segment, by rank."""
        shared = self._shared
        cells = bytearray(shared.undecided)
        codes = np.frombuffer(cells, dtype=np.uint8)
        codes[shared.rollout_ranks] += shared.rollouts.covering(user_id)
        if state is not None:
            shared.override(cells, 0, state, now, Decision.INCLUDED, Decision.EXCLUDED)
        return bytes(codes[:-1])

    def join(self, user_id: int, state: bytes | None, now: int, before: bytes, after: bytes, /) -> bytes:
        """The pieces of the segments that the user is in, by rank, between `before` and `after`."""
        shared, row = self._shared, self._row
        row[:] = False
        row[shared.rollout_ranks] = shared.rollouts.covering(user_id)
        if state is not None:
            shared.override(self._cells, 0, state, now)
        return b"%b%b%b" % (before, self._separator.join(self._pieces[row.nonzero()[0]].tolist()), after)

    def join_many(self, user_ids: Sequence[int], states: Sequence[bytes | None], now: int) -> list[bytes]:
        """`join` for several users, with nothing before or after: a table with a row for each."""
        cells = bytearray(len(user_ids) * self._width)
        table: NDArray[np.bool_] = np.frombuffer(cells, dtype=np.bool_).reshape(-1, self._width)
        covered = self._shared.rollouts.covering_many(np.array(user_ids, dtype=np.int64))
        table[:, self._shared.rollout_ranks] = covered
        for row, state in enumerate(states):
            if state is not None:
                self._shared.override(cells, row * self._width, state, now)
        rows, ranks = table.nonzero()
        pieces = self._pieces[ranks].tolist()
        bounds = np.searchsorted(rows, np.arange(len(user_ids) + 1)).tolist()
        return [self._separator.join(pieces[begin:end]) for begin, end in pairwise(bounds)]
