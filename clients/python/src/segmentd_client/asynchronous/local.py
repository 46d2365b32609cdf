"""Local evaluation: `client.local()`. `make client` leaves it alone: it follows the feed in a task."""

import time
from collections.abc import Mapping, Sequence
from typing import Final, Self

from anyio import create_task_group, sleep
from anyio.abc import TaskGroup

from segmentd_client.asynchronous.feed import AsyncFeed
from segmentd_client.asynchronous.segments import AsyncSegments
from segmentd_client.asynchronous.transport import LOG
from segmentd_client.asynchronous.users import AsyncUsers
from segmentd_client.core import Retries
from segmentd_client.errors import ClientError, PositionExpired
from segmentd_client.local_copy import LocalCopy

HELD_S: Final = 2
"""How long the service holds an empty page of the feed back: the age of a copy is about as much."""

_PAGE: Final = 1000


class AsyncLocal:
    """Answers in this process, from a copy that a task keeps level by the feed, in an `async with` block."""

    def __init__(
        self,
        segments: AsyncSegments,
        users: AsyncUsers,
        feed: AsyncFeed,
        *,
        max_age_s: float,
        most_users: int,
    ) -> None:
        self._segments, self._users, self._feed = segments, users, feed
        self._copy = LocalCopy(max_age_s, most_users)
        self._tasks: TaskGroup = create_task_group()

    async def __aenter__(self) -> Self:
        await self._begin()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._follow)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)

    @property
    def age_s(self) -> float:
        """How many seconds old the copy is at most."""
        return self._copy.age_s(time.monotonic())

    def by_percentage(self, user_id: int) -> Sequence[str]:
        """The segments whose percentage covers the user, sorted bytewise; asks nobody. Raises TooStale.

        These are the segments of a user whom nobody ever added or removed by hand.
        """
        return self._copy.rollouts(time.monotonic()).of(user_id)

    def covers(self, user_id: int, slug: str) -> bool:
        """Whether the percentage of one segment covers the user; asks nobody. Raises TooStale."""
        return self._copy.rollouts(time.monotonic()).covers(user_id, slug)

    def lookup_by_percentage(self, user_ids: Sequence[int]) -> Mapping[int, Sequence[str]]:
        """What `by_percentage` gives for each of many users; asks nobody. Raises TooStale.

        It computes a bucket for each user and percentage: some 0.1 microseconds with NumPy, 4 without.
        """
        return self._copy.rollouts(time.monotonic()).of_many(user_ids)

    def covered(self, user_ids: Sequence[int], slug: str) -> Sequence[int]:
        """Those of many users whom the percentage of one segment covers, in their order. Raises TooStale.

        It asks nobody, and takes as long as `lookup_by_percentage` with one percentage.
        """
        return self._copy.rollouts(time.monotonic()).covered(user_ids, slug)

    async def segments(self, user_id: int) -> Sequence[str]:
        """All segments that the user is in, sorted bytewise; as `lookup` for one."""
        return (await self.lookup([user_id]))[user_id]

    async def lookup(self, user_ids: Sequence[int]) -> Mapping[int, Sequence[str]]:
        """The segments of each user. Those who are not known yet, or changed, are asked for in batches.

        While the service cannot be reached, users who are known are answered as they were, up to the
        greatest age of the copy. Raises TooStale, and what `client.users.lookup` raises for others.
        """
        for batch in [*self._copy.batches(user_ids, time.monotonic())]:
            await self._ask(batch)
        now = time.monotonic()
        found = {user_id: self._copy.segments(user_id, now) for user_id in user_ids}
        # More users than the copy keeps: what it has dropped already is asked for once more.
        return {
            user_id: (await self._users.segments(user_id)).segments if slugs is None else slugs
            for user_id, slugs in found.items()
        }

    async def _ask(self, batch: Sequence[int]) -> None:
        asked_at = time.monotonic()
        try:
            found = await self._users.lookup(batch)
        except ClientError:
            if any(self._copy.segments(user_id, asked_at) is None for user_id in batch):
                raise
            return
        self._copy.answer(found, asked_at, time.monotonic())

    async def _begin(self) -> None:
        asked_at = time.monotonic()
        position = (await self._feed.page("now", limit=1)).next
        segments = [each async for each in self._segments.list(limit=_PAGE)]
        self._copy.begin(position, segments, time.monotonic(), asked_at)

    async def _follow(self) -> None:
        patient = Retries(first_s=0.5, longest_s=10)
        failures, step = 0, self._step
        while True:
            try:
                await step()
                failures, step = 0, self._step
            except PositionExpired:
                step = self._begin
            except ClientError as error:
                pause_s = patient.backed_off(failures, error) or patient.longest_wait_s
                LOG.warning(
                    "the local copy is %.0f s old, it goes on in %.1f s: %s", self.age_s, pause_s, error
                )
                failures += 1
                await sleep(pause_s)

    async def _step(self) -> None:
        asked_at = time.monotonic()
        page = await self._feed.page(self._copy.position, limit=_PAGE, wait_s=HELD_S)
        if self._copy.changes_segments(page):
            self._copy.renew([each async for each in self._segments.list(limit=_PAGE)])
        self._copy.take(page, time.monotonic(), asked_at)
