"""One HTTP process: the API on a socket that the supervisor listens on."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from segmentd.api.http.app import create_app
from segmentd.api.http.hot_path import HotPath
from segmentd.api.http.hot_protocol import HotProtocol
from segmentd.config import Settings
from segmentd.serve.child import Assignment, Duty, run_child
from segmentd.serve.wiring import measured, near, service, watched
from segmentd.storage.database import Database


async def serve_http(assignment: Assignment, duty: Duty) -> None:
    """Serves until it has to stop; then lets running requests end."""
    if assignment.listener is None or assignment.replica_dir is None:
        raise ValueError("an HTTP worker needs a listening socket and a folder")
    settings = assignment.settings
    metrics = measured(assignment.metrics_dir)
    with socket.socket(fileno=assignment.listener) as listener:
        async with (
            Database(assignment.database_url, pool_size=settings.pool_size) as database,
            watched(database, metrics),
            near(database, settings, Path(assignment.replica_dir)) as node,
        ):
            app = HotPath(create_app(service(database, settings, node, metrics), metrics), node.replica)
            server = Server(_configured(app, settings), duty.report_ready)
            stopping = asyncio.create_task(server.exit_after(duty.stop), name="wait for the stop")
            await server.serve(sockets=[listener])
            stopping.cancel()


class Server(uvicorn.Server):
    """uvicorn that reports when it accepts connections, and leaves signals to the supervisor's protocol."""

    def __init__(self, config: uvicorn.Config, report_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._report_ready = report_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Reports once the sockets are served."""
        await super().startup(sockets)
        self._report_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """No signal handlers of its own."""
        yield

    async def exit_after(self, stop: asyncio.Event) -> None:
        """Begins the orderly end once `stop` is set."""
        await stop.wait()
        self.should_exit = True


def _configured(app: HotPath, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=HotProtocol.answering_by(app),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.shutdown_seconds),
    )


if __name__ == "__main__":
    run_child(serve_http)
