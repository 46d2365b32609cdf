"""A copy in an LMDB file: the users' states and the catalog, with the snapshot that they show.

Keys of `users` are ids of 64 bits, big-endian; of `facts`: format, source, snapshot, catalog.

Beside the file stands a note: which boot of the machine can vouch for it. It has to be read before LMDB looks
at the file: what a crash of the machine left there may kill whoever reads it.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Self

import lmdb
import msgspec

from segmentd.replica.catalog import Catalog, CatalogState
from segmentd.replica.lookup import Lookup
from segmentd.replica.states import version_of
from segmentd.shared_memory import boot_id, mapped
from segmentd.storage.replication import OwnWrite, Snapshot

FORMAT: Final = b"segmentd replica 1"

# Address space, not memory or disk: what a file may grow to.
_LARGEST_FILE: Final = 1 << 40
_MOST_READERS: Final = 1024
# Room for the readers, 64 bytes each, and what stands before them.
_LOCK_BYTES: Final = 1 << 17
_KEY: Final = struct.Struct(">q")
_NO_CATALOG: Final = _KEY.pack(-(1 << 63))
_SYNCED: Final = b"synced"
_NO_BOOT: Final = b"unknown"


class Unusable(Exception):
    """The copy is of another format or database, torn or gone: it has to be made anew."""


class Store:
    """One copy, open in this process. Reads are a microsecond; writes wait for another process's write."""

    def __init__(self, path: Path) -> None:
        # LMDB would make its table of readers with a hole, and each reader writes there. Before LMDB:
        # its lock on the file ends as soon as the process closes any descriptor of it.
        mapped(Path(f"{path}-lock"), _LOCK_BYTES).close()
        # Not synced, so that nothing waits for the disk: after a crash of the machine it is made anew.
        self._env = lmdb.open(
            os.fspath(path),
            subdir=False,
            max_dbs=2,
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
        self._catalog = Catalog(CatalogState(-1, []))
        self._catalog_version = b""

    @classmethod
    def checked(cls, path: Path) -> Self:
        """An existing copy that is whole. Raises Unusable, and OSError where the disk has no room."""
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
        """A copy that another process of this node made. Raises Unusable where it has gone meanwhile."""
        if not path.exists():
            raise Unusable("it has gone")
        store = cls(path)
        if store.fact(b"format") != FORMAT:  # opening it made it anew
            store.delete()
            raise Unusable("it has gone")
        return store

    def close(self) -> None:
        self._env.close()

    def delete(self) -> None:
        """Closes the copy and removes its files; processes that have it open keep what they see."""
        self.close()
        remove(self.path)

    # Reading

    def segments(self, user_id: int, now: int) -> list[bytes]:
        """The slugs, as JSON strings, that the user is in at `now` (microseconds since 1970)."""
        with self._env.begin(self._users) as transaction:
            catalog = self._current_catalog(transaction)
            state = transaction.get(_KEY.pack(user_id))
        return catalog.segments(user_id, state, now)

    def look_up(self, user_ids: Sequence[int], now: int) -> Lookup:
        """What `segments` needs for many different users, all of one state of the copy."""
        with self._env.begin(self._users) as transaction:
            catalog = self._current_catalog(transaction)
            states = [transaction.get(_KEY.pack(user_id)) for user_id in user_ids]
        return Lookup(catalog, user_ids, states, now)

    def fact(self, name: bytes) -> bytes | None:
        """What is noted under the name."""
        with self._env.begin(self._facts) as transaction:
            return transaction.get(name)

    def users(self) -> int:
        """How many users have a state."""
        with self._env.begin() as transaction:
            entries: int = transaction.stat(self._users)["entries"]
            return entries

    # Writing

    def put(
        self,
        states: Iterable[tuple[int, bytes]],
        facts: Iterable[tuple[bytes, bytes]] = (),
        catalog: CatalogState | None = None,
    ) -> None:
        """Writes states and a catalog that are not older than what is there, and facts, all or nothing."""
        with self._env.begin(self._users, write=True) as transaction:
            for user_id, state in states:
                key = _KEY.pack(user_id)
                present = transaction.get(key)
                if present is None or version_of(state) >= version_of(present):
                    transaction.put(key, state)
            if catalog is not None:
                self._put_catalog(transaction, catalog)
            for name, value in facts:
                transaction.put(name, value, db=self._facts)

    def put_own(self, user_id: int, write: OwnWrite) -> None:
        """Writes the state that a write of this node led to. Raises Unusable where it cannot show it yet.

        So it is when another node changed the segments just before. Where the copy has no state of the user,
        there is no version to tell that it is the older one: the follower may have left out a user who has no
        overrides any more. But then the copy is of a snapshot that saw the write.
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

    def append(self, states: Iterable[tuple[bytes, bytes]]) -> None:
        """Writes states of users above all that are there, by id: the quick way to fill a copy.

        The ids are 8 bytes each, big-endian, as they come from PostgreSQL and as they are kept.
        """
        with self._env.begin(self._users, write=True) as transaction:
            transaction.cursor().putmulti(states, append=True)

    def put_catalog(self, catalog: CatalogState) -> None:
        """Writes a catalog that is not older than the one that is there."""
        self.put([], catalog=catalog)

    def forget_dead_readers(self) -> None:
        """Frees the places of processes that were killed while they read."""
        self._env.reader_check()

    def expect_writes(self) -> None:
        """Notes that writes begin, and none is synced: only this boot of the machine vouches for the file."""
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
    """Removes the files of a copy, those that are there."""
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
        with lmdb.open(os.fspath(path), subdir=False, readonly=True, lock=False, max_dbs=2) as env:
            needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    except (OSError, lmdb.Error) as error:
        raise Unusable(str(error)) from error
    if size < needed:
        raise Unusable(f"it is torn: {size} of {needed} bytes")
