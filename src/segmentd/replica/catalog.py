"""The living segments as answers need them: ranked by slug, with kernels that compute who is in them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from segmentd.domain.decisions import Decision, Decisions, Fingerprints
from segmentd.domain.identifiers import Slug
from segmentd.replica import kernel
from segmentd.replica.kernel import Kernel, Kernels, Plan
from segmentd.storage.replication import ReplicatedSegment

# The size of one part of a computation, of a millisecond or two: users, cells of the table, bytes of states.
# With a hundred rollouts, the intermediate arrays stay in the processor's cache.
SLICE_USERS: Final = 256
SLICE_CELLS: Final = 2**17
SLICE_BYTES: Final = 2**16


class Form(NamedTuple):
    """How a door writes the segments of a user."""

    piece: Callable[[bytes], bytes]
    """Makes of a slug, as a JSON string, what is sent."""
    separator: bytes
    """Stands between two."""


_DECISIONS: Final = sorted(Decision)

JSON: Final = Form(bytes, b",")
_NAMES: Final = Form(lambda slug: slug[1:-1], b",")


class CatalogState(msgspec.Struct, frozen=True, array_like=True):
    """All living segments under one version of the catalog, as a replica stores them."""

    version: int
    segments: Sequence[ReplicatedSegment]


class Catalog:
    """Answers which segments users are in, and by what decision. Not safe for several threads.

    A rank is a segment's place among all, sorted bytewise by slug. A state that is torn raises ValueError.
    """

    def __init__(self, state: CatalogState, kernels: type[Kernels] = kernel.BEST) -> None:
        ranked = sorted(state.segments, key=lambda segment: segment.slug.encode())
        self.version = state.version
        # Slugs have no characters that JSON has to escape.
        self.slugs = [f'"{segment.slug}"'.encode() for segment in ranked]
        """As JSON strings, by rank."""
        self._rank_of = {segment.slug.encode(): rank for rank, segment in enumerate(ranked)}
        self._kernels = kernels(Plan.of(ranked))
        self._in_form: dict[Form, Kernel] = {}
        self._in_json = self.kernel(JSON)
        self._fingerprints = Fingerprints(self.slugs)

    def kernel(self, form: Form) -> Kernel:
        """The kernel that joins slugs in a form; the pieces are made once."""
        found = self._in_form.get(form)
        if found is None:
            pieces = [form.piece(slug) for slug in self.slugs]
            found = self._in_form[form] = self._kernels.kernel(pieces, form.separator)
        return found

    def names(self, user_id: int, state: bytes | None, now: int) -> list[Slug]:
        """The slugs of the segments that the user is in at `now` (microseconds since 1970), ascending."""
        joined = self.kernel(_NAMES).join(user_id, state, now, b"", b"").decode()
        return [*map(Slug, joined.split(","))] if joined else []

    def decisions(self, user_id: int, state: bytes | None, now: int) -> Decisions:
        """What decides about the user and each segment, by slug, at `now` (microseconds since 1970)."""
        return Decisions(self.slugs, self._in_json.codes(user_id, state, now))

    def fingerprint(self, user_id: int, state: bytes | None, now: int) -> bytes:
        """A short value that changes with the decisions about the user, and with nothing else."""
        return self._fingerprints.of(self._in_json.codes(user_id, state, now))

    def decision(self, slug: bytes, user_id: int, state: bytes | None, now: int) -> Decision | None:
        """What decides about the user and the segment with this slug; None if there is no such segment."""
        rank = self._rank_of.get(slug)
        return None if rank is None else _DECISIONS[self._in_json.codes(user_id, state, now)[rank]]

    def slices(self, states: Sequence[bytes | None]) -> Iterator[slice]:
        """Divides users with these states into parts, each of which is computed at once."""
        most_users = max(1, min(SLICE_USERS, SLICE_CELLS // (len(self.slugs) + 1)))
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
    ) -> list[bytes]:
        """For each of several users, in their order: the slugs as JSON strings, with commas between."""
        return self._in_json.join_many(user_ids, states, now)
