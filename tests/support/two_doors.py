"""One state behind two doors: beside a replica that follows it, and with the database alone."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from litestar.types import ASGIApp

from segmentd.auth.authenticator import Authenticator
from segmentd.config import Settings
from segmentd.replica.follower import Follower
from segmentd.replica.replica import Replica
from segmentd.serve.wiring import open_node, service
from segmentd.storage.database import Database
from tests.support.client import Api
from tests.support.door import middleware, open_to_all


class TwoDoors(NamedTuple):
    """The doors without their hot paths, and what a hot path needs. All run in this runner."""

    runner: asyncio.Runner
    replica: Replica
    authenticator: Authenticator
    beside: ASGIApp
    alone: ASGIApp


@contextmanager
def two_doors(
    database_url: str, folder: Path, prepare: Callable[[Api], Awaitable[None]]
) -> Iterator[TwoDoors]:
    """Both doors of a database with what `prepare` makes in it; the replica has all of that."""
    chosen = Settings(data_dir=str(folder))
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def opened() -> TwoDoors:
            database = await stack.enter_async_context(Database(database_url))
            authenticator = await open_to_all(database)
            alone = middleware(service(database, chosen), authenticator)
            await prepare(Api(alone))
            with closing(Follower(database, folder)) as follower:
                await follower.round()
            node = await stack.enter_async_context(open_node(database, chosen, folder))
            beside = middleware(service(database, chosen, node), authenticator)
            return TwoDoors(runner, node.replica, authenticator, beside, alone)

        try:
            yield runner.run(opened())
        finally:
            runner.run(stack.aclose())
