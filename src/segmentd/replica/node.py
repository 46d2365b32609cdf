"""The parts of this node that use cases work with: reads from its replica, and writes shown in it."""

from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from segmentd.domain.errors import Unavailable
from segmentd.domain.identifiers import UserId
from segmentd.replica.notifications import Notifier
from segmentd.replica.replica import Replica
from segmentd.replica.store import Unusable
from segmentd.replica.watching import Watchers
from segmentd.storage.database import Database
from segmentd.storage.replication import OwnWrite

Found = TypeVar("Found")


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

    def note_database(self, reason: str | None) -> None:
        """While it is away, a stale replica answers at once: reads would wait for the database in vain."""
        self.replica.has_no_bound = self.serve_stale and reason is not None

    def age_of_reads(self) -> int | None:
        """The age of answers from the replica; None if it may not answer."""
        return self.replica.age_if_any() if self.serve_stale else self.replica.age()

    async def read(
        self, replicated: Callable[[Replica], Awaitable[Found]], stored: Callable[[], Awaitable[Found]]
    ) -> Answer[Found]:
        """Answers from the replica, or from the database if the replica is too old.

        While the database is away, an older replica answers if the operator allows it. Raises Unavailable.
        """
        if (answer := await self._from_replica(self.replica.age(), replicated)) is not None:
            return answer
        try:
            return Answer(0, await stored())
        except Unavailable:
            if not self.serve_stale:
                raise
            if (answer := await self._from_replica(self.replica.age_if_any(), replicated)) is None:
                raise
            return answer

    async def _from_replica(
        self, age: int | None, replicated: Callable[[Replica], Awaitable[Found]]
    ) -> Answer[Found] | None:
        if age is None:
            return None
        try:
            return Answer(age, await replicated(self.replica))
        except Unusable:
            return None

    def show_user(self, user_id: UserId, write: OwnWrite) -> None:
        """Shows a committed write of a user, here at once and on the other nodes soon."""
        self.replica.show_user(user_id, write)
        self.notifier.notify()

    async def show_segments(self, database: Database) -> None:
        """Shows committed changes of segments. An error makes reads slower and does not undo the change."""
        await self.replica.show_segments(database)
        self.notifier.notify()
