"""The segments of many users from a replica, a part at a time: other requests are answered in between."""

import asyncio
from collections.abc import Mapping, Sequence
from operator import mul
from typing import Final, NamedTuple

from segmentd.domain.errors import AnswerTooLarge
from segmentd.domain.memberships import LARGEST_LOOKUP_BYTES
from segmentd.replica.catalog import Catalog
from segmentd.replica.files import Unusable

# A read of more bytes than this is large, such as one of a thousand users with a thousand overrides each.
LARGE_BYTES: Final = 4 * 2**20


class Lookup(NamedTuple):
    """Different users, their states, and the segments of the same moment."""

    catalog: Catalog
    user_ids: Sequence[int]
    states: Sequence[bytes | None]
    now: int

    @property
    def large(self) -> bool:
        """Whether a process should compute only one lookup of this size at a time."""
        return sum(map(len, filter(None, self.states))) > LARGE_BYTES

    async def segments(self, times: Mapping[int, int]) -> list[bytes]:
        """For each user: the slugs as JSON strings, with commas between. Raises AnswerTooLarge, Unusable.

        `times` is how often each user is in the answer. The computation stops as soon as the answer is known
        to be too large.
        """
        found: list[bytes] = []
        size, repeated = 0, max(times.values(), default=1) > 1
        for part in self.catalog.slices(self.states):
            if found:
                await asyncio.sleep(0)
            user_ids = self.user_ids[part]
            try:
                slugs = self.catalog.segments_of_slice(user_ids, self.states[part], self.now)
            except ValueError as error:
                raise Unusable(str(error)) from error
            sizes = map(len, slugs)
            size += sum(map(mul, sizes, map(times.__getitem__, user_ids)) if repeated else sizes)
            if size > LARGEST_LOOKUP_BYTES:
                raise AnswerTooLarge(LARGEST_LOOKUP_BYTES)
            found += slugs
        return found
