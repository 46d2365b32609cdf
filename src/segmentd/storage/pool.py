"""A pool of connections that gives the one that was used last."""

from collections import deque
from typing import Any

from psycopg_pool import AsyncConnectionPool

from segmentd.storage.sessions import Session


class _LatestFirst(deque[Session]):
    """Idle connections, of which the pool takes the first."""

    def append(self, session: Session, /) -> None:
        """Puts a connection that came back before all others."""
        self.appendleft(session)


class LatestFirstPool(AsyncConnectionPool[Session]):
    """The pool of psycopg, in another order.

    Each connection is a process of PostgreSQL with caches and plans of its own. By turn, as the original
    gives them, these would have left the processor's cache before their turn comes (docs/decisions/0057).
    """

    def __init__(self, conninfo: str, **options: Any) -> None:  # noqa: ANN401 - as the original has them
        super().__init__(conninfo, connection_class=Session, **options)
        self._pool = _LatestFirst()
