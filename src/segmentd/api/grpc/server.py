"""The gRPC server of a process: its services, health, reflection and limits."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import grpc
from google.protobuf import message_factory
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import reflection

from segmentd.api.grpc import changes, memberships, segments, users
from segmentd.api.grpc.calls import Calls, Method
from segmentd.api.grpc.generated.segmentd_pb2 import DESCRIPTOR
from segmentd.api.grpc.hot import HotReads
from segmentd.api.grpc.reports import Reports
from segmentd.observability.metrics import Metrics

PACKAGE: Final = DESCRIPTOR.package
LIST_USER_SEGMENTS: Final = f"/{PACKAGE}.Memberships/ListUserSegments"
LOOK_UP: Final = f"/{PACKAGE}.Memberships/LookUp"
HOT: Final = (LIST_USER_SEGMENTS, LOOK_UP)
"""The paths of the calls that are counted by tallies."""

# As over HTTP: a body of 1 MiB. A lookup's answer has up to 16 MiB of slugs.
_LARGEST_MESSAGE: Final = 2**20
_LARGEST_ANSWER: Final = 64 * 2**20
# So many early pings of a client are forgiven.
_EARLY_PINGS: Final = 4


class ServerLimits(NamedTuple):
    """Of a process; times in seconds."""

    most_calls: int
    most_streams: int
    most_connections: int
    metadata_bytes: int
    idle_seconds: float
    calls_of_connection: int = 1000
    """Calls and streams at once; a client waits with others, or opens one more connection."""
    ping_after_seconds: float = 60.0
    """A connection that is silent for so long is pinged, and closed if it does not answer."""
    answer_seconds: float = 20.0
    """How long the answer to a ping may take."""
    ping_every_seconds: float = 10.0
    """How often a client may ping; one that does it more often is sent away."""


def services(url: str) -> Mapping[str, Mapping[str, Method]]:
    """The methods of each service; `url` is where clients reach the HTTP door."""
    return {
        "Segments": segments.METHODS,
        "Users": users.METHODS,
        "Memberships": memberships.METHODS,
        "Changes": changes.METHODS,
        "Reports": Reports(url).methods,
    }


class GrpcServer:
    """A server, and its health."""

    def __init__(
        self,
        calls: Calls,
        url: str,
        limits: ServerLimits,
        metrics: Metrics | None,
        hot: HotReads | None = None,
    ) -> None:
        self.health = HealthServicer()
        self.server = grpc.aio.server(
            options=_options(limits), maximum_concurrent_rpcs=limits.most_calls + limits.most_streams
        )
        for service, methods in services(url).items():
            self.server.add_generic_rpc_handlers((_handler(calls, service, methods, metrics, hot),))
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        names = [f"{PACKAGE}.{service}" for service in DESCRIPTOR.services_by_name]
        reflection.enable_server_reflection([*names, HEALTH, reflection.SERVICE_NAME], self.server)
        self._names = ["", *names]

    async def set_ready(self, *, ready: bool) -> None:
        """What health says of every service."""
        status = (
            health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in self._names:
            await self.health.set(name, status)


def _handler(
    calls: Calls,
    service: str,
    methods: Mapping[str, Method],
    metrics: Metrics | None,
    hot: HotReads | None,
) -> "grpc.GenericRpcHandler[Message, Message]":
    described = DESCRIPTOR.services_by_name[service].methods_by_name
    handlers = {}
    for name, method in methods.items():
        path = f"/{PACKAGE}.{service}/{name}"
        parse = message_factory.GetMessageClass(described[name].input_type).FromString
        if method.answers is not None:
            write = message_factory.GetMessageClass(described[name].output_type).SerializeToString
            handlers[name] = grpc.unary_stream_rpc_method_handler(calls.stream(path, method), parse, write)
        else:
            tally = metrics.tally("POST", path, "200") if metrics is not None and path in HOT else None
            handle = calls.unary(path, method, tally)
            if hot is not None and path == LIST_USER_SEGMENTS:
                handle = hot.before(handle, tally)
            handlers[name] = grpc.unary_unary_rpc_method_handler(handle, parse)
    return grpc.method_handlers_generic_handler(f"{PACKAGE}.{service}", handlers)


def _options(limits: ServerLimits) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),  # the supervisor keeps the port
        ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
        ("grpc.max_send_message_length", _LARGEST_ANSWER),
        ("grpc.max_metadata_size", limits.metadata_bytes),
        ("grpc.absolute_max_metadata_size", 2 * limits.metadata_bytes),
        ("grpc.max_concurrent_streams", limits.calls_of_connection),
        ("grpc.max_allowed_incoming_connections", limits.most_connections),
        ("grpc.max_connection_idle_ms", _ms(limits.idle_seconds)),
        # A client that has gone without a word is noticed, and one may ask the same of this server.
        ("grpc.keepalive_time_ms", _ms(limits.ping_after_seconds)),
        ("grpc.keepalive_timeout_ms", _ms(limits.answer_seconds)),
        # Without it, a ping has a minute for its answer, whatever the line above says.
        ("grpc.http2.ping_timeout_ms", _ms(limits.answer_seconds)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(limits.ping_every_seconds)),
        ("grpc.http2.max_ping_strikes", _EARLY_PINGS),
    ]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
