"""Local evaluation: `client.local()`. `make client` leaves it alone: it follows the feed in a thread."""

import time
from collections.abc import Mapping, Sequence
from threading import Event, Lock, Thread
from typing import Final, Self

from segmentd_client.bucketing import Rollouts
from segmentd_client.core import Retries
from segmentd_client.errors import ClientError, PositionExpired
from segmentd_client.local_copy import LocalCopy
from segmentd_client.synchronous.feed import Feed
from segmentd_client.synchronous.segments import Segments
from segmentd_client.synchronous.transport import LOG
from segmentd_client.synchronous.users import Users

HELD_S: Final = 2
"""How long the service holds an empty page of the feed back: the age of a copy is about as much."""

_PAGE: Final = 1000


class Local:
    """Answers in this process, from a copy that a thread keeps level by the feed, in a `with` block.

    Safe to use from many threads.
    """

    def __init__(
        self, segments: Segments, users: Users, feed: Feed, *, max_age_s: float, most_users: int
    ) -> None:
        self._segments, self._users, self._feed = segments, users, feed
        self._copy = LocalCopy(max_age_s, most_users)
        self._lock = Lock()
        self._is_closed = Event()
        self._thread = Thread(target=self._follow, name="segmentd-local", daemon=True)

    def __enter__(self) -> Self:
        self._begin()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # The thread ends with its present page of the feed, which is held back for two seconds at most.
        self._is_closed.set()
        self._thread.join()

    @property
    def age_s(self) -> float:
        """How many seconds old the copy is at most."""
        with self._lock:
            return self._copy.age_s(time.monotonic())

    def by_percentage(self, user_id: int) -> Sequence[str]:
        """The segments whose percentage covers the user, sorted bytewise; asks nobody. Raises TooStale.

        These are the segments of a user whom nobody ever added or removed by hand.
        """
        return self._rollouts().of(user_id)

    def covers(self, user_id: int, slug: str) -> bool:
        """Whether the percentage of one segment covers the user; asks nobody. Raises TooStale."""
        return self._rollouts().covers(user_id, slug)

    def lookup_by_percentage(self, user_ids: Sequence[int]) -> Mapping[int, Sequence[str]]:
        """What `by_percentage` gives for each of many users; asks nobody. Raises TooStale.

        It computes a bucket for each user and percentage: some 0.1 microseconds with NumPy, 4 without.
        """
        return self._rollouts().of_many(user_ids)

    def covered(self, user_ids: Sequence[int], slug: str) -> Sequence[int]:
        """Those of many users whom the percentage of one segment covers, in their order. Raises TooStale.

        It asks nobody, and takes as long as `lookup_by_percentage` with one percentage.
        """
        return self._rollouts().covered(user_ids, slug)

    def segments(self, user_id: int) -> Sequence[str]:
        """All segments that the user is in, sorted bytewise; as `lookup` for one."""
        return self.lookup([user_id])[user_id]

    def lookup(self, user_ids: Sequence[int]) -> Mapping[int, Sequence[str]]:
        """The segments of each user. Those who are not known yet, or changed, are asked for in batches.

        While the service cannot be reached, users who are known are answered as they were, up to the
        greatest age of the copy. Raises TooStale, and what `client.users.lookup` raises for others.
        """
        with self._lock:
            batches = [*self._copy.batches(user_ids, time.monotonic())]
        for batch in batches:
            self._ask(batch)
        with self._lock:
            now = time.monotonic()
            found = {user_id: self._copy.segments(user_id, now) for user_id in user_ids}
        # More users than the copy keeps: what it has dropped already is asked for once more.
        return {
            user_id: self._users.segments(user_id).segments if slugs is None else slugs
            for user_id, slugs in found.items()
        }

    def _rollouts(self) -> Rollouts:
        with self._lock:
            return self._copy.rollouts(time.monotonic())

    def _ask(self, batch: Sequence[int]) -> None:
        asked_at = time.monotonic()
        try:
            found = self._users.lookup(batch)
        except ClientError:
            with self._lock:
                if any(self._copy.segments(user_id, asked_at) is None for user_id in batch):
                    raise
            return
        with self._lock:
            self._copy.answer(found, asked_at, time.monotonic())

    def _begin(self) -> None:
        asked_at = time.monotonic()
        position = self._feed.page("now", limit=1).next
        segments = [*self._segments.list(limit=_PAGE)]
        with self._lock:
            self._copy.begin(position, segments, time.monotonic(), asked_at)

    def _follow(self) -> None:
        patient = Retries(first_s=0.5, longest_s=10)
        failures, step = 0, self._step
        while not self._is_closed.is_set():
            try:
                step()
                failures, step = 0, self._step
            except PositionExpired:
                step = self._begin
            except ClientError as error:
                pause_s = patient.backed_off(failures, error) or patient.longest_wait_s
                LOG.warning(
                    "the local copy is %.0f s old, it goes on in %.1f s: %s", self.age_s, pause_s, error
                )
                failures += 1
                self._is_closed.wait(pause_s)

    def _step(self) -> None:
        asked_at = time.monotonic()
        page = self._feed.page(self._copy.position, limit=_PAGE, wait_s=HELD_S)
        segments = [*self._segments.list(limit=_PAGE)] if self._copy.changes_segments(page) else None
        with self._lock:
            if segments is not None:
                self._copy.renew(segments)
            self._copy.take(page, time.monotonic(), asked_at)
