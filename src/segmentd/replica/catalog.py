"""The living segments as answers need them: ranked by slug, with their rollouts prepared."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from segmentd.domain.decisions import Decision, Decisions, Fingerprints
from segmentd.domain.identifiers import Slug
from segmentd.replica.rollouts import Rollouts
from segmentd.replica.states import EXCLUDED, HAS_TERM, SEGMENT_BITS, ends_of, override_of, words_of
from segmentd.storage.replication import ReplicatedSegment

# The size of one part of a computation, of a millisecond or two: users, cells of the table, bytes of states.
# With a hundred rollouts, the intermediate arrays stay in the processor's cache.
SLICE_USERS: Final = 256
SLICE_CELLS: Final = 2**17
SLICE_BYTES: Final = 2**16


Form = Callable[[bytes], bytes]
"""Makes of a slug, as a JSON string, what a door sends."""


class CatalogState(msgspec.Struct, frozen=True, array_like=True):
    """All living segments under one version of the catalog, as a replica stores them."""

    version: int
    segments: Sequence[ReplicatedSegment]


class Catalog:
    """Answers which segments users are in, and by what decision.

    A rank is a segment's place among all, sorted bytewise by slug.

    Not safe for several threads: all answers use one table, which has a row for each user, with a cell for
    each rank and a last cell for overrides of deleted segments.
    """

    def __init__(self, state: CatalogState) -> None:
        ranked = sorted(state.segments, key=lambda segment: segment.slug.encode())
        self.version = state.version
        self._names = np.array([Slug(segment.slug) for segment in ranked], dtype=np.object_)
        # As JSON strings: slugs have no characters that JSON has to escape.
        self.slugs = [f'"{segment.slug}"'.encode() for segment in ranked]
        """As JSON strings, by rank."""
        self._slugs = np.array(self.slugs, dtype=np.object_)
        self._forms: dict[Form, NDArray[np.object_]] = {}
        self._rank_of = {segment.id: rank for rank, segment in enumerate(ranked)}
        self._by_slug = {segment.slug.encode(): segment for segment in ranked}
        rolled_out = [(rank, s.salt, s.threshold) for rank, s in enumerate(ranked) if s.threshold]
        self._rollout_ranks = np.array([rank for rank, _, _ in rolled_out], dtype=np.intp)
        self._rollouts = Rollouts([salt for _, salt, _ in rolled_out], [limit for _, _, limit in rolled_out])
        self._place_of = {ranked[rank].id: place for place, (rank, _, _) in enumerate(rolled_out)}
        self._undecided = bytes(
            Decision.NONE if segment.threshold is None else Decision.UNCOVERED for segment in ranked
        ) + bytes(1)
        self._fingerprints = Fingerprints(self.slugs)
        self._width = len(ranked) + 1
        self._cells = bytearray(self._width)
        self._row = np.frombuffer(self._cells, dtype=np.bool_)

    def segments(self, user_id: int, state: bytes | None, now: int, form: Form | None = None) -> list[bytes]:
        """The slugs, as JSON strings, that the user is in at `now` (microseconds since 1970), ascending.

        With a form, what it makes of each: once, and not again until the segments are others.
        """
        slugs = self._slugs if form is None else self._in_form(form)
        found: list[bytes] = slugs[self._ranks(user_id, state, now)].tolist()
        return found

    def _in_form(self, form: Form) -> NDArray[np.object_]:
        if form not in self._forms:
            self._forms[form] = np.array([form(slug) for slug in self.slugs], dtype=np.object_)
        return self._forms[form]

    def names(self, user_id: int, state: bytes | None, now: int) -> list[Slug]:
        """The same slugs as they are."""
        names: list[Slug] = self._names[self._ranks(user_id, state, now)].tolist()
        return names

    def _ranks(self, user_id: int, state: bytes | None, now: int) -> NDArray[np.intp]:
        row = self._row
        row[:] = False
        row[self._rollout_ranks] = self._rollouts.covering(user_id)
        if state is not None:
            self._override(self._cells, 0, state, now)
        return row.nonzero()[0]

    def decisions(self, user_id: int, state: bytes | None, now: int) -> Decisions:
        """What decides about the user and each segment, by slug, at `now` (microseconds since 1970)."""
        cells = bytearray(self._undecided)
        codes = np.frombuffer(cells, dtype=np.uint8)
        codes[self._rollout_ranks] += self._rollouts.covering(user_id)
        if state is not None:
            self._override(cells, 0, state, now, Decision.INCLUDED, Decision.EXCLUDED)
        return Decisions(self.slugs, codes[:-1])

    def fingerprint(self, user_id: int, state: bytes | None, now: int) -> bytes:
        """A short value that changes with the decisions about the user, and with nothing else."""
        return self._fingerprints.of(self.decisions(user_id, state, now).codes)

    def decision(self, slug: bytes, user_id: int, state: bytes | None, now: int) -> Decision | None:
        """What decides about the user and the segment with this slug; None if there is no such segment."""
        segment = self._by_slug.get(slug)
        if segment is None:
            return None
        included = None if state is None else override_of(state, segment.id, now)
        if included is not None:
            return Decision.INCLUDED if included else Decision.EXCLUDED
        if segment.threshold is None:
            return Decision.NONE
        place = self._place_of.get(segment.id)
        covered = place is not None and self._rollouts.covers(user_id, place)
        return Decision.COVERED if covered else Decision.UNCOVERED

    def slices(self, states: Sequence[bytes | None]) -> Iterator[slice]:
        """Divides users with these states into parts, each of which is computed at once."""
        most_users = max(1, min(SLICE_USERS, SLICE_CELLS // self._width))
        if max(map(len, filter(None, states)), default=0) * most_users <= SLICE_BYTES:
            ends = (*range(most_users, len(states), most_users), len(states))
            yield from map(slice, range(0, len(states), most_users), ends)
            return
        begin = weight = 0
        for place, state in enumerate(states):
            weight += len(state or b"")
            if place > begin and (place - begin == most_users or weight > SLICE_BYTES):
                yield slice(begin, place)
                begin, weight = place, len(state or b"")
        yield slice(begin, len(states))

    def segments_of_slice(
        self, user_ids: Sequence[int], states: Sequence[bytes | None], now: int
    ) -> Iterator[list[bytes]]:
        """`segments` for several users, in their order."""
        cells = bytearray(len(user_ids) * self._width)
        table = np.frombuffer(cells, dtype=np.bool_).reshape(-1, self._width)
        table[:, self._rollout_ranks] = self._rollouts.covering_many(np.array(user_ids, dtype=np.int64))
        for row, state in enumerate(states):
            if state is not None:
                self._override(cells, row * self._width, state, now)
        rows, ranks = table.nonzero()
        slugs = self._slugs[ranks].tolist()
        bounds = np.searchsorted(rows, np.arange(len(user_ids) + 1)).tolist()
        return (slugs[begin:end] for begin, end in pairwise(bounds))

    def _override(
        self, cells: bytearray, first: int, state: bytes, now: int, included: int = 1, excluded: int = 0
    ) -> None:
        """Applies the overrides that hold: they win over rollouts. The row begins at the cell `first`."""
        rank_of = self._rank_of.get
        nowhere = self._width - 1
        words = words_of(state)
        ends = ends_of(state, len(words))
        for word in words:
            if word < HAS_TERM:  # most overrides are inclusions without a term
                cells[first + rank_of(word, nowhere)] = included
            elif not word & HAS_TERM or next(ends) > now:
                rank = rank_of(word & SEGMENT_BITS, nowhere)
                cells[first + rank] = included if word < EXCLUDED else excluded
        cells[first + nowhere] = 0
