"""The whole service in the test's own process, on any database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from segmentd.auth.authenticator import Authenticator
from segmentd.config import Settings
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.support.client import Api
from tests.support.door import OPEN, middleware


@asynccontextmanager
async def node(database_url: str, folder: Path, *, pool_size: int = 10) -> AsyncIterator[Api]:
    """A node with a pool and a folder of its own, called as a client does."""
    settings = Settings(data_dir=str(folder))
    async with Database(database_url, pool_size=pool_size) as database:
        authenticator = Authenticator(database, OPEN)
        door = middleware(service(database, settings), authenticator)
        async with authenticator.watching(), Api(door) as api:
            yield api
