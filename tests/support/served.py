"""A whole service on a database, for tests whose service outlives one test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from segmentd.config import Settings
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.support.client import Api
from tests.support.door import open_door


@asynccontextmanager
async def served(database_url: str, folder: Path) -> AsyncIterator[Api]:
    """The service as a client calls it; what it keeps in files is in `folder`."""
    settings = Settings(data_dir=str(folder))
    async with (
        Database(database_url) as database,
        Api(await open_door(service(database, settings), database)) as api,
    ):
        yield api
