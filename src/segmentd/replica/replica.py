"""A node's replica in its HTTP processes: answers without the database, and own writes visible at once."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import lmdb
import psycopg
import structlog

from segmentd.domain.decisions import Decision, Decisions
from segmentd.domain.errors import Unavailable
from segmentd.replica.behind import Outdated
from segmentd.replica.catalog import JSON, Catalog, Form
from segmentd.replica.files import Unusable
from segmentd.replica.lookup import Lookup
from segmentd.replica.moments import show_catalog
from segmentd.replica.status import ReplicaStatus, boot_time, status_path
from segmentd.replica.store import Store, Watched
from segmentd.shared_memory import SHARE_EVERY_S
from segmentd.storage import replication
from segmentd.storage.database import Database
from segmentd.storage.replication import OwnWrite

MICROSECONDS: Final = 1_000_000

Found = TypeVar("Found")

_log = structlog.get_logger(__name__)


class ReplicaMeasures(NamedTuple):
    """How fresh a replica is, and how large."""

    age_seconds: float | None
    """None if there is no usable replica."""
    users: int | None
    """How many users have a state in it; None if there is no replica."""
    users_behind: int
    """How many users changed whose states are not written yet."""


class Older(NamedTuple):
    """That states of before may be shown: their age in whole seconds, and the version of their segments."""

    age: int
    version: int


class Point(NamedTuple):
    """A point in the life of a node's replicas: which of them, and the number of its latest write."""

    replica: int
    write: int


class Replica:
    """Answers from the replica that the status names; opens another one when the follower swaps it in."""

    def __init__(self, folder: Path, bound_seconds: float) -> None:
        self._folder = folder
        self._bound = int(bound_seconds * MICROSECONDS)
        self.status = ReplicaStatus.open(status_path(folder))
        self.has_no_bound = False
        """Whether its age does not matter: the database is away, and the operator allows stale answers."""
        self._open: dict[int, Store] = {}
        self._read = 0
        self._large = asyncio.Lock()

    def close(self) -> None:
        """Closes the replica and the status."""
        self._close_all()
        self.status.close()

    async def share_status(self) -> None:
        """In a process that started on a full disk: uses the replica as soon as there is room."""
        while not self.status.shared:
            await asyncio.sleep(SHARE_EVERY_S)
            self.status.share()

    def age(self) -> int | None:
        """The age of the replica in whole seconds; None if it is above the bound."""
        age = self.status.age()
        if age is None or (age > self._bound and not self.has_no_bound):
            return None
        return age // MICROSECONDS

    def moment(self) -> tuple[int, int] | None:
        """`age`, and the present time in microseconds since 1970, by one look at the clock."""
        moment = self.status.moment()
        if moment is None:
            return None
        age, now = moment
        return None if age > self._bound and not self.has_no_bound else (age // MICROSECONDS, now)

    def age_if_any(self) -> int | None:
        """The age of the replica in whole seconds; None if there is no usable replica."""
        age = self.status.age()
        return None if age is None else age // MICROSECONDS

    def older(self, outdated: Outdated, bound_seconds: float | None = None) -> Older | None:
        """With what age the states of before may answer for users who changed; None if they may not."""
        ages = [self.status.age_of(since) for since in outdated.since.values()]
        known = [age for age in ages if age is not None]
        bound = self._bound if bound_seconds is None else bound_seconds * MICROSECONDS
        if len(known) < len(ages) or (max(known) > bound and not self.has_no_bound):
            return None
        return Older(max(known) // MICROSECONDS, outdated.version)

    def answer(self, read: Callable[[int, int | None], Found]) -> Found | None:
        """What `read` makes of an age and a version of `Older`; None if the replica may not answer.

        Raises Unusable, Outdated.
        """
        age = self.age()
        if age is None:
            return None
        try:
            return read(age, None)
        except Outdated as outdated:
            if (older := self.older(outdated)) is None:
                raise
            return read(older.age, older.version)

    # Reads of what holds now; call them only if there is an age. Each raises Unusable, and Outdated if the
    # replica does not know yet how a user changed. With the version of `Older` they show the state of before.

    def segments(
        self,
        user_id: int,
        older: int | None = None,
        form: Form = JSON,
        before: bytes = b"",
        after: bytes = b"",
        now: int | None = None,
    ) -> bytes:
        """The slugs that the user is in, in a form, between two texts."""
        try:
            now = self.status.now() if now is None else now
            return self.serving().segments(user_id, now, older, form, before, after)
        except (lmdb.Error, ValueError) as error:
            raise self._useless(error) from error

    def decisions(self, user_id: int, older: int | None = None) -> Decisions:
        """What decides about the user and each segment."""
        try:
            return self.serving().decisions(user_id, self.status.now(), older)
        except (lmdb.Error, ValueError) as error:
            raise self._useless(error) from error

    def decision(self, slug: bytes, user_id: int, older: int | None = None) -> Decision | None:
        """What decides about the user and one segment; None if it does not exist."""
        try:
            return self.serving().decision(slug, user_id, self.status.now(), older)
        except (lmdb.Error, ValueError) as error:
            raise self._useless(error) from error

    async def segments_of_many(self, user_ids: Sequence[int], older: int | None = None) -> list[bytes]:
        """`segments` for many users, as JSON strings. Raises AnswerTooLarge.

        They are of one moment, that of the call; other requests are answered meanwhile.
        """
        often = Counter(user_ids)
        lookup = self._look_up([*often], older)
        if lookup.large:
            del lookup  # a waiting lookup holds no states in memory
            async with self._large:
                found = await self._look_up([*often], older).segments(often)
        else:
            found = await lookup.segments(often)
        if len(often) == len(user_ids):
            return found
        of_user = dict(zip(often, found, strict=True))
        return [of_user[user_id] for user_id in user_ids]

    def watched(self, user_id: int) -> Watched:
        """What one who watches the user compares; of outdated users too, as they were before."""
        try:
            return self.serving().watched(user_id, self.status.now())
        except (lmdb.Error, ValueError) as error:
            raise self._useless(error) from error

    def changed_since(self, point: Point | None) -> tuple[Point, Sequence[int] | None]:
        """The present point, and the users that were written since an earlier one; None: any."""
        try:
            serving = self.serving()
            number = self._read
            if point is None or point.replica != number:
                return Point(number, serving.last_write), None
            latest, users = serving.changed_since(point.write)
            return Point(number, latest), users
        except lmdb.Error as error:
            raise self._useless(error) from error

    def _look_up(self, user_ids: Sequence[int], older: int | None) -> Lookup:
        try:
            return self.serving().look_up(user_ids, self.status.now(), older)
        except lmdb.Error as error:
            raise self._useless(error) from error

    def measure(self) -> ReplicaMeasures:
        """The present figures."""
        age = self.status.age()
        try:
            users = self.serving().users() if self.status.serving else None
        except (lmdb.Error, Unusable):
            users = None
        return ReplicaMeasures(None if age is None else age / MICROSECONDS, users, self.status.behind)

    def catalog(self) -> Catalog | None:
        """The living segments, whatever the replica's age; None if there is no usable replica."""
        if not self.status.serving:
            return None
        try:
            return self.serving().catalog()
        except Unusable:
            return None
        except lmdb.Error:
            self._close_all()
            return None

    def show_users(self, writes: Sequence[tuple[int, OwnWrite]]) -> None:
        """Makes the very next read on this node see committed writes."""
        self._show(lambda store: store.put_own(writes))

    async def show_segments(self, database: Database) -> None:
        """Makes the very next read on this node see committed changes of segments.

        It also writes the users of the same moment, as a round of the follower does. If that is too much, or
        another replica is about to replace this one, the database answers reads until the follower has seen
        the change.
        """
        if self.status.filling:
            self.spoil()
            return
        if not (number := self.status.serving):
            return
        try:
            async with replication.reading(database) as reading:
                position = await reading.position()
                await show_catalog(self._store(number), reading, position)
        except (Unavailable, Unusable, psycopg.Error, lmdb.Error, OSError) as error:
            # A replica that replaced it meanwhile shows a later moment than the change.
            if self.status.serving == number:
                _log.warning("changed segments not in the replica, the database answers", error=str(error))
                self.spoil()
        except BaseException:
            self.spoil()
            raise

    def spoil(self) -> None:
        """Marks a write as not shown: the database answers reads until the follower has seen it."""
        self.status.spoilt_at = boot_time()

    def _show(self, write: Callable[[Store], None]) -> None:
        """Writes into the serving replica and into the one that is being built, if there is one.

        The write is committed already, whatever happens here.
        """
        try:
            # In this order: between the two writes, the second replica may become the serving one.
            filling, serving = self.status.filling, self.status.serving
            for number in {filling, serving} - {0}:
                write(self._store(number))
        except (lmdb.Error, Unusable, OSError) as error:
            _log.warning("own write not in the replica, the database answers", error=str(error))
            self.spoil()
            if isinstance(error, lmdb.Error):
                self._close_all()

    def serving(self) -> Store:
        """The replica that answers. Raises Unusable."""
        number = self.status.serving
        if number != self._read:
            for old in self._open.keys() - {number, self.status.filling}:
                self._open.pop(old).close()
            self._read = number
        return self._store(number)

    def _store(self, number: int) -> Store:
        store = self._open.get(number)
        if store is None:
            try:
                store = self._open[number] = Store.existing(store_path(self._folder, number))
            except OSError as error:
                raise Unusable(str(error)) from error
        return store

    def _useless(self, error: lmdb.Error | ValueError) -> Unusable:
        self._close_all()
        return Unusable(str(error))

    def _close_all(self) -> None:
        """Closes the replica after an error: opening it again may help."""
        while self._open:
            self._open.popitem()[1].close()


def store_path(folder: Path, number: int) -> Path:
    """The path of the replica with this number."""
    return folder / f"replica-{number}.lmdb"
