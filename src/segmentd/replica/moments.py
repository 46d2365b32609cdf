"""Brings a replica to one moment of the database (docs/decisions/0046, 0064).

The segments of one moment with the users of another would be a state that never was: a user who was excluded
before a percentage began would be in. So the segments come with every user who changed: with their states,
or, if they are many, with marks that say until when the states in the replica were right.
"""

from collections.abc import Callable, Sequence
from typing import Final

from segmentd.domain.identifiers import UserId
from segmentd.replica import timelines
from segmentd.replica.catalog import CatalogState
from segmentd.replica.files import Unusable
from segmentd.replica.keys import KEY
from segmentd.replica.store import Store
from segmentd.replica.timelines import Moment
from segmentd.storage.replication import Position, Reading
from segmentd.storage.snapshots import Snapshot, Window

# So many changed users are written at once, in a millisecond or two.
FEW_USERS: Final = 500
# A process that changed a segment leaves more than this to the follower: it takes some tenths of a second.
MOST_USERS_OF_A_PROCESS: Final = 100_000


async def follow(store: Store, reading: Reading, moment: Moment, fresh_at: int) -> int:
    """Brings the replica to the moment of the reading; returns the version of the segments.

    Afterwards all of it is of that moment, but for the users whom it names: their states are of the boot time
    `fresh_at`. Raises Unusable, Parted.
    """

    def mark(outdated: Sequence[bytes], settled: Sequence[bytes]) -> None:
        store.mark(outdated, settled, fresh_at)

    few = await _changed_users(reading, _missed_by(store, moment.position), mark)
    version = await reading.catalog_version()
    catalog = await _catalog(reading, version) if version != store.catalog_version else None
    store.put(await reading.states(few) if few else (), facts_of(store, moment), catalog)
    return version


async def show_catalog(store: Store, reading: Reading, position: Position) -> None:
    """After a change of segments in this process: shows the segments, with the users of that moment.

    The moment that the replica is said to show stays as it is. Raises Unusable if it is too much.
    """
    window = _missed_by(store, position)
    version = await reading.catalog_version()
    if version == store.catalog_version:
        return
    marked = 0

    def mark(outdated: Sequence[bytes], _: Sequence[bytes]) -> None:
        nonlocal marked
        marked += len(outdated)
        if marked > MOST_USERS_OF_A_PROCESS:
            raise Unusable("too many users changed")
        store.mark_in_need(outdated, version)

    few = await _changed_users(reading, window, mark)
    store.put(await reading.states(few) if few else (), catalog=await _catalog(reading, version))


def shown_by(store: Store, position: Position) -> Snapshot:
    """The snapshot that a replica shows.

    Raises Unusable if the replica cannot follow this database from it, and Parted if it has to go back first.
    """
    source, snapshot, seen = map(store.fact, (b"source", b"snapshot", b"seen"))
    if source is None or snapshot is None or seen is None:
        raise Unusable("it was never finished")
    if source != position.source.encode():
        raise Unusable("it is of another database")
    if int(seen) < position.erasures_since:
        raise Unusable("it may have missed erasures")
    timelines.check(store, position)
    shown = Snapshot.parsed(snapshot.decode())
    if shown.xmax > Snapshot.parsed(position.snapshot).xmax:
        raise Unusable("the database is older than it, as after a restored backup")
    return shown


def facts_of(store: Store, moment: Moment) -> list[tuple[bytes, bytes]]:
    """What a replica that shows this moment says of itself."""
    return [*timelines.facts_of(moment.position), timelines.fact_of(store, moment)]


async def _changed_users(
    reading: Reading, window: Window, mark: Callable[[Sequence[bytes], Sequence[bytes]], None]
) -> list[UserId]:
    """Those who changed, if they are few; else nobody, and all are marked: the outdated and the settled."""
    few: list[bytes] = []
    many = False
    async for outdated, settled in reading.changed_users(window):
        many = many or len(few) + len(outdated) + len(settled) > FEW_USERS
        if many:
            mark([*few, *outdated], settled)
            few = []
        else:
            few += (*outdated, *settled)
    return [UserId(KEY.unpack(key)[0]) for key in few]


def _missed_by(store: Store, position: Position) -> Window:
    return Snapshot.parsed(position.snapshot).since(shown_by(store, position))


async def _catalog(reading: Reading, version: int) -> CatalogState:
    return CatalogState(version, await reading.segments())
