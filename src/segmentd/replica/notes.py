"""Notes of the latest writes of a replica, for those who follow it: a table of the same file.

Its keys are the numbers of LMDB's write transactions. A value has the ids of the users that one changed, and
then a byte, if the catalog changed too, or if there were too many users to name them.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Self

import lmdb

from segmentd.replica.keys import KEY, Table, Transaction

# The most users of one transaction that are named.
USERS_NAMED: Final = 2_000
# How far back those who watch users look; after more writes they look at all whom they watch.
WRITES_WATCHED: Final = 1024
# The size of the table: a million small writes, or four million users of mass changes. Other nodes that are
# further behind take another copy.
MOST_BYTES: Final = 32 * 2**20
# So many notes are forgotten with one write at most, so that it stays quick.
_FORGOTTEN_AT_ONCE: Final = 1024

_CATALOG: Final = b"c"
_ANYBODY: Final = b"*"
# The value of this key is the number of the latest write whose note was forgotten.
_FORGOTTEN: Final = KEY.pack(0)


class Named(NamedTuple):
    """The users of some writes that follow each other."""

    keys: Sequence[bytes]
    """Each once."""
    last: int
    """The number of the last of these writes."""


class Notes(NamedTuple):
    """The table."""

    table: Table

    @classmethod
    def of(cls, env: lmdb.Environment) -> Self:
        return cls(env.open_db(b"changes"))

    def add(self, transaction: Transaction, changed: Sequence[bytes], *, catalog: bool = False) -> None:
        """Notes that these users changed, and whether the catalog did; forgets old notes."""
        flag = b"" if len(changed) <= USERS_NAMED else _ANYBODY
        value = flag or b"".join(changed) + (_CATALOG if catalog else b"")
        transaction.put(KEY.pack(transaction.id()), value, append=True, db=self.table)
        if self._bytes(transaction) > MOST_BYTES:
            self._forget(transaction)

    def since(self, transaction: Transaction, number: int) -> tuple[int, Sequence[int] | None]:
        """The number of the latest write, and the users that writes after `number` changed; None: any.

        It is any if the catalog changed.
        """
        latest: int = transaction.id()
        if latest - number >= WRITES_WATCHED or number < self.forgotten(transaction):
            return latest, None
        users: list[int] = []
        for _, named, flag in self._after(transaction, number):
            if flag:
                return latest, None
            users += [user_id for (user_id,) in KEY.iter_unpack(named)]
        return latest, users

    def named_since(self, transaction: Transaction, number: int, most: int) -> Named | None:
        """The users that writes after `number` changed: of all such writes, or of the first ones.

        It stops after the write that brings them to so many. None: some of them are not known any more.
        """
        latest: int = transaction.id()
        if not self.forgotten(transaction) <= number <= latest:
            return None
        keys: dict[bytes, None] = {}
        for write, named, flag in self._after(transaction, number):
            if flag == _ANYBODY:
                return None
            keys.update((named[place : place + KEY.size], None) for place in range(0, len(named), KEY.size))
            if len(keys) >= most:
                return Named([*keys], write)
        return Named([*keys], latest)

    def latest(self, transaction: Transaction) -> int:
        """The number of the latest write that has a note; 0 if there is none."""
        with transaction.cursor(self.table) as cursor:
            number: int = KEY.unpack(cursor.key())[0] if cursor.last() else 0
            return number

    def forgotten(self, transaction: Transaction) -> int:
        """The number of the latest write whose note was forgotten; 0 if there is none."""
        number: int = KEY.unpack(transaction.get(_FORGOTTEN, _FORGOTTEN, db=self.table))[0]
        return number

    def forget_all(self, transaction: Transaction) -> None:
        """From now on nobody can know who changed in the writes up to this one."""
        transaction.drop(self.table, delete=False)
        transaction.put(_FORGOTTEN, KEY.pack(transaction.id()), db=self.table)

    def _bytes(self, transaction: Transaction) -> int:
        found = transaction.stat(self.table)
        pages: int = found["leaf_pages"] + found["overflow_pages"]
        size: int = pages * found["psize"]
        return size

    def _forget(self, transaction: Transaction) -> None:
        with transaction.cursor(self.table) as cursor:
            last = b""
            for _ in range(_FORGOTTEN_AT_ONCE):
                if self._bytes(transaction) <= MOST_BYTES or not cursor.set_range(KEY.pack(1)):
                    break
                last = cursor.key()
                cursor.delete()
        if last:
            transaction.put(_FORGOTTEN, last, db=self.table)

    def _after(self, transaction: Transaction, number: int) -> Iterator[tuple[int, bytes, bytes]]:
        """The number, the users and the byte at the end of each note after a write."""
        with transaction.cursor(self.table) as cursor:
            if cursor.set_range(KEY.pack(max(number, 0) + 1)):
                for key, value in cursor.iternext():
                    end = len(value) - len(value) % KEY.size
                    yield KEY.unpack(key)[0], value[:end], value[end:]
