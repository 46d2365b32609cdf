"""Notes of the latest writes of a replica, for those who watch users: a table of the same file.

Its keys are the numbers of LMDB's write transactions, its values the ids of the users that each changed; an
empty one means many, or the catalog.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Self

import lmdb

from segmentd.replica.keys import KEY, Table, Transaction

# How many transactions have notes, and the most users of one that are named.
WRITES_KEPT: Final = 1024
USERS_NAMED: Final = 2_000


class Notes(NamedTuple):
    """The table."""

    table: Table

    @classmethod
    def of(cls, env: lmdb.Environment) -> Self:
        return cls(env.open_db(b"changes"))

    def add(self, transaction: Transaction, changed: Sequence[bytes]) -> None:
        """Notes these users, or any if there are many or none; forgets old notes."""
        number = transaction.id()
        named = b"".join(changed) if len(changed) <= USERS_NAMED else b""
        transaction.put(KEY.pack(number), named, append=True, db=self.table)
        oldest_kept = KEY.pack(max(number - WRITES_KEPT, 0))
        with transaction.cursor(self.table) as cursor:
            while cursor.first() and bytes(cursor.key()) < oldest_kept:
                cursor.delete()

    def since(self, transaction: Transaction, number: int) -> tuple[int, Sequence[int] | None]:
        """The number of the latest write, and the users that writes after `number` changed; None: any."""
        latest: int = transaction.id()
        if latest - number >= WRITES_KEPT:
            return latest, None
        users: list[int] = []
        with transaction.cursor(self.table) as cursor:
            found = cursor.set_range(KEY.pack(number + 1))
            while found:
                named = cursor.value()
                if not named:
                    return latest, None
                users += [user_id for (user_id,) in KEY.iter_unpack(named)]
                found = cursor.next()
        return latest, users

    def count(self, transaction: Transaction) -> int:
        """How many writes have notes."""
        entries: int = transaction.stat(self.table)["entries"]
        return entries
