"""The users of a replica who changed and whose states are not written yet: two tables of the same file.

The states of those in `outdated` are of before: a value says until when they were right. The old states of
those in `settled` give the same answers, because only what readers knew was written down: that a term had
ended, or that a segment had been deleted.
"""

import struct
from collections.abc import Iterable, Mapping
from itertools import islice, takewhile
from typing import Final, NamedTuple, Self

import lmdb

from segmentd.replica.files import Unusable
from segmentd.replica.keys import KEY, Table, Transaction

_MARK: Final = struct.Struct(">qq")


class Outdated(Unusable):
    """These users changed, and the replica does not know yet how."""

    def __init__(self, since: Mapping[int, int], version: int) -> None:
        super().__init__(f"{len(since)} users changed just now")
        self.since = since
        """By user, the boot time at which the state was right; 0 where it may not be shown any more."""
        self.version = version
        """The version of the segments with which the states were right."""

    def of(self, user_id: int) -> "Outdated":
        """The same of one user."""
        return Outdated({user_id: self.since[user_id]}, self.version)


class Mark(NamedTuple):
    """What is noted of a user who changed.

    Either the boot time at which the state in the replica was right, with this version of the segments; or 0:
    it may not be shown any more, and the new state needs at least this version.
    """

    since: int
    version: int


class Behind(NamedTuple):
    """The two tables."""

    outdated: Table
    settled: Table

    @classmethod
    def of(cls, env: lmdb.Environment) -> Self:
        return cls(env.open_db(b"outdated"), env.open_db(b"settled"))

    def check(self, transaction: Transaction, keys: Iterable[bytes], version: int) -> None:
        """Raises Outdated where one of the users is; `version` is that of the segments in the replica."""
        found: dict[int, int] = {}
        for key in keys:
            value = transaction.get(key, db=self.outdated)
            if value is not None:
                mark = Mark._make(_MARK.unpack(value))
                found[KEY.unpack(key)[0]] = mark.since if mark.version == version else 0
        if found:
            raise Outdated(found, version)

    def is_outdated(self, transaction: Transaction, key: bytes) -> bool:
        """Whether the state of this user may be wrong."""
        return transaction.get(key, db=self.outdated) is not None

    def somebody(self, transaction: Transaction) -> bool:
        """Whether the state of anybody may be wrong."""
        return bool(transaction.stat(self.outdated)["entries"])

    def count(self, transaction: Transaction) -> int:
        """How many users are in the tables; one who is in both counts twice."""
        return sum(transaction.stat(table)["entries"] for table in self)

    def add(
        self, transaction: Transaction, outdated: Iterable[bytes], settled: Iterable[bytes], mark: Mark
    ) -> None:
        """Adds users by their keys. The mark of a user who is there already stays, because it is older."""
        value = _MARK.pack(*mark)
        for table, keys in ((self.outdated, outdated), (self.settled, settled)):
            with transaction.cursor(table) as cursor:
                cursor.putmulti([(key, value) for key in keys], overwrite=False)

    def add_in_need(self, transaction: Transaction, outdated: Iterable[bytes], version: int) -> None:
        """Adds users whose new states have to be of this version of the segments or a later one."""
        value = _MARK.pack(0, version)
        with transaction.cursor(self.outdated) as cursor:
            cursor.putmulti([(key, value) for key in outdated])

    def remove(self, transaction: Transaction, keys: Iterable[bytes], version: int, present: int) -> None:
        """Removes users whose states of the version have been written; not those who need a newer one.

        `present` is the version of the segments in the replica.
        """
        some_settled = transaction.stat(self.settled)["entries"] > 0
        for key in keys:
            value = transaction.get(key, db=self.outdated) if present > version else None
            if value is None or Mark._make(_MARK.unpack(value)).version <= version:
                transaction.delete(key, db=self.outdated)
                if some_settled:
                    transaction.delete(key, db=self.settled)

    def forget_times(self, transaction: Transaction) -> None:
        """After a start of the machine, whose boot time began again: no old state may be shown any more."""
        with transaction.cursor(self.outdated) as cursor:
            found = cursor.first()
            while found:
                mark = Mark._make(_MARK.unpack(cursor.value()))
                cursor.put(cursor.key(), _MARK.pack(0, mark.version), dupdata=False)
                found = cursor.next()


def ids_after(transaction: Transaction, table: Table, user_id: int, limit: int) -> list[int]:
    """Up to so many users of a table with higher ids."""
    with transaction.cursor(table) as cursor:
        if not cursor.set_range(KEY.pack(user_id) + b"\0"):
            return []
        return [KEY.unpack(key)[0] for key in islice(cursor.iternext(values=False), limit)]


def keys_between(
    transaction: Transaction, table: Table, after: bytes, last: bytes | None, most: int
) -> list[bytes]:
    """The keys of a table after one and up to another, so many at most; None: to the end."""
    with transaction.cursor(table) as cursor:
        found = cursor.set_range(after + b"\0") if after else cursor.first()
        keys = islice(cursor.iternext(values=False), most) if found else iter(())
        return [*takewhile(lambda key: last is None or key <= last, keys)]
