"""The living segments as answers need them: ranked by slug, with their rollouts ready to be computed."""

from collections.abc import Sequence
from typing import cast

import msgspec
import numpy as np

from segmentd.domain.rollouts import Rollouts
from segmentd.replica.states import EXCLUDED, HAS_TERM, SEGMENT_BITS, ends_of, words_of


class ReplicatedSegment(msgspec.Struct, frozen=True, array_like=True):
    """A living segment; `threshold` is None where it has no percentage."""

    id: int
    slug: str
    salt: int
    threshold: int | None


class CatalogState(msgspec.Struct, frozen=True, array_like=True):
    """All living segments under one version of the catalog, as a copy keeps them."""

    version: int
    segments: Sequence[ReplicatedSegment]


class Catalog:
    """Answers who is in what. A rank is a segment's place among all, sorted bytewise by slug."""

    def __init__(self, state: CatalogState) -> None:
        self.version = state.version
        ranked = sorted(state.segments, key=lambda segment: segment.slug.encode())
        # Slugs hold nothing that JSON has to escape.
        self.slugs = [f'"{segment.slug}"'.encode() for segment in ranked]
        self._rank_of = {segment.id: rank for rank, segment in enumerate(ranked)}
        rolled_out = [(rank, s.salt, s.threshold) for rank, s in enumerate(ranked) if s.threshold]
        self._rollout_ranks = np.array([rank for rank, _, _ in rolled_out], dtype=np.intp)
        self._rollouts = Rollouts([salt for _, salt, _ in rolled_out], [limit for _, _, limit in rolled_out])

    def knows(self, state: bytes) -> bool:
        """Whether every segment of a state is among these."""
        return all(word & SEGMENT_BITS in self._rank_of for word in words_of(state))

    def ranks(self, user_id: int, state: bytes | None, now: int) -> list[int]:
        """The ranks of the segments that the user is in at `now` (microseconds since 1970), ascending."""
        covered: list[int] = self._rollout_ranks[self._rollouts.covering(user_id)].tolist()
        return covered if state is None else self._decided(covered, state, now)

    def ranks_of_many(
        self, user_ids: Sequence[int], states: Sequence[bytes | None], now: int
    ) -> list[list[int]]:
        """`ranks` for many users, in their order."""
        covered = self._rollouts.covering_many(np.array(user_ids, dtype=np.int64))
        rows, columns = covered.nonzero()
        ranks = self._rollout_ranks[columns].tolist()
        bounds = np.searchsorted(rows, np.arange(len(user_ids) + 1)).tolist()
        return [
            ranks[begin:end] if state is None else self._decided(ranks[begin:end], state, now)
            for begin, end, state in zip(bounds, bounds[1:], states, strict=False)
        ]

    def _decided(self, covered: list[int], state: bytes, now: int) -> list[int]:
        """An override that holds decides, else the rollout."""
        words = words_of(state)
        rank_of = self._rank_of.get
        if not words or max(words) < HAS_TERM:
            # Most users: pins for good, and nothing else.
            return _ascending({*covered, *map(rank_of, words)})
        ends = ends_of(state, len(words))
        ranks: set[int | None] = set(covered)
        for word in words:
            if word < HAS_TERM:
                ranks.add(rank_of(word))
            elif word & EXCLUDED:
                ranks.discard(rank_of(word & SEGMENT_BITS))
            elif next(ends) > now:
                ranks.add(rank_of(word & SEGMENT_BITS))
        return _ascending(ranks)


def _ascending(ranks: set[int | None]) -> list[int]:
    """In order; None, the rank of segments that live no more, is none."""
    ranks.discard(None)
    return sorted(cast("set[int]", ranks))
