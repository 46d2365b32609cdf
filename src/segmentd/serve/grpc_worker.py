"""The process of a node that serves gRPC (docs/decisions/0070)."""

import asyncio
from pathlib import Path
from typing import Final

from segmentd.api.grpc.calls import Calls, Limits
from segmentd.api.grpc.hot import HotReads
from segmentd.api.grpc.server import GrpcServer, ServerLimits
from segmentd.background import background
from segmentd.config import Settings
from segmentd.domain.errors import Unavailable
from segmentd.observability.metrics import Metrics
from segmentd.serve.child import Assignment, Duty, run_child
from segmentd.serve.grpc_tls import listen
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

# How often health learns whether the service is ready.
LOOK_EVERY_S: Final = 0.5


async def serve_grpc(assignment: Assignment, duty: Duty) -> None:
    """Serves until the stop; then lets running calls end."""
    if assignment.replica_dir is None or assignment.grpc_address is None:
        raise ValueError("a gRPC worker needs a folder and an address")
    settings, folder = assignment.settings, Path(assignment.replica_dir)
    url, metrics = assignment.database_url, metrics_in(assignment.metrics_dir)
    with open_tracing() as tracing:
        async with (
            database_of(url, settings, settings.pool_size, tracing=tracing) as database,
            sampling(database, metrics),
            open_node(database, settings, folder, metrics) as node,
            open_authenticator(
                url,
                settings,
                folder,
                may_be_open=assignment.may_be_open,
                rate_key=assignment.rate_key,
            ) as authenticator,
        ):
            use_cases = service(database, settings, node, metrics)
            limits = _call_limits(settings)
            calls = Calls(use_cases, authenticator, limits, metrics or Metrics(), tracing)
            hot = HotReads(node.replica, authenticator, tracing.headers if tracing else ())
            url = settings.public_url or assignment.http_url
            door = GrpcServer(calls, url, _server_limits(settings), metrics, hot)
            listen(door.server, assignment.grpc_address, settings)
            async with use_cases.watching():
                await door.server.start()
                async with background(_show_health(door, use_cases), "show whether the service is ready"):
                    duty.report_ready()
                    await duty.leaving_or_stop()
                use_cases.leave()
                await door.set_ready(ready=False)
                await duty.stop.wait()
                use_cases.end_watching()
                await door.server.stop(settings.shutdown_seconds)


async def _show_health(door: GrpcServer, use_cases: Service) -> None:
    while True:
        try:
            await use_cases.check_ready()
        except Unavailable:
            await door.set_ready(ready=False)
        else:
            await door.set_ready(ready=True)
        await asyncio.sleep(LOOK_EVERY_S)


def _call_limits(settings: Settings) -> Limits:
    """Of the calls of a gRPC process."""
    return Limits(settings.max_requests, settings.request_seconds)


def _server_limits(settings: Settings) -> ServerLimits:
    """Of the connections of a gRPC process."""
    return ServerLimits(
        most_calls=settings.max_requests,
        most_streams=settings.max_streams,
        most_connections=settings.max_connections,
        metadata_bytes=settings.max_header_bytes,
        idle_seconds=settings.keep_alive_seconds,
    )


def main() -> None:
    """The process."""
    run_child(serve_grpc)


if __name__ == "__main__":
    main()
