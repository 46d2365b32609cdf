"""What a client knows of the service, to answer by itself. No I/O; moments are passed in, in seconds."""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from segmentd_client.bucketing import Rollouts
from segmentd_client.errors import TooStale
from segmentd_client.jobs import ChangesPage, MembershipChange
from segmentd_client.models import Lookup, Segment

MOST_AT_ONCE: Final = 1000
"""Users of one lookup."""

AGAIN_S: Final = 1.0
"""How long an answer that is older than a known change is kept before it is asked for again."""


@dataclass
class _Known:
    """A user's segments as they were at `as_of`; `changed` is when the last change of them was heard of."""

    segments: Sequence[str]
    as_of: float
    asked_at: float
    changed: float


class LocalCopy:
    """The percentages of all segments, and the segments of the users who were asked for.

    An answer of the service may be some seconds old, and says so. It counts as level only if it is newer
    than the beginning of the copy and than every change that the feed told of this user or of any segment.
    """

    def __init__(self, max_age_s: float, most_users: int) -> None:
        self.max_age_s: Final = max_age_s
        self._most_users: Final = most_users
        self._known: OrderedDict[int, _Known] = OrderedDict()
        self._rollouts = Rollouts(())
        self._confirmed = -math.inf
        self._all_changed = -math.inf
        self.position = "now"

    def begin(self, position: str, segments: Sequence[Segment], now: float, asked_at: float) -> None:
        """Takes a position of the feed, and the segments, which were asked for after it."""
        self.position = position
        self._known.clear()
        self._all_changed = now
        self.renew(segments)
        self._confirmed = asked_at

    def renew(self, segments: Sequence[Segment]) -> None:
        """Takes the segments as they are now."""
        self._rollouts = Rollouts(segments)

    def changes_segments(self, page: ChangesPage) -> bool:
        """Whether a page of the feed needs the segments to be read again."""
        return any(not isinstance(change, MembershipChange) for change in page.changes)

    def take(self, page: ChangesPage, now: float, asked_at: float) -> None:
        """Takes a page of the feed; `asked_at` is when it was asked for."""
        if self.changes_segments(page):
            self._all_changed = now
        for change in page.changes:
            if isinstance(change, MembershipChange) and change.user_id in self._known:
                self._known[change.user_id].changed = now
        self.position = page.next
        self._confirmed = asked_at

    def age_s(self, now: float) -> float:
        """How old the copy is at most: for how long nothing was heard from the feed."""
        return now - self._confirmed

    def check(self, now: float) -> None:
        """Raises TooStale if the copy is older than it may be."""
        if (age_s := self.age_s(now)) > self.max_age_s:
            raise TooStale(f"the copy is {age_s:.0f} s old, more than {self.max_age_s:.0f}")

    def rollouts(self, now: float) -> Rollouts:
        """The percentages, which are replaced as a whole, never changed. Raises TooStale."""
        self.check(now)
        return self._rollouts

    def batches(self, user_ids: Sequence[int], now: float) -> Iterator[Sequence[int]]:
        """The users who have to be asked for, as many at once as the service takes."""
        wanted = [user_id for user_id in dict.fromkeys(user_ids) if self._is_wanted(user_id, now)]
        for begin in range(0, len(wanted), MOST_AT_ONCE):
            yield wanted[begin : begin + MOST_AT_ONCE]

    def answer(self, found: Lookup, asked_at: float, now: float) -> None:
        """Takes the answer to a batch, which says how old it is, in whole seconds."""
        as_of = asked_at - found.age_s - 1
        for each in found.users:
            before = self._known.pop(each.user_id, None)
            # Nothing was kept of what the feed told of an unknown user, so the first answer is not level.
            changed = now if before is None else before.changed
            self._known[each.user_id] = _Known(each.segments, as_of, asked_at, changed)
        while len(self._known) > self._most_users:
            self._known.popitem(last=False)

    def segments(self, user_id: int, now: float) -> Sequence[str] | None:
        """The segments of a user; None for one who was never asked for. Raises TooStale."""
        self.check(now)
        known = self._known.get(user_id)
        if known is None:
            return None
        self._known.move_to_end(user_id)
        if not self._is_level(known) and now - self._last_change(known) > self.max_age_s:
            raise TooStale(
                f"user {user_id} changed more than {self.max_age_s:.0f} s ago, and cannot be asked for"
            )
        return known.segments

    def _is_wanted(self, user_id: int, now: float) -> bool:
        known = self._known.get(user_id)
        return known is None or (not self._is_level(known) and now - known.asked_at >= AGAIN_S)

    def _is_level(self, known: _Known) -> bool:
        return known.as_of >= self._last_change(known)

    def _last_change(self, known: _Known) -> float:
        return max(known.changed, self._all_changed)
