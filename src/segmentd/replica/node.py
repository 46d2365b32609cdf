"""The parts of this node that use cases work with: reads from its replica, and writes shown in it."""

from collections.abc import Awaitable, Callable, Collection, Sequence
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

    def note_database(self, reason: str | None) -> None:
        """While it is away, a stale replica answers at once: reads would wait for the database in vain."""
        self.replica.has_no_bound = self.serve_stale and reason is not None

    def age_of_reads(self) -> int | None:
        """The age of answers from the replica; None if it may not answer."""
        return self.replica.age_if_any() if self.serve_stale else self.replica.age()

    async def read(
        self, replicated: Replicated[Found], stored: Callable[[], Awaitable[Found]]
    ) -> Answer[Found]:
        """Answers from the replica, or from the database if the replica cannot.

        If the database cannot answer either, the replica as it is does, as long as its age is allowed. Raises
        Unavailable.
        """

        async def ask(_: Collection[int]) -> Answer[Found]:
            return Answer(0, await self.fallback.ask(stored))

        return await self._read(replicated, ask)

    async def look_up(self, user_ids: Sequence[UserId], stored: Stored) -> Answer[Slugs]:
        """As `read`, for many users; of those who changed just now the database is asked alone.

        Raises Unavailable, AnswerTooLarge.
        """

        async def replicated(replica: Replica, older: int | None) -> Slugs:
            return await replica.segments_of_many(user_ids, older)

        async def ask(outdated: Collection[int]) -> Answer[Slugs]:
            if (answer := await self._look_up_in_both(user_ids, outdated, stored)) is not None:
                return answer
            return Answer(0, await self.fallback.ask(partial(stored, user_ids)))

        return await self._read(replicated, ask)

    async def _read(
        self, replicated: Replicated[Found], ask: Callable[[Collection[int]], Awaitable[Answer[Found]]]
    ) -> Answer[Found]:
        outdated: Collection[int] = ()
        try:
            age = self.replica.age()
            if age is not None:
                try:
                    return Answer(age, await replicated(self.replica, None))
                except Outdated as error:
                    outdated = error.user_ids
                except Unusable:
                    pass
            answer = await ask(outdated)
        except Unavailable:
            older = await self._read_older(replicated)
            self.metrics.fell_back(Fallen.REFUSED if older is None else Fallen.OLDER)
            if older is None:
                raise
            return older
        self.metrics.fell_back(Fallen.DATABASE)
        return answer

    async def _look_up_in_both(
        self, user_ids: Sequence[UserId], outdated: Collection[int], stored: Stored
    ) -> Answer[Slugs] | None:
        """Of outdated users the database is asked, the replica of the others; None if that is impossible."""
        asked = [user_id for user_id in dict.fromkeys(user_ids) if user_id in outdated]
        others = [user_id for user_id in user_ids if user_id not in outdated]
        if not asked or not others:
            return None
        found = dict(zip(asked, await self.fallback.ask(partial(stored, asked)), strict=True))
        if (age := self.replica.age()) is None:
            return None
        try:
            found |= zip(others, await self.replica.segments_of_many(others), strict=True)
        except Unusable:  # more users changed meanwhile
            return None
        answer = [found[user_id] for user_id in user_ids]
        if sum(map(len, answer)) > LARGEST_LOOKUP_BYTES:
            raise AnswerTooLarge(LARGEST_LOOKUP_BYTES)
        return Answer(age, answer)

    async def _read_older(self, replicated: Replicated[Found]) -> Answer[Found] | None:
        """From the replica as it is; None if the age of that is unknown, or not allowed."""
        try:
            if self.serve_stale and (age := self.replica.age_if_any()) is not None:
                return Answer(age, await replicated(self.replica, None))
        except Outdated:
            pass
        except Unusable:
            return None
        version, age = (
            self.replica.status.complete_version,
            self.replica.age_of_all(bounded=not self.serve_stale),
        )
        try:
            return None if age is None else Answer(age, await replicated(self.replica, version))
        except Unusable:
            return None

    def show_users(self, writes: Sequence[tuple[UserId, OwnWrite]]) -> None:
        """Shows committed writes of users, here at once and on the other nodes soon."""
        self.replica.show_users(writes)
        self.notifier.notify()

    async def show_segments(self, database: Database) -> None:
        """Shows committed changes of segments. An error makes reads slower and does not undo the change."""
        await self.replica.show_segments(database)
        self.notifier.notify()
