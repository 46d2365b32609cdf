"""What another node needs of a replica to have the same one: all users, and then whoever changed.

A position is the number of LMDB's latest write transaction. It means something in this file alone, whose
identity is a random one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from segmentd.replica.behind import keys_between
from segmentd.replica.catalog import CatalogState
from segmentd.replica.environment import HEAD, SOMEBODY_OUTDATED, Environment
from segmentd.replica.files import Unusable
from segmentd.replica.keys import KEY

# The most users of one page or of one step, and where a page ends that has large states: other requests are
# answered in between.
USERS_AT_ONCE: Final = 2_000
BYTES_AT_ONCE: Final = 2**20
_USERS_LOOKED_AT: Final = 200

State = tuple[bytes, bytes]
"""The id of a user in 8 bytes, big-endian, and the state."""


class Page(NamedTuple):
    """Users by id; between two pages the replica may change."""

    states: Sequence[State]
    outdated: Sequence[bytes]
    """Of the ids up to `last`, those whose states here may be wrong."""
    settled: Sequence[bytes]
    """Those whose states here are not the present ones, and give the same answers."""
    last: bytes | None
    """Up to which id it has all users; None: there are no more."""


class Changes(NamedTuple):
    """The users who changed after a position, as they are now."""

    write: int
    """Up to which write it has all of them."""
    states: Sequence[tuple[bytes, bytes | None]]
    """None: the user has no state any more."""
    is_level: bool
    """Whether `write` is the latest one."""
    some_outdated: bool
    """Whether the state of anybody in the replica may be one of before, or may be missing."""
    version: int
    """The version of the segments."""
    catalog: bytes
    """The segments, if their version is another one than that which was given."""


class Copied(Environment):
    """One file, for other nodes."""

    @property
    def identity(self) -> bytes:
        """Which of all replicas it is. Raises Unusable for one that is not complete."""
        found = self.fact(b"identity")
        if found is None:
            raise Unusable("it is not complete")
        return found

    def page(self, after: bytes, most: int = USERS_AT_ONCE) -> Page:
        """The users after this key of 8 bytes, or from the first one on; so many at most."""
        with self._env.begin(self._users) as transaction:
            with transaction.cursor() as cursor:
                found = cursor.set_range(after + b"\0") if after else cursor.first()
                states, are_all = _taken(cursor.iternext() if found else iter(()), most)
            last = None if are_all else states[-1][0]
            outdated, settled = (
                keys_between(transaction, table, after, last, most) for table in self._behind
            )
        if (ends := [keys[-1] for keys in (outdated, settled) if len(keys) == most]) and last != min(ends):
            last = min(ends)
            states = [(key, state) for key, state in states if key <= last]
            outdated, settled = ([key for key in keys if key <= last] for keys in (outdated, settled))
        return Page(states, outdated, settled, last)

    def changes(self, after: int, version: int | None, most: int = USERS_AT_ONCE) -> Changes | None:
        """The users who changed after this write; the first ones, if they are more than so many.

        None: it is not known any more who did. Raises Unusable if the replica has no segments yet.
        """
        with self._env.begin(self._users) as transaction:
            named = self._notes.named_since(transaction, after, most)
            if named is None:
                return None
            head = transaction.get(HEAD, None, self._facts)
            if head is None:
                raise Unusable("it is not complete")
            present: int = KEY.unpack_from(head)[0]
            states = [(key, transaction.get(key)) for key in named.keys]
            return Changes(
                named.last,
                states,
                is_level=named.last == transaction.id(),
                some_outdated=head.endswith(SOMEBODY_OUTDATED, KEY.size),
                version=present,
                catalog=b"" if present == version else transaction.get(b"catalog", b"", self._facts),
            )

    def latest_note(self) -> int:
        """The number of the latest write that changed users or segments."""
        with self._env.begin() as transaction:
            return self._notes.latest(transaction)

    def show(
        self,
        states: Mapping[bytes, bytes | None],
        catalog: bytes,
        facts: Iterable[tuple[bytes, bytes]],
    ) -> None:
        """For a node that follows another one: what that one has, whatever there was before."""
        with self._env.begin(self._users, write=True) as transaction:
            for key, state in states.items():
                if state is None:
                    transaction.delete(key)
                else:
                    transaction.put(key, state)
            if catalog:
                version = msgspec.msgpack.decode(catalog, type=CatalogState).version
                transaction.put(b"catalog", catalog, db=self._facts)
                self._put_head(transaction, version)
            for name, value in facts:
                transaction.put(name, value, db=self._facts)
            if states or catalog:
                self._notes.add(transaction, [*states], catalog=bool(catalog))

    def begin_notes(self) -> None:
        """After a copy: who changed while it was made is not known."""
        with self._env.begin(write=True) as transaction:
            self._notes.forget_all(transaction)


def _taken(states: Iterator[State], most: int) -> tuple[list[State], bool]:
    """The first users, so many at most and not too large; and whether these are all."""
    taken: list[State] = []
    size = 0
    while len(taken) < most and size < BYTES_AT_ONCE:
        part = [*islice(states, min(_USERS_LOOKED_AT, most - len(taken)))]
        if not part:
            return taken, True
        taken += part
        size += sum(len(state) for _, state in part)
    return taken, False
