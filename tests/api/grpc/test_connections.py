"""What a gRPC server does with connections: how many, how large, how long silent, and with TLS."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc

from segmentd.api.grpc.generated import segmentd_pb2 as pb
from segmentd.api.grpc.server import ServerLimits
from segmentd.auth.authenticator import Authenticator
from segmentd.config import Settings
from segmentd.domain.errors import StartupFailed
from segmentd.serve.grpc_tls import listen
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.support.client import Json
from tests.support.door import OPEN
from tests.support.grpc_door import LIMITS, open_server, stub

GREETING: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
PING: Final = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + b"12345678"
PING_TYPE, GOAWAY_TYPE, SETTINGS_TYPE = 6, 7, 4
MOST_STREAMS: Final = bytes([0, 3])
CALM: Final = 11


class Frame(NamedTuple):
    kind: int
    flags: int
    payload: bytes


class Wire:
    """A connection of which the test writes and reads every byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def frame(self) -> Frame | None:
        """The next frame; None at the end of the connection."""
        async with asyncio.timeout(60):
            try:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
            except (asyncio.IncompleteReadError, ConnectionResetError):
                return None
        return Frame(head[3], head[4], payload)

    async def first(self, kind: int) -> Frame:
        while (frame := await self.frame()) is not None:
            if frame.kind == kind and not (kind == PING_TYPE and frame.flags):
                return frame
        raise AssertionError(f"no frame {kind}")


@asynccontextmanager
async def wire(port: int) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(GREETING)
        yield Wire(reader, writer)
    finally:
        writer.close()


@asynccontextmanager
async def listening(settings: Settings | None = None, limits: ServerLimits = LIMITS) -> AsyncIterator[int]:
    """The port of a server; nothing here gets as far as to its database."""
    nowhere = Database("postgresql://nowhere.invalid/segmentd")
    async with open_server(
        service(nowhere, Settings()), Authenticator(nowhere, OPEN), server_limits=limits
    ) as server:
        port = listen(server, "127.0.0.1:0", settings or Settings())
        await server.start()
        yield port


async def test_a_client_that_pings_too_often_is_sent_away() -> None:
    async with listening(limits=LIMITS._replace(ping_every_seconds=60)) as port, wire(port) as eager:
        eager.writer.write(PING * 8)
        goaway = await eager.first(GOAWAY_TYPE)
        assert int.from_bytes(goaway.payload[4:8], "big") == CALM
        assert goaway.payload.endswith(b"too_many_pings")


async def test_a_client_that_has_gone_without_a_word_is_noticed() -> None:
    hasty = LIMITS._replace(ping_after_seconds=0.2, answer_seconds=0.2)
    async with listening(limits=hasty) as port, wire(port) as silent:
        await silent.first(PING_TYPE)
        while await silent.frame() is not None:
            pass  # the server closes the connection: nobody answered


async def test_connections_and_the_calls_of_each_are_bounded() -> None:
    async with listening(limits=LIMITS._replace(most_connections=2, calls_of_connection=7)) as port:
        async with wire(port) as one, wire(port) as two:
            for each in (one, two):
                settings = (await each.first(SETTINGS_TYPE)).payload
                entries = [settings[begin : begin + 6] for begin in range(0, len(settings), 6)]
                assert [entry[2:] for entry in entries if entry[:2] == MOST_STREAMS] == [bytes([0, 0, 0, 7])]
            async with wire(port) as three:
                assert await three.frame() is None
        async with asyncio.timeout(60):
            while True:  # until the server has seen the end of the other two
                async with wire(port) as later:
                    if await later.frame() is not None:
                        break


async def test_a_message_above_1_mib_and_too_much_metadata_are_refused() -> None:
    async with listening() as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        create = stub(channel, "Segments/CreateSegment", pb.Segment)
        large = pb.CreateSegmentRequest(slug="D", description="x" * 2**20)
        for request, metadata in ((large, ()), (pb.CreateSegmentRequest(), (("x-large", "x" * 70_000),))):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await create(request, metadata=metadata, timeout=60)
            assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, bytes]:
    """The paths of a certificate and its key, and the certificate."""
    folder = tmp_path_factory.mktemp("tls")
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "segmentd.test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(private, hashes.SHA256())
    )
    key = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = made.public_bytes(serialization.Encoding.PEM)
    (folder / "cert.pem").write_bytes(public)
    (folder / "key.pem").write_bytes(key)
    return str(folder / "cert.pem"), str(folder / "key.pem"), public


async def test_with_a_certificate_calls_are_encrypted(certificate: tuple[str, str, bytes]) -> None:
    cert, key, public = certificate
    question = health_pb2.HealthCheckRequest()
    async with listening(Settings(grpc_tls_cert=cert, grpc_tls_key=key)) as port:
        trusted = grpc.ssl_channel_credentials(public)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", trusted) as channel:
            health: Json = health_pb2_grpc.HealthStub(channel)
            assert (await health.Check(question, timeout=60)).status
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            with pytest.raises(grpc.aio.AioRpcError):
                await health.Check(question, timeout=60)


async def test_a_certificate_needs_its_key_and_both_need_to_be_there(
    tmp_path: Path, certificate: tuple[str, str, bytes]
) -> None:
    cert, key, _ = certificate
    for settings in (
        Settings(grpc_tls_cert=cert),
        Settings(grpc_tls_key=key),
        Settings(grpc_tls_cert=str(tmp_path / "no"), grpc_tls_key=key),
    ):
        with pytest.raises(StartupFailed):
            async with listening(settings):
                pass
