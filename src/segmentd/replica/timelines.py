"""A replica goes on after a fail-over, if the new primary has what the replica has seen.

A standby that becomes the primary begins a timeline of the write-ahead log, and lacks what came to the old
primary's log after that place. So a replica keeps its latest moments, each with its place in the log. It goes
back to the last one that the new primary still has, and forgets the states of all users who were written
since: what the new primary lacks of them is gone from the replica too.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import structs

from segmentd.replica.files import Unusable
from segmentd.replica.store import Store
from segmentd.storage.replication import Position, Reading

_FACT: Final = b"moments"
# The earliest moment is some three seconds old, and more where there is little to do.
_MOST: Final = 12
_APART_US: Final = 250_000


class Parted(Unusable):
    """The database is on another timeline, or lacks what the replica has seen."""


class Moment(msgspec.Struct, frozen=True, array_like=True):
    """A position of the database; `write` is the number of the replica's latest write before it."""

    position: Position
    write: int


async def present(store: Store, reading: Reading) -> Moment:
    """The moment of this transaction, which has read nothing yet."""
    # Before the snapshot is taken: every own write up to this number is then in the snapshot.
    write = store.last_write
    return Moment(await reading.position(), write)


def fact_of(store: Store, moment: Moment) -> tuple[bytes, bytes]:
    """What a replica that shows this moment says of its latest ones."""
    moments = [*_moments(store)]
    # The last one is always the present one, and those before are some time apart.
    if len(moments) > 1 and moment.position.instant - moments[-2].position.instant < _APART_US:
        moments.pop()
    return _FACT, msgspec.msgpack.encode([*moments, moment][-_MOST:])


def check(store: Store, position: Position) -> None:
    """Raises Parted if the replica has to go back before it can follow the database from this position."""
    last = _moments(store)[-1].position
    if last.timeline != position.timeline:
        raise Parted(f"the database is on timeline {position.timeline}, and it on {last.timeline}")
    if last.place > position.place:
        raise Parted("the database is older than it")


async def go_back(store: Store, reading: Reading, timeline: int) -> int:
    """Goes back to the latest moment that this timeline still has; how many users it forgot.

    Raises Parted, with nothing changed, if there is none, or if more than users changed since.
    """
    moments = [*_moments(store)]
    while moments and not await reading.still_has(moments[-1].position):
        moments.pop()
    if not moments:
        raise Parted("the database lacks what it has seen")
    # Up to where the timelines part, a place is the same one on both.
    kept = [Moment(structs.replace(each.position, timeline=timeline), each.write) for each in moments]
    user_ids = written_since(store, kept[-1].write)
    store.forget(user_ids, [(_FACT, msgspec.msgpack.encode(kept)), *facts_of(kept[-1].position)])
    return len(user_ids)


def written_since(store: Store, write: int) -> Sequence[int]:
    """The users who were written after the write of this number. Raises Parted if that is not known."""
    _, user_ids = store.changed_since(write)
    if user_ids is None:
        raise Parted("it does not know who was written since")
    return sorted({*user_ids})


def shown(store: Store) -> Position | None:
    """The latest position that the replica shows; None if it follows no database."""
    moments = _moments(store)
    return moments[-1].position if moments else None


def facts_of_copy(position: Position) -> list[tuple[bytes, bytes]]:
    """What a copy says of itself whose users are of this position or of later ones.

    It cannot go back before its first round: of what it has seen since it does not know who it was.
    """
    return [*facts_of(position), (_FACT, msgspec.msgpack.encode([Moment(position, 0)]))]


def facts_of(position: Position) -> list[tuple[bytes, bytes]]:
    """What a replica that shows this position says of itself."""
    return [
        (b"source", position.source.encode()),
        (b"snapshot", position.snapshot.encode()),
        (b"seen", str(position.instant).encode()),
    ]


def _moments(store: Store) -> Sequence[Moment]:
    encoded = store.fact(_FACT)
    return [] if encoded is None else msgspec.msgpack.decode(encoded, type=list[Moment])
