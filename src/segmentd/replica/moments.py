"""What a replica lacks of one moment of the database; one transaction has to write it (docs/decisions/0046).

The segments of one moment with the users of another would be a state that never was: a user who was excluded
before a percentage began would be in.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from segmentd.domain.identifiers import UserId
from segmentd.replica.catalog import CatalogState
from segmentd.replica.store import Store, Unusable
from segmentd.storage.replication import Feed, Position, Snapshot, UserState

# Users that are read at once, and written at once if no segment changed. A write of so many takes a
# millisecond or two, so that the own writes of the HTTP processes, which wait for it, stay quick.
BATCH_USERS: Final = 500
# The most users of one transaction: own writes wait for it for 0.1 s at most.
MOMENT_USERS: Final = 20_000
MOMENT_BYTES: Final = 16 << 20


class Moment(NamedTuple):
    """Segments and users of one snapshot of the database."""

    catalog: CatalogState
    states: Sequence[UserState]


async def newer_catalog(store: Store, feed: Feed) -> CatalogState | None:
    """The segments, if the replica has those of another version."""
    version = await feed.catalog_version()
    known = store.fact(b"catalog version")
    if known is not None and int.from_bytes(known, "big", signed=True) == version:
        return None
    return CatalogState(version, await feed.segments())


async def moment(feed: Feed, catalog: CatalogState, changed: Sequence[UserId]) -> Moment | None:
    """The segments with the changed users; None if that is more than one transaction may hold."""
    if len(changed) > MOMENT_USERS:
        return None
    states: list[UserState] = []
    size = 0
    for begin in range(0, len(changed), BATCH_USERS):
        batch = await feed.states(changed[begin : begin + BATCH_USERS])
        states += batch
        size += sum(len(state.state) for state in batch)
        if size > MOMENT_BYTES:
            return None
    return Moment(catalog, states)


def shown_by(store: Store, position: Position) -> Snapshot:
    """The snapshot that a replica shows.

    Raises Unusable if the replica cannot follow this database from it.
    """
    source, snapshot, seen = map(store.fact, (b"source", b"snapshot", b"seen"))
    if source is None or snapshot is None or seen is None:
        raise Unusable("it was never finished")
    if source != position.source.encode():
        raise Unusable("it is of another database")
    if int(seen) < position.erasures_since:
        raise Unusable("it may have missed erasures")
    shown = Snapshot.parsed(snapshot.decode())
    if shown.xmax > Snapshot.parsed(position.snapshot).xmax:
        raise Unusable("the database is older than it, as after a restored backup")
    return shown
