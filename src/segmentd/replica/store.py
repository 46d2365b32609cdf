"""A replica in an LMDB file: the users' states and the catalog, with the snapshot that they show.

Keys of `users` are ids of 64 bits, big-endian; of `facts`: format, source, snapshot, head, catalog. Two more
tables have the users who changed up to the snapshot and whose states are not written yet (behind.py). The
head is the catalog's version, and one byte more while somebody is outdated: a read looks there only then. A
table of notes has the latest writes (notes.py).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from segmentd.domain.decisions import Decision, Decisions
from segmentd.replica.behind import Mark, ids_after
from segmentd.replica.catalog import JSON, Catalog, CatalogState, Form
from segmentd.replica.copying import Copied
from segmentd.replica.environment import HEAD, SOMEBODY_OUTDATED
from segmentd.replica.files import Unusable
from segmentd.replica.keys import KEY, Transaction
from segmentd.replica.lookup import Lookup
from segmentd.replica.states import is_as_new, next_end
from segmentd.storage.replication import OwnWrite
from segmentd.storage.snapshots import Snapshot


class Watched(NamedTuple):
    """What one who watches a user compares, and when to look again though nothing is written."""

    fingerprint: bytes
    next_end: int | None
    """The next end of a term, in microseconds since 1970."""


class Store(Copied):
    """One replica, open in this process. A read takes a microsecond; a write waits for another's write."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._catalog = Catalog(CatalogState(-1, []))
        self._head = b""
        # The latest state of the file in which the head was this one.
        self._seen = -1

    # Reading. Each raises Outdated if the replica does not know yet how a user changed. With an `older`
    # version of the segments, the state of before serves; Unusable, if the segments are others by now.
    # ValueError, if a state is torn.

    def segments(
        self,
        user_id: int,
        now: int,
        older: int | None = None,
        form: Form = JSON,
        before: bytes = b"",
        after: bytes = b"",
    ) -> bytes:
        """The slugs, in a form, that the user is in at `now` (microseconds since 1970), between two texts."""
        state = self._state(user_id, older)
        return self._catalog.kernel(form).join(user_id, state, now, before, after)

    def decisions(self, user_id: int, now: int, older: int | None = None) -> Decisions:
        """What decides about the user and each segment at `now`."""
        state = self._state(user_id, older)
        return self._catalog.decisions(user_id, state, now)

    def decision(self, slug: bytes, user_id: int, now: int, older: int | None = None) -> Decision | None:
        """What decides about the user and one segment at `now`; None if there is no such segment."""
        state = self._state(user_id, older)
        return self._catalog.decision(slug, user_id, state, now)

    def watched(self, user_id: int, now: int) -> Watched:
        """What one who watches the user compares; of outdated users too, as they were before."""
        key = KEY.pack(user_id)
        with self._env.begin(self._users) as transaction:
            self._heed(transaction, transaction.get(HEAD, b"", self._facts), (), None)
            state = transaction.get(key)
        fingerprint = self._catalog.fingerprint(user_id, state, now)
        return Watched(fingerprint, None if state is None else next_end(state, now))

    def changed_since(self, number: int) -> tuple[int, Sequence[int] | None]:
        """The number of the latest write, and the users that writes after `number` changed; None: any."""
        with self._env.begin() as transaction:
            return self._notes.since(transaction, number)

    def catalog(self) -> Catalog:
        """The living segments."""
        with self._env.begin(self._users) as transaction:
            self._heed(transaction, transaction.get(HEAD, b"", self._facts), (), None)
        return self._catalog

    def look_up(self, user_ids: Sequence[int], now: int, older: int | None = None) -> Lookup:
        """What `segments` needs for many different users, all from one state of the replica."""
        keys = [KEY.pack(user_id) for user_id in user_ids]
        with self._env.begin(self._users) as transaction:
            head = transaction.get(HEAD, b"", self._facts)
            if head != self._head:
                self._heed(transaction, head, keys, older)
            states = [transaction.get(key) for key in keys]
        return Lookup(self._catalog, user_ids, states, now)

    def _state(self, user_id: int, older: int | None) -> bytes | None:
        """The state of a user; the catalog of the same moment is read too, if it is another one."""
        key = KEY.pack(user_id)
        with self._env.begin(self._users) as transaction:
            if (seen := transaction.id()) != self._seen:
                head = transaction.get(HEAD, b"", self._facts)
                if head != self._head:
                    self._heed(transaction, head, (key,), older)
                else:
                    self._seen = seen
            return transaction.get(key)

    def users(self) -> int:
        """How many users have a state."""
        with self._env.begin() as transaction:
            entries: int = transaction.stat(self._users)["entries"]
            return entries

    @property
    def last_write(self) -> int:
        """The number of the latest write."""
        number: int = self._env.info()["last_txnid"]
        return number

    @property
    def catalog_version(self) -> int | None:
        """The version of the segments; None if there are none yet."""
        with self._env.begin(self._facts) as transaction:
            head = transaction.get(HEAD)
        return None if head is None else KEY.unpack_from(head)[0]

    def behind(self) -> int:
        """How many users changed whose states are not written yet."""
        with self._env.begin() as transaction:
            return self._behind.count(transaction)

    def outdated_after(self, user_id: int, limit: int) -> list[int]:
        """Up to so many users with higher ids whose states may be wrong."""
        with self._env.begin() as transaction:
            return ids_after(transaction, self._behind.outdated, user_id, limit)

    def settled_after(self, user_id: int, limit: int) -> list[int]:
        """Up to so many users with higher ids whose old states give the same answers as the new ones."""
        with self._env.begin() as transaction:
            return ids_after(transaction, self._behind.settled, user_id, limit)

    # Writing

    def put(
        self,
        states: Iterable[tuple[int, bytes]],
        facts: Iterable[tuple[bytes, bytes]] = (),
        catalog: CatalogState | None = None,
    ) -> None:
        """Writes facts, and the states and the catalog unless the stored ones are newer, all or nothing."""
        with self._env.begin(self._users, write=True) as transaction:
            changed = _put_states(transaction, states)
            if catalog is not None:
                self._put_catalog(transaction, catalog)
            for name, value in facts:
                transaction.put(name, value, db=self._facts)
            if changed or catalog is not None:
                self._notes.add(transaction, changed, catalog=catalog is not None)

    def mark(self, outdated: Iterable[bytes], settled: Iterable[bytes], fresh_at: int) -> None:
        """For the follower: marks users, by ids of 8 bytes, who changed and whose states are not written yet.

        Until that boot time their states were right; 0: that is unknown.
        """
        with self._env.begin(write=True) as transaction:
            present = self._catalog_version_in(transaction)
            self._behind.add(transaction, outdated, settled, Mark(fresh_at, present))
            self._put_head(transaction, present)

    def mark_in_need(self, outdated: Iterable[bytes], version: int) -> None:
        """For other processes: marks users whose states need this version of the segments, or a later one."""
        with self._env.begin(write=True) as transaction:
            self._behind.add_in_need(transaction, outdated, version)
            self._put_head(transaction, self._catalog_version_in(transaction))

    def forget_times(self) -> None:
        """After a start of the machine: no state of a marked user may be shown any more."""
        with self._env.begin(write=True) as transaction:
            self._behind.forget_times(transaction)

    def renew(self, user_ids: Iterable[int], states: Iterable[tuple[int, bytes]], version: int) -> None:
        """Writes the states of users, unless the stored ones are newer: they are no longer outdated.

        `version` is that of the segments at the time of these states. Users who need newer states, because
        a process changed a segment meanwhile, stay as they are.
        """
        with self._env.begin(self._users, write=True) as transaction:
            if changed := _put_states(transaction, states):
                self._notes.add(transaction, changed)
            present = self._catalog_version_in(transaction)
            self._behind.remove(transaction, map(KEY.pack, user_ids), version, present)
            self._put_head(transaction, present)

    def forget(self, user_ids: Iterable[int], facts: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Forgets the states of users, who are then outdated, so any state replaces them; writes facts."""
        with self._env.begin(self._users, write=True) as transaction:
            keys = [*map(KEY.pack, user_ids)]
            for key in keys:
                transaction.delete(key)
            present = self._catalog_version_in(transaction)
            self._behind.add_in_need(transaction, keys, present)
            self._put_head(transaction, present)
            for name, value in facts:
                transaction.put(name, value, db=self._facts)
            self._notes.add(transaction, keys)

    def put_own(self, writes: Iterable[tuple[int, OwnWrite]]) -> None:
        """Writes the states that writes of this node led to. Raises Unusable if it cannot show them yet.

        It cannot if another node changed the segments just before. If the replica has no state of a user,
        there is no version to compare: the follower may have left out a user who no longer has overrides. In
        that case the replica's snapshot already saw the write, and the user is not outdated.
        """
        with self._env.begin(self._users, write=True) as transaction:
            catalog_version = self._catalog_version_in(transaction)
            changed: list[bytes] = []
            for user_id, write in writes:
                if catalog_version < write.catalog_version:
                    raise Unusable("it does not know the segments of that moment yet")
                key = KEY.pack(user_id)
                present = transaction.get(key)
                newer = (
                    self._behind.is_outdated(transaction, key)
                    or not self._snapshot_in(transaction).saw(write.xid)
                    if present is None
                    else is_as_new(write.state, present)
                )
                if newer:
                    transaction.put(key, write.state)
                    changed.append(key)
            if changed:
                self._notes.add(transaction, changed)

    def append(self, states: Iterable[tuple[bytes, bytes]]) -> None:
        """Appends states of users whose ids are above all stored ones: the quick way to fill a replica.

        The ids are 8 bytes each, big-endian, as PostgreSQL sends them and as the file stores them.
        """
        with self._env.begin(self._users, write=True) as transaction:
            transaction.cursor().putmulti(states, append=True)

    def put_catalog(self, catalog: CatalogState) -> None:
        """Writes a catalog unless the stored one is newer."""
        self.put([], catalog=catalog)

    def _heed(self, transaction: Transaction, head: bytes, keys: Iterable[bytes], older: int | None) -> None:
        """Does what the head says: reads another catalog, and looks who is outdated."""
        version = head[: KEY.size]
        if version != self._head:
            encoded = transaction.get(b"catalog", b"", self._facts)
            self._catalog = Catalog(msgspec.msgpack.decode(encoded, type=CatalogState))
            self._head = version
        if head.endswith(SOMEBODY_OUTDATED, KEY.size):
            if older is None:
                self._behind.check(transaction, keys, KEY.unpack(version)[0])
            elif KEY.pack(older) != version:
                raise Unusable("the segments changed since these states were right")

    def _snapshot_in(self, transaction: Transaction) -> Snapshot:
        return Snapshot.parsed(transaction.get(b"snapshot", b"", self._facts).decode())


def _put_states(transaction: Transaction, states: Iterable[tuple[int, bytes]]) -> list[bytes]:
    """Returns the keys of the states that changed. A state never replaces a newer one."""
    changed: list[bytes] = []
    for user_id, state in states:
        key = KEY.pack(user_id)
        present = transaction.get(key)
        if present is None or (state != present and is_as_new(state, present)):
            transaction.put(key, state)
            changed.append(key)
    return changed
