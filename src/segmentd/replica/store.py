"""A replica in an LMDB file: the users' states and the catalog, with the snapshot that they show.

Keys of `users` are ids of 64 bits, big-endian; of `facts`: format, source, snapshot, catalog. Keys of
`changes` are the numbers of LMDB's latest write transactions, and the values the ids of the users that each
changed; an empty one means many, or the catalog.

Beside the file is a note with the boot of the machine in which the file can be trusted. It has to be read
before LMDB opens the file: a file left by a crash of the machine may kill a process that reads it.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

import lmdb
import msgspec

from segmentd.domain.decisions import Decision, Decisions
from segmentd.replica.catalog import Catalog, CatalogState
from segmentd.replica.lookup import Lookup
from segmentd.replica.states import next_end, version_of
from segmentd.shared_memory import boot_id, mapped
from segmentd.storage.replication import OwnWrite, Snapshot

FORMAT: Final = b"segmentd replica 1"

# The most that a file may grow to. It takes address space, not memory or disk.
_LARGEST_FILE: Final = 1 << 40
_MOST_READERS: Final = 1024
# The table of readers, 64 bytes each, and its header.
_LOCK_BYTES: Final = 1 << 17
_KEY: Final = struct.Struct(">q")
_NO_CATALOG: Final = _KEY.pack(-(1 << 63))
# How many transactions `changes` keeps, and the most users of one that are named.
CHANGES_KEPT: Final = 1024
USERS_NAMED: Final = 500
_SYNCED: Final = b"synced"
_NO_BOOT: Final = b"unknown"


class Unusable(Exception):
    """The replica is of another format or database, damaged or missing: it has to be rebuilt."""


class Watched(NamedTuple):
    """What one who watches a user compares, and when to look again though nothing is written."""

    fingerprint: bytes
    next_end: int | None
    """The next end of a term, in microseconds since 1970."""


class Store:
    """One replica, open in this process. A read takes a microsecond; a write waits for another's write."""

    def __init__(self, path: Path) -> None:
        # LMDB would make its table of readers as a sparse file, and each reader writes there: on a full disk
        # that kills the process. This has to come before LMDB opens the file, because its lock on the file
        # ends as soon as the process closes any descriptor of it.
        mapped(Path(f"{path}-lock"), _LOCK_BYTES).close()
        # Without sync, so that nothing waits for the disk: after a crash of the machine it is rebuilt.
        self._env = lmdb.open(
            os.fspath(path),
            subdir=False,
            max_dbs=3,
            map_size=_LARGEST_FILE,
            max_readers=_MOST_READERS,
            max_spare_txns=4,
            sync=False,
            metasync=False,
            lock=True,
            mode=0o600,
        )
        self.path = path
        self._users = self._env.open_db(b"users")
        self._facts = self._env.open_db(b"facts")
        self._changes = self._env.open_db(b"changes")
        self._catalog = Catalog(CatalogState(-1, []))
        self._catalog_version = b""

    @classmethod
    def checked(cls, path: Path) -> Self:
        """An existing replica that is complete. Raises Unusable, and OSError if the disk has no room."""
        _check_note(path)
        _check_size(path)
        try:
            store = cls(path)
        except lmdb.Error as error:
            raise Unusable(str(error)) from error
        try:
            store._check()
        except (Unusable, lmdb.Error, msgspec.MsgspecError) as error:
            store.close()
            raise Unusable(str(error)) from error
        return store

    @classmethod
    def existing(cls, path: Path) -> Self:
        """A replica that another process of this node built. Raises Unusable if it was removed meanwhile."""
        if not path.exists():
            raise Unusable("it has gone")
        store = cls(path)
        if store.fact(b"format") != FORMAT:  # opening it created an empty file
            store.delete()
            raise Unusable("it has gone")
        return store

    def close(self) -> None:
        self._env.close()

    def delete(self) -> None:
        """Closes the replica and removes its files; a process that has it open can still read it."""
        self.close()
        remove(self.path)

    # Reading

    def segments(self, user_id: int, now: int) -> list[bytes]:
        """The slugs, as JSON strings, that the user is in at `now` (microseconds since 1970)."""
        with self._env.begin(self._users) as transaction:
            catalog = self._current_catalog(transaction)
            state = transaction.get(_KEY.pack(user_id))
        return catalog.segments(user_id, state, now)

    def decisions(self, user_id: int, now: int) -> Decisions:
        """What decides about the user and each segment at `now`."""
        with self._env.begin(self._users) as transaction:
            catalog = self._current_catalog(transaction)
            state = transaction.get(_KEY.pack(user_id))
        return catalog.decisions(user_id, state, now)

    def decision(self, slug: bytes, user_id: int, now: int) -> Decision | None:
        """What decides about the user and one segment at `now`; None if there is no such segment."""
        with self._env.begin(self._users) as transaction:
            catalog = self._current_catalog(transaction)
            state = transaction.get(_KEY.pack(user_id))
        return catalog.decision(slug, user_id, state, now)

    def watched(self, user_id: int, now: int) -> Watched:
        """What one who watches the user compares."""
        with self._env.begin(self._users) as transaction:
            catalog = self._current_catalog(transaction)
            state = transaction.get(_KEY.pack(user_id))
        fingerprint = catalog.fingerprint(user_id, state, now)
        return Watched(fingerprint, None if state is None else next_end(state, now))

    def changed_since(self, number: int) -> tuple[int, Sequence[int] | None]:
        """The number of the latest write, and the users that writes after `number` changed; None: any."""
        with self._env.begin(self._changes) as transaction:
            latest: int = transaction.id()
            if latest - number >= CHANGES_KEPT:
                return latest, None
            users: list[int] = []
            with transaction.cursor() as cursor:
                found = cursor.set_range(_KEY.pack(number + 1))
                while found:
                    named = cursor.value()
                    if not named:
                        return latest, None
                    users += [user_id for (user_id,) in _KEY.iter_unpack(named)]
                    found = cursor.next()
        return latest, users

    def look_up(self, user_ids: Sequence[int], now: int) -> Lookup:
        """What `segments` needs for many different users, all from one state of the replica."""
        with self._env.begin(self._users) as transaction:
            catalog = self._current_catalog(transaction)
            states = [transaction.get(_KEY.pack(user_id)) for user_id in user_ids]
        return Lookup(catalog, user_ids, states, now)

    def fact(self, name: bytes) -> bytes | None:
        """The fact with this name."""
        with self._env.begin(self._facts) as transaction:
            return transaction.get(name)

    def users(self) -> int:
        """How many users have a state."""
        with self._env.begin() as transaction:
            entries: int = transaction.stat(self._users)["entries"]
            return entries

    def notes(self) -> int:
        """How many writes `changes` has notes of."""
        with self._env.begin() as transaction:
            entries: int = transaction.stat(self._changes)["entries"]
            return entries

    # Writing

    def put(
        self,
        states: Iterable[tuple[int, bytes]],
        facts: Iterable[tuple[bytes, bytes]] = (),
        catalog: CatalogState | None = None,
    ) -> None:
        """Writes facts, and the states and the catalog unless the stored ones are newer, all or nothing."""
        changed: list[bytes] = []
        with self._env.begin(self._users, write=True) as transaction:
            for user_id, state in states:
                key = _KEY.pack(user_id)
                present = transaction.get(key)
                if present is None or (state != present and version_of(state) >= version_of(present)):
                    transaction.put(key, state)
                    changed.append(key)
            if catalog is not None:
                self._put_catalog(transaction, catalog)
            for name, value in facts:
                transaction.put(name, value, db=self._facts)
            if changed or catalog is not None:
                self._note_changes(transaction, [] if catalog is not None else changed)

    def put_own(self, user_id: int, write: OwnWrite) -> None:
        """Writes the state that a write of this node led to. Raises Unusable if it cannot show it yet.

        It cannot if another node changed the segments just before. If the replica has no state of the user,
        there is no version to compare: the follower may have left out a user who no longer has overrides. In
        that case the replica's snapshot already saw the write.
        """
        with self._env.begin(self._users, write=True) as transaction:
            if self._catalog_version_in(transaction) < write.catalog_version:
                raise Unusable("it does not know the segments of that moment yet")
            key = _KEY.pack(user_id)
            present = transaction.get(key)
            newer = (
                not Snapshot.parsed(transaction.get(b"snapshot", b"", self._facts).decode()).saw(write.xid)
                if present is None
                else version_of(write.state) >= version_of(present)
            )
            if newer:
                transaction.put(key, write.state)
                self._note_changes(transaction, [key])

    def append(self, states: Iterable[tuple[bytes, bytes]]) -> None:
        """Appends states of users whose ids are above all stored ones: the quick way to fill a replica.

        The ids are 8 bytes each, big-endian, as PostgreSQL sends them and as the file stores them.
        """
        with self._env.begin(self._users, write=True) as transaction:
            transaction.cursor().putmulti(states, append=True)

    def put_catalog(self, catalog: CatalogState) -> None:
        """Writes a catalog unless the stored one is newer."""
        self.put([], catalog=catalog)

    def forget_dead_readers(self) -> None:
        """Frees the reader slots of processes that were killed while they read."""
        self._env.reader_check()

    def expect_writes(self) -> None:
        """Notes that unsynced writes begin: from now on the file can be trusted only within this boot."""
        _write_note(self.path, boot_id() or _NO_BOOT)

    def sync(self) -> None:
        """Brings everything to the disk, and notes that the next boot can go on from it."""
        self._env.sync(force=True)
        _write_note(self.path, _SYNCED)

    def _current_catalog(self, transaction: lmdb.Transaction) -> Catalog:
        version = transaction.get(b"catalog version", self._catalog_version, self._facts)
        if version != self._catalog_version:
            encoded = transaction.get(b"catalog", b"", self._facts)
            self._catalog = Catalog(msgspec.msgpack.decode(encoded, type=CatalogState))
            self._catalog_version = bytes(version)
        return self._catalog

    def _note_changes(self, transaction: lmdb.Transaction, changed: Sequence[bytes]) -> None:
        """Notes these users, or any if there are many or none, for those who watch; forgets old notes."""
        number = transaction.id()
        named = b"".join(changed) if len(changed) <= USERS_NAMED else b""
        transaction.put(_KEY.pack(number), named, append=True, db=self._changes)
        oldest_kept = _KEY.pack(max(number - CHANGES_KEPT, 0))
        with transaction.cursor(self._changes) as cursor:
            while cursor.first() and bytes(cursor.key()) < oldest_kept:
                cursor.delete()

    def _put_catalog(self, transaction: lmdb.Transaction, catalog: CatalogState) -> None:
        if catalog.version >= self._catalog_version_in(transaction):
            transaction.put(b"catalog version", _KEY.pack(catalog.version), db=self._facts)
            transaction.put(b"catalog", msgspec.msgpack.encode(catalog), db=self._facts)

    def _catalog_version_in(self, transaction: lmdb.Transaction) -> int:
        version: int = _KEY.unpack(transaction.get(b"catalog version", _NO_CATALOG, self._facts))[0]
        return version

    def _check(self) -> None:
        found = self.fact(b"format")
        if found is None:
            raise Unusable("it was never finished")
        if found != FORMAT:
            raise Unusable("it has another format")
        msgspec.msgpack.decode(self.fact(b"catalog") or b"", type=CatalogState)


def remove(path: Path) -> None:
    """Removes the files of a replica, those that are there."""
    for each in (path, Path(f"{path}-lock"), _note_of(path), Path(f"{_note_of(path)}.new")):
        each.unlink(missing_ok=True)


def _note_of(path: Path) -> Path:
    return Path(f"{path}-boot")


def _write_note(path: Path, note: bytes) -> None:
    """As a whole: where the disk has no room, what was noted stays."""
    begun = Path(f"{_note_of(path)}.new")
    with begun.open("wb") as file:
        file.write(note)
        file.flush()
        os.fsync(file.fileno())
    begun.rename(_note_of(path))


def _check_note(path: Path) -> None:
    try:
        note = _note_of(path).read_bytes()
    except OSError as error:
        raise Unusable(str(error)) from error
    if note not in {_SYNCED, boot_id()}:
        raise Unusable("the machine went down before it was on the disk")


def _check_size(path: Path) -> None:
    """LMDB maps the file into memory: what is missing at its end would kill the process that reads there."""
    try:
        size = path.stat().st_size
        with lmdb.open(os.fspath(path), subdir=False, readonly=True, lock=False, max_dbs=3) as env:
            needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    except (OSError, lmdb.Error) as error:
        raise Unusable(str(error)) from error
    if size < needed:
        raise Unusable(f"it is torn: {size} of {needed} bytes")
