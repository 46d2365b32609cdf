"""Applies changes, makes this node's replica show them, and makes their answers."""

from collections.abc import Awaitable, Callable, Sequence

from segmentd.domain.errors import SegmentdError
from segmentd.domain.identifiers import Slug
from segmentd.domain.instants import microseconds
from segmentd.domain.memberships import Changed
from segmentd.observability.metrics import Metrics
from segmentd.replica.catalog import Catalog
from segmentd.replica.node import Node
from segmentd.storage import changes
from segmentd.storage.changes import Applied, Locked, Result, Wanted
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
        results = await self._change(changes.change_together, wanted)
        return [result for result in results if isinstance(result, Changed)]

    async def each(self, wanted: Sequence[Wanted]) -> Sequence[Changed | SegmentdError | Locked]:
        """Each for itself; users whom another transaction holds are left as they are. Raises Unavailable."""
        return await self._change(changes.change_each, wanted)

    async def _change(
        self, change: Callable[..., Awaitable[Sequence[Result]]], wanted: Sequence[Wanted]
    ) -> Sequence[Changed | SegmentdError | Locked]:
        catalog = self._catalog()
        notification = None if self._node is None else self._node.notifier.claim()
        results = await change(self._database, wanted, _version_of(catalog), notify=notification is not None)
        applied = [result for result in results if isinstance(result, Applied)]
        if self._node is not None and applied:
            self._node.show_users([(one.user_id, one.write) for one in applied], notification)
        changed = [_changed(one, catalog) for one in applied]
        self._metrics.changed(changed)
        answers = iter(changed)
        return [next(answers) if isinstance(result, Applied) else result for result in results]

    def _catalog(self) -> Catalog | None:
        """The segments as this node's replica has them; the answers follow from them, if they are current."""
        return None if self._node is None else self._node.replica.catalog()


def _version_of(catalog: Catalog | None) -> int | None:
    return None if catalog is None else catalog.version


def _changed(one: Applied, catalog: Catalog | None) -> Changed:
    segments = _segments(one, catalog)
    return Changed(one.user_id, segments, one.added, one.removed, one.updated, one.unchanged)


def _segments(applied: Applied, catalog: Catalog | None) -> Sequence[Slug]:
    """What the user is in after the change: from the database, unless the node had the same segments."""
    if applied.segments is not None or catalog is None:
        return applied.segments or ()
    return catalog.names(applied.user_id, applied.write.state, microseconds(applied.at))
