"""The parts of this node that use cases work with: reads from its replica, and writes shown in it."""

import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from segmentd.domain.errors import AnswerTooLarge, Unavailable
from segmentd.domain.identifiers import UserId
from segmentd.domain.memberships import LARGEST_LOOKUP_BYTES
from segmentd.observability.metrics import Fallen, Metrics
from segmentd.replica.behind import Outdated
from segmentd.replica.fallback import Fallback
from segmentd.replica.files import Unusable
from segmentd.replica.notifications import Notifier
from segmentd.replica.replica import Replica
from segmentd.replica.watching import Watchers
from segmentd.storage.database import Database
from segmentd.storage.replication import OwnWrite

Found = TypeVar("Found")

Slugs = Sequence[bytes]
"""For each of some users, in the order asked: the slugs as JSON strings, with commas between."""

Replicated = Callable[[Replica, int | None], Awaitable[Found]]
"""Reads something from the replica; with a version of the segments, from older states if it is still that."""

Stored = Callable[[Sequence[UserId]], Awaitable[Slugs]]
"""Reads them from the database."""


class Answer(NamedTuple, Generic[Found]):
    """An answer and its age in whole seconds."""

    age: int
    found: Found


class Node(NamedTuple):
    """A node's replica, those who watch it, and the notifier that sends change notifications to all nodes."""

    replica: Replica
    notifier: Notifier
    watchers: Watchers
    serve_stale: bool
    fallback: Fallback
    metrics: Metrics
    follows: bool = False
    """Whether it follows another node, and has no database."""

    def note_database(self, reason: str | None) -> None:
        """While it is away, a stale replica answers at once: reads would wait for the database in vain."""
        self.replica.has_no_bound = self.serve_stale and reason is not None

    def age_of_reads(self) -> int | None:
        """The age of answers from the replica; None if it may not answer."""
        return self.replica.age_if_any() if self.serve_stale else self.replica.age()

    async def read(
        self, replicated: Replicated[Found], stored: Callable[[], Awaitable[Found]]
    ) -> Answer[Found]:
        """Answers from the replica, or from the database if the replica is too old.

        For a user who changed, and whose state is not written yet, the state of before is an answer too, as
        long as its age is allowed. Raises Unavailable.
        """

        async def ask(_: Outdated | None) -> Answer[Found]:
            return Answer(0, await self.fallback.ask(stored))

        return await self._read(replicated, ask)

    async def look_up(self, user_ids: Sequence[UserId], stored: Stored) -> Answer[Slugs]:
        """As `read`, for many users; the database is asked only of those for whom the replica is too old.

        Raises Unavailable, AnswerTooLarge.
        """

        async def ask(outdated: Outdated | None) -> Answer[Slugs]:
            if outdated and (answer := await self._look_up_in_both(user_ids, outdated, stored)) is not None:
                return answer
            return Answer(0, await self.fallback.ask(partial(stored, user_ids)))

        return await self._read(_segments_of(user_ids), ask)

    async def _read(
        self, replicated: Replicated[Found], ask: Callable[[Outdated | None], Awaitable[Answer[Found]]]
    ) -> Answer[Found]:
        outdated: Outdated | None = None
        try:
            if (found := await self._from_replica(self.replica.age(), replicated)) is not None:
                return found
        except Outdated as error:
            outdated = error
        except Unusable:
            pass
        try:
            answer = await ask(outdated)
        except Unavailable:
            if (stale := await self._read_stale(replicated)) is None:
                self.metrics.fell_back(Fallen.REFUSED)
                raise
            self.metrics.fell_back(Fallen.REPLICA)
            return stale
        self.metrics.fell_back(Fallen.DATABASE)
        return answer

    async def _from_replica(
        self, age: int | None, replicated: Replicated[Found], bound_seconds: float | None = None
    ) -> Answer[Found] | None:
        """An answer of this age; of another where the states of before answer. Raises Outdated, Unusable."""
        if age is None:
            return None
        try:
            return Answer(age, await replicated(self.replica, None))
        except Outdated as outdated:
            if (older := self.replica.older(outdated, bound_seconds)) is None:
                raise
            return Answer(older.age, await replicated(self.replica, older.version))

    async def _read_stale(self, replicated: Replicated[Found]) -> Answer[Found] | None:
        """While the database does not answer: from the replica, if its age is allowed."""
        try:
            bound_seconds = math.inf if self.serve_stale else None
            return await self._from_replica(self.age_of_reads(), replicated, bound_seconds)
        except Unusable:
            return None

    async def _look_up_in_both(
        self, user_ids: Sequence[UserId], outdated: Outdated, stored: Stored
    ) -> Answer[Slugs] | None:
        """The database is asked of users whose state is too old; None if that is of no use."""
        too_old = {user_id for user_id in outdated.since if self.replica.older(outdated.of(user_id)) is None}
        asked = [user_id for user_id in dict.fromkeys(user_ids) if user_id in too_old]
        others = [user_id for user_id in user_ids if user_id not in too_old]
        if not others:
            return None
        found = dict(zip(asked, await self.fallback.ask(partial(stored, asked)), strict=True))
        try:
            answer = await self._from_replica(self.replica.age(), _segments_of(others))
        except Unusable:  # more users changed meanwhile, or the segments did
            answer = None
        if answer is None:
            return None
        found |= zip(others, answer.found, strict=True)
        slugs = [found[user_id] for user_id in user_ids]
        if sum(map(len, slugs)) > LARGEST_LOOKUP_BYTES:
            raise AnswerTooLarge(LARGEST_LOOKUP_BYTES)
        return Answer(answer.age, slugs)

    def show_users(self, writes: Sequence[tuple[UserId, OwnWrite]]) -> None:
        """Shows committed writes of users, here at once and on the other nodes soon."""
        self.replica.show_users(writes)
        self.notifier.notify()

    async def show_segments(self, database: Database) -> None:
        """Shows committed changes of segments. An error makes reads slower and does not undo the change."""
        await self.replica.show_segments(database)
        self.notifier.notify()


def _segments_of(user_ids: Sequence[UserId]) -> Replicated[Slugs]:
    async def replicated(replica: Replica, older: int | None) -> Slugs:
        return await replica.segments_of_many(user_ids, older)

    return replicated
