"""Applies changes, makes this node's replica show them, and makes their answers."""

from collections.abc import Sequence

from segmentd.domain.errors import SegmentdError
from segmentd.domain.identifiers import Slug
from segmentd.domain.instants import microseconds
from segmentd.domain.memberships import Changed
from segmentd.observability.metrics import Metrics
from segmentd.replica.catalog import Catalog
from segmentd.replica.node import Node
from segmentd.storage import changes
from segmentd.storage.changes import Applied, Locked, Wanted
from segmentd.storage.database import Database


class Applying:
    """Applies changes of different users in one transaction."""

    def __init__(self, database: Database, node: Node | None, metrics: Metrics) -> None:
        self._database = database
        self._node = node
        self._metrics = metrics

    async def together(self, wanted: Sequence[Wanted]) -> Sequence[Changed]:
        """All or nothing; waits for users whom another transaction holds.

        Raises SegmentNotFound, Invalid, Unavailable.
        """
        catalog = self._catalog()
        return self._shown(
            await changes.change_together(self._database, wanted, _version_of(catalog)), catalog
        )

    async def each(self, wanted: Sequence[Wanted]) -> Sequence[Changed | SegmentdError | Locked]:
        """Each for itself; users whom another transaction holds are left as they are. Raises Unavailable."""
        catalog = self._catalog()
        results = await changes.change_each(self._database, wanted, _version_of(catalog))
        shown = iter(self._shown([result for result in results if isinstance(result, Applied)], catalog))
        return [next(shown) if isinstance(result, Applied) else result for result in results]

    def _catalog(self) -> Catalog | None:
        """The segments as this node's replica has them; the answers follow from them, if they are current."""
        return None if self._node is None else self._node.replica.catalog()

    def _shown(self, applied: Sequence[Applied], catalog: Catalog | None) -> Sequence[Changed]:
        if self._node is not None and applied:
            self._node.show_users([(one.user_id, one.write) for one in applied])
        changed = [
            Changed(one.user_id, _segments(one, catalog), one.added, one.removed, one.updated, one.unchanged)
            for one in applied
        ]
        self._metrics.changed(changed)
        return changed


def _version_of(catalog: Catalog | None) -> int | None:
    return None if catalog is None else catalog.version


def _segments(applied: Applied, catalog: Catalog | None) -> Sequence[Slug]:
    """What the user is in after the change: from the database, unless the node had the same segments."""
    if applied.segments is not None or catalog is None:
        return applied.segments or ()
    return catalog.names(applied.user_id, applied.write.state, microseconds(applied.at))
