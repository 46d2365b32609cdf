"""The users of a replica who changed and whose states are not written yet: two tables of the same file.

Of those in `outdated` the database has to be asked. Of those in `settled` the old states give the same
answers, because only what readers knew was written down: that a term had ended, or that a segment had been
deleted.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple, Self

import lmdb

from segmentd.replica.files import Unusable
from segmentd.replica.keys import KEY, Table, Transaction


class Outdated(Unusable):
    """These users changed, and the replica does not know yet how: the database has to be asked."""

    def __init__(self, user_ids: Sequence[int]) -> None:
        super().__init__(f"{len(user_ids)} users changed just now")
        self.user_ids = frozenset(user_ids)


class Behind(NamedTuple):
    """The two tables. A value is empty, or the version of the segments that the new state needs."""

    outdated: Table
    settled: Table

    @classmethod
    def of(cls, env: lmdb.Environment) -> Self:
        return cls(env.open_db(b"outdated"), env.open_db(b"settled"))

    def check(self, transaction: Transaction, keys: Iterable[bytes]) -> None:
        """Raises Outdated where one of the users is."""
        if found := [key for key in keys if transaction.get(key, db=self.outdated) is not None]:
            raise Outdated([KEY.unpack(key)[0] for key in found])

    def is_outdated(self, transaction: Transaction, key: bytes) -> bool:
        """Whether the database has to be asked of this user."""
        return transaction.get(key, db=self.outdated) is not None

    def somebody(self, transaction: Transaction) -> bool:
        """Whether the database has to be asked of anybody."""
        return bool(transaction.stat(self.outdated)["entries"])

    def count(self, transaction: Transaction) -> int:
        """How many users are in the tables; one who is in both counts twice."""
        return sum(transaction.stat(table)["entries"] for table in self)

    def add(
        self,
        transaction: Transaction,
        outdated: Iterable[bytes],
        settled: Iterable[bytes],
        needed: int | None,
    ) -> None:
        """Adds users by their keys; a needed version is stored, if there is one."""
        value = b"" if needed is None else KEY.pack(needed)
        for table, keys in ((self.outdated, outdated), (self.settled, settled)):
            with transaction.cursor(table) as cursor:
                cursor.putmulti([(key, value) for key in keys], overwrite=needed is not None)

    def remove(self, transaction: Transaction, keys: Iterable[bytes], version: int, present: int) -> None:
        """Removes users whose states of the version have been written; not those who need a newer one.

        `present` is the version of the segments in the replica.
        """
        for key in keys:
            needed = transaction.get(key, b"", self.outdated) if present > version else b""
            if not needed or KEY.unpack(needed)[0] <= version:
                transaction.delete(key, db=self.outdated)
                transaction.delete(key, db=self.settled)


def ids_after(transaction: Transaction, table: Table, user_id: int, limit: int) -> list[int]:
    """Up to so many users of a table with higher ids."""
    with transaction.cursor(table) as cursor:
        if not cursor.set_range(KEY.pack(user_id) + b"\0"):
            return []
        return [KEY.unpack(key)[0] for key in islice(cursor.iternext(values=False), limit)]
