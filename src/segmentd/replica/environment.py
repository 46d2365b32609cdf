"""The file of a replica, open in this process: LMDB's environment, and its tables."""

import os
import secrets
from pathlib import Path
from typing import Final, Self

import lmdb
import msgspec

from segmentd.replica.behind import Behind
from segmentd.replica.catalog import CatalogState
from segmentd.replica.files import Unusable, check_trust, note_synced, note_unsynced_writes, remove
from segmentd.replica.keys import KEY, Transaction
from segmentd.replica.notes import Notes
from segmentd.shared_memory import mapped

FORMAT: Final = b"segmentd replica 4"

# The most that a file may grow to. It takes address space, not memory or disk.
_LARGEST_FILE: Final = 1 << 40
_MOST_READERS: Final = 1024
# The table of readers, 64 bytes each, and its header.
_LOCK_BYTES: Final = 1 << 17

HEAD: Final = b"head"
SOMEBODY_OUTDATED: Final = b"+"
NO_CATALOG: Final = -(1 << 63)

_IDENTITY_BYTES: Final = 16


class Environment:
    """One file. LMDB allows a process to open it only once."""

    def __init__(self, path: Path) -> None:
        # LMDB would make its table of readers as a sparse file, and each reader writes there: on a full disk
        # that kills the process. This has to come before LMDB opens the file, because its lock on the file
        # ends as soon as the process closes any descriptor of it.
        mapped(Path(f"{path}-lock"), _LOCK_BYTES).close()
        # Without sync, so that nothing waits for the disk: after a crash of the machine it is rebuilt.
        self._env = lmdb.open(
            os.fspath(path),
            subdir=False,
            max_dbs=5,
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
        self._behind = Behind.of(self._env)
        self._notes = Notes.of(self._env)

    @classmethod
    def checked(cls, path: Path) -> Self:
        """An existing replica that is complete. Raises Unusable, and OSError if the disk has no room."""
        check_trust(path)
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

    def fact(self, name: bytes) -> bytes | None:
        """The fact with this name."""
        with self._env.begin(self._facts) as transaction:
            return transaction.get(name)

    def forget_dead_readers(self) -> None:
        """Frees the reader slots of processes that were killed while they read."""
        self._env.reader_check()

    def expect_writes(self) -> None:
        """Notes that unsynced writes begin: from now on the file can be trusted only within this boot."""
        note_unsynced_writes(self.path)

    def sync(self) -> None:
        """Brings everything to the disk, and notes that the next boot can go on from it."""
        self._env.sync(force=True)
        note_synced(self.path)

    def _put_catalog(self, transaction: Transaction, catalog: CatalogState) -> None:
        """Unless the stored one is newer."""
        if catalog.version >= self._catalog_version_in(transaction):
            transaction.put(b"catalog", msgspec.msgpack.encode(catalog), db=self._facts)
            self._put_head(transaction, catalog.version)

    def _put_head(self, transaction: Transaction, version: int) -> None:
        if version != NO_CATALOG:
            somebody = self._behind.somebody(transaction)
            head = KEY.pack(version) + (SOMEBODY_OUTDATED if somebody else b"")
            transaction.put(HEAD, head, db=self._facts)

    def _catalog_version_in(self, transaction: Transaction) -> int:
        head = transaction.get(HEAD, None, self._facts)
        return NO_CATALOG if head is None else KEY.unpack_from(head)[0]

    def _check(self) -> None:
        found = self.fact(b"format")
        if found is None:
            raise Unusable("it was never finished")
        if found != FORMAT:
            raise Unusable("it has another format")
        msgspec.msgpack.decode(self.fact(b"catalog") or b"", type=CatalogState)


def completed() -> list[tuple[bytes, bytes]]:
    """What a replica says of itself when it is complete: its format, and which of all replicas it is."""
    return [(b"format", FORMAT), (b"identity", secrets.token_bytes(_IDENTITY_BYTES))]
