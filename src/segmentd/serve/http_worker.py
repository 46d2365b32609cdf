"""One HTTP process: the API on connections that the supervisor accepts."""

import asyncio
import resource
import socket
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from segmentd.api.http.edge.tracing import trace_requests
from segmentd.api.http.hot.protocol import HotProtocol
from segmentd.background import background
from segmentd.serve.child import Assignment, Duty, run_child
from segmentd.serve.connection_queue import EndedHere
from segmentd.serve.http_door import cors_of, http_door, open_console
from segmentd.serve.http_server import Server, uvicorn_config
from segmentd.serve.limits import connection_limits
from segmentd.serve.wiring import (
    database_of,
    metrics_in,
    open_authenticator,
    open_node,
    open_tracing,
    sampling,
    service,
)
from segmentd.service import Service

# numexpr releases the interpreter lock within a hot read. A busy thread, such as one that renders the page of
# metrics, gives the lock back after this time.
SWITCH_INTERVAL_S: Final = 0.0005


async def serve_http(assignment: Assignment, duty: Duty) -> None:
    """Serves until the stop; then lets running requests end."""
    if assignment.connections is None or assignment.replica_dir is None:
        raise ValueError("an HTTP worker needs a queue of connections and a folder")
    settings, folder = assignment.settings, Path(assignment.replica_dir)
    url, metrics = assignment.database_url, metrics_in(assignment.metrics_dir)
    _allow_open_files()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with (
        open_tracing() as tracing,
        socket.socket(fileno=assignment.connections) as queue,
        closing(EndedHere(folder, assignment.number)) as ended,
    ):
        async with (
            background(ended.memory.share_when_there_is_room(), "share the count of connections"),
            database_of(url, settings, settings.pool_size, tracing=tracing) as database,
            # Exports are long; with connections of their own they do not delay other requests.
            database_of(url, settings, settings.exports_at_once, idle=0, tracing=tracing) as export_database,
            sampling(database, metrics),
            open_node(database, settings, folder, metrics) as node,
            open_authenticator(
                url,
                settings,
                folder,
                may_be_open=assignment.may_be_open,
                rate_key=assignment.rate_key,
            ) as authenticator,
            open_console(database, settings, folder, authenticator, assignment.rate_key) as console,
        ):
            use_cases = service(database, settings, node, metrics, export_database)
            hot_path, in_progress, changes = http_door(
                use_cases, settings, authenticator, node.replica, metrics, console
            )
            app = hot_path if tracing is None else trace_requests(hot_path, tracing)
            protocol = HotProtocol.answering_by(
                hot_path.calls,
                tracing.headers if tracing else (),
                hot_path.evaluations,
                # A change that shall have a span goes the longer way.
                changes if tracing is None else None,
            ).within(
                connection_limits(settings),
                metrics.refused if metrics else None,
                cors=cors_of(settings),
                ended=ended.add,
            )
            server = Server(
                uvicorn_config(app, protocol),
                queue,
                duty.report_ready,
                in_progress.cut_off,
                settings.shutdown_seconds,
            )
            async with (
                background(_leave(use_cases, duty.leaving), "wait for the stop to be near"),
                background(server.exit_after(duty.stop), "wait for the stop"),
                background(_end_streams(use_cases, duty.stop), "wait to end streams"),
                use_cases.watching(),
            ):
                await server.serve()


def _allow_open_files() -> None:
    """Raises the limit of open files as far as the system allows: every connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError):  # macOS reports no limit, and refuses to set none
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _leave(use_cases: Service, leaving: asyncio.Event) -> None:
    await leaving.wait()
    use_cases.leave()


async def _end_streams(use_cases: Service, stop: asyncio.Event) -> None:
    await stop.wait()
    use_cases.end_watching()


def main() -> None:
    """The process."""
    run_child(serve_http)


if __name__ == "__main__":
    main()
