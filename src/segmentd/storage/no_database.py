"""Stands where a node has no database: whatever needs one is refused."""

from typing import NoReturn, Self

from segmentd.domain.errors import NoDatabase
from segmentd.storage.database import Database, PoolLoad


class Nowhere(Database):
    """Connects to nothing. Each use raises NoDatabase, which names the neighbour."""

    def __init__(self, neighbour: str) -> None:
        super().__init__("", pool_size=1)
        self._neighbour = neighbour

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Has nothing to close."""

    def check(self) -> None:
        """Raises NoDatabase."""
        raise NoDatabase(self._neighbour)

    def load(self) -> PoolLoad:
        """There are no connections."""
        return PoolLoad(0, 0, 0)

    def _connection(self) -> NoReturn:
        raise NoDatabase(self._neighbour)
