"""The gRPC door of a service in the test's own process, and a client that knows it by reflection alone."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from segmentd.api.grpc.calls import Calls, Limits
from segmentd.api.grpc.hot import HotReads
from segmentd.api.grpc.server import GrpcServer, ServerLimits
from segmentd.auth.authenticator import Authenticator
from segmentd.observability.metrics import Metrics
from segmentd.observability.traces import Tracing
from segmentd.service import Service
from tests.support.client import ORIGIN, Json

PACKAGE = "segmentd.v1"
LIMITS = ServerLimits(512, 100, 100, 32_768, 75)


class Refused(NamedTuple):
    """A status that is no OK, with google.rpc's details."""

    code: str
    message: str
    reason: str
    facts: Mapping[str, str]
    fields: Mapping[str, str]
    retry_after: int | None


class Answered(NamedTuple):
    """An answer in JSON, with every field, and the metadata that came after it."""

    message: Json
    metadata: Mapping[str, str]


class Reflected:
    """A client that has learnt messages and methods from the server."""

    def __init__(self, address: str) -> None:
        self.address = address
        with grpc.insecure_channel(address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            self.services = [*database.get_services()]
            self._pool = DescriptorPool(database)
            # All descriptors at once: the channel ends here.
            self._methods = {
                f"{name.removeprefix(PACKAGE + '.')}/{method.name}": method
                for name in self.services
                if name.startswith(PACKAGE)
                for method in self._pool.FindServiceByName(name).methods
            }

    def connect(self) -> None:
        """In the event loop of the calls."""
        self._channel = grpc.aio.insecure_channel(self.address)

    @property
    def methods(self) -> Iterator[str]:
        """Every method, such as `Users/GetUser`."""
        yield from self._methods

    def is_stream(self, method: str) -> bool:
        """Whether it has many answers."""
        return bool(self._methods[method].server_streaming)

    async def close(self) -> None:
        await self._channel.close(None)

    async def call(self, method: str, message: Json = None, **metadata: str) -> Answered | Refused:
        """The answer to a call, or to a stream its first one."""
        described = self._methods[method]
        given, expected = (
            message_factory.GetMessageClass(each) for each in (described.input_type, described.output_type)
        )
        make = self._channel.unary_stream if described.server_streaming else self._channel.unary_unary
        stub: Any = make(
            f"/{PACKAGE}.{method}",
            request_serializer=given.SerializeToString,
            response_deserializer=expected.FromString,
        )
        call = stub(
            json_format.ParseDict(message or {}, given()),
            metadata=[(name.replace("_", "-"), value) for name, value in metadata.items()],
            timeout=60,
        )
        try:
            answer = await (call.read() if described.server_streaming else call)
            if described.server_streaming and not isinstance(answer, expected):
                await call.code()
        except grpc.aio.AioRpcError as error:
            return _refused(error)
        if described.server_streaming:
            call.cancel()
        else:
            trailing = dict(await call.trailing_metadata())
        return Answered(_json(answer), {} if described.server_streaming else trailing)


def stub(
    channel: grpc.Channel | grpc.aio.Channel,
    method: str,
    answer: Any,  # noqa: ANN401
    *,
    streams: bool = False,
) -> Any:  # noqa: ANN401
    """A method whose messages are the generated ones."""
    make: Any = channel.unary_stream if streams else channel.unary_unary
    return make(
        f"/{PACKAGE}.{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )


@asynccontextmanager
async def open_server(
    service: Service,
    authenticator: Authenticator,
    limits: Limits | None = None,
    server_limits: ServerLimits = LIMITS,
    tracing: Tracing | None = None,
    hot: HotReads | None = None,
) -> AsyncIterator[grpc.aio.Server]:
    """A server that listens nowhere yet."""
    calls = Calls(service, authenticator, limits or Limits(), Metrics(), tracing)
    server = GrpcServer(calls, ORIGIN, server_limits, None, hot).server
    try:
        yield server
    finally:
        await server.stop(0)


@asynccontextmanager
async def grpc_door(
    service: Service,
    authenticator: Authenticator,
    limits: Limits | None = None,
    server_limits: ServerLimits = LIMITS,
    tracing: Tracing | None = None,
    hot: HotReads | None = None,
) -> AsyncIterator[Reflected]:
    """The door while the context lives."""
    async with open_server(service, authenticator, limits, server_limits, tracing, hot) as server:
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        client = await asyncio.to_thread(Reflected, f"127.0.0.1:{port}")
        client.connect()
        try:
            yield client
        finally:
            await client.close()


def _json(message: Message) -> Json:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _refused(error: grpc.aio.AioRpcError) -> Refused:
    info, fields, retry_after = error_details_pb2.ErrorInfo(), {}, None
    metadata: Json = error.trailing_metadata() or ()
    for name, value in metadata:
        if name != "grpc-status-details-bin":
            continue
        status = status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode())
        assert status.code == error.code().value[0]
        assert status.message == error.details()
        for detail in status.details:
            violations, delay = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
            if detail.Unpack(violations):
                fields = {each.field: each.description for each in violations.field_violations}
            elif detail.Unpack(delay):
                retry_after = delay.retry_delay.seconds
            else:
                detail.Unpack(info)
    return Refused(
        error.code().name, error.details() or "", info.reason, dict(info.metadata), fields, retry_after
    )
