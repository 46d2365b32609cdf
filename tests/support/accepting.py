"""The HTTP server of a process within the test's own, with the distributor in front of it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory

from litestar.types import ASGIApp

from segmentd.api.http.edge.connection import LimitedProtocol
from segmentd.serve.distributor import Distributor
from segmentd.serve.http_server import Server, uvicorn_config

PATIENCE_S = 30


@asynccontextmanager
async def accepting(app: ASGIApp, protocol: type[LimitedProtocol]) -> AsyncIterator[tuple[str, int]]:
    """Serves at an address until the end of the context, and has no connection left then."""
    with (
        TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0)) as listener,
        closing(Distributor(listener, Path(folder), workers=1)) as distributor,
    ):
        address = listener.getsockname()
        [queue] = distributor.queues
        ready = asyncio.Event()
        server = Server(uvicorn_config(app, protocol), queue.taking, ready.set)
        running = asyncio.create_task(server.serve())
        await asyncio.wait_for(ready.wait(), PATIENCE_S)
        queue.is_served = True
        distributor.begin()
        try:
            yield address
        finally:
            await distributor.close_port()
            server.should_exit = True
            await asyncio.wait_for(running, PATIENCE_S)
