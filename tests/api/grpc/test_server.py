"""The gRPC door as a process: health, streams, deadlines, limits, TLS, its port, and its stop."""

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc

from segmentd.api.grpc.calls import Limits
from segmentd.api.grpc.generated import segmentd_pb2 as pb
from segmentd.config import Settings
from segmentd.domain.errors import StartupFailed
from segmentd.serve.grpc_tls import credentials_of
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.support.client import Json
from tests.support.door import open_to_all
from tests.support.grpc_door import Refused, grpc_door, stub
from tests.support.postgres import new_database
from tests.support.processes import Serving, eventually, is_alive, run, serving


def free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port: int = chosen.getsockname()[1]
        return port


class Node:
    """A node that serves gRPC."""

    def __init__(self, running: Serving, port: int) -> None:
        self.running = running
        self.port = port

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            yield channel

    def add(self, user_id: int, *slugs: str | Json) -> None:
        url = f"{self.running.url}/api/v1/users/{user_id}/segments"
        httpx.post(url, json={"add": [*slugs]}).raise_for_status()

    def worker(self) -> int:
        """The process that serves gRPC."""
        [pid] = [pid for pid, command in self.running.family().items() if "grpc_worker" in command]
        return pid


@pytest.fixture(scope="module")
def node(
    postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    port = free_port()
    folder = tmp_path_factory.mktemp("served")
    with (
        new_database(postgres_url, template_database) as url,
        serving("--database-url", url, "--grpc-port", str(port), "--max-streams", "3", cwd=folder) as running,
    ):
        running.ready()
        for slug in ("A", "B"):
            httpx.post(f"{running.url}/api/v1/segments", json={"slug": slug}).raise_for_status()
        yield Node(running, port)


def watch(channel: grpc.aio.Channel, user_id: int) -> Any:  # noqa: ANN401
    watching = stub(channel, "Memberships/WatchUserSegments", pb.UserSegments, streams=True)
    return watching(pb.WatchUserSegmentsRequest(user_id=user_id), timeout=60)


async def test_who_watches_gets_the_segments_at_once_and_after_each_change(node: Node) -> None:
    async with node.channel() as channel:
        stream = watch(channel, 5)
        assert [*(await stream.read()).segments] == []
        await asyncio.to_thread(node.add, 6, "A")
        await asyncio.to_thread(node.add, 5, "B")
        assert [*(await stream.read()).segments] == ["B"]
        await asyncio.to_thread(node.add, 5, {"slug": "A", "ttl_seconds": 1})
        assert [*(await stream.read()).segments] == ["A", "B"]
        assert [*(await stream.read()).segments] == ["B"]  # its term has ended
        stream.cancel()


async def test_streams_are_bounded(node: Node) -> None:
    async with node.channel() as channel:
        streams = [watch(channel, 9) for _ in range(3)]
        for stream in streams:
            await stream.read()
        refused = watch(channel, 9)
        assert await refused.code() is grpc.StatusCode.UNAVAILABLE
        for stream in streams:
            stream.cancel()


async def test_health_says_whether_the_service_is_ready(node: Node) -> None:
    async with node.channel() as channel:
        health: Json = health_pb2_grpc.HealthStub(channel)
        for name in ("", "segmentd.v1.Memberships"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_message_above_1_mib_is_refused(node: Node) -> None:
    async with node.channel() as channel:
        create = stub(channel, "Segments/CreateSegment", pb.Segment)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await create(pb.CreateSegmentRequest(slug="D", description="x" * 2**20), timeout=60)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_calls_beyond_the_limits_are_told_to_come_again(database: Database, tmp_path: Path) -> None:
    use_cases = service(database, Settings(data_dir=str(tmp_path)))
    async with grpc_door(use_cases, await open_to_all(database), Limits(most_calls=0)) as client:
        refused = await client.call("Segments/ListSegments")
    assert isinstance(refused, Refused)
    assert (refused.code, refused.reason, refused.retry_after) == ("UNAVAILABLE", "OVERLOADED", 1)


async def test_without_the_database_a_call_is_unavailable_and_not_a_bug(
    database: Database, tmp_path: Path
) -> None:
    use_cases = service(database, Settings(data_dir=str(tmp_path)))
    async with grpc_door(use_cases, await open_to_all(database)) as client:
        await database.__aexit__(None, None, None)
        refused = await client.call("Segments/ListSegments")
    assert isinstance(refused, Refused)
    assert (refused.code, refused.reason, refused.retry_after) == ("UNAVAILABLE", "UNAVAILABLE", 1)


async def test_the_port_outlives_the_process_that_serves_it(node: Node) -> None:
    worker = node.worker()
    await asyncio.to_thread(subprocess.run, ["/bin/kill", "-9", str(worker)], check=True)
    await asyncio.to_thread(eventually, lambda: not is_alive(worker))
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", node.port))

    async with node.channel() as channel:
        listing = stub(channel, "Segments/ListSegments", pb.ListSegmentsResponse)
        answer = await listing(pb.ListSegmentsRequest(), timeout=60, wait_for_ready=True)
        assert [segment.slug for segment in answer.segments] == ["A", "B"]


async def test_a_stop_says_that_it_is_near_and_then_ends_the_streams(
    database_url: str, tmp_path: Path
) -> None:
    port = free_port()
    options = ("--database-url", database_url, "--grpc-port", str(port), "--unready-seconds", "2")
    with serving(*options, cwd=tmp_path) as running:
        node = Node(running.ready(), port)
        async with node.channel() as channel:
            stream = watch(channel, 5)
            await stream.read()
            health: Json = health_pb2_grpc.HealthStub(channel)
            states = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
            assert (await states.read()).status == health_pb2.HealthCheckResponse.SERVING
            stopping = asyncio.create_task(asyncio.to_thread(running.stop))
            assert (await states.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await stream.code() is grpc.StatusCode.UNAVAILABLE
            assert (await stopping)[0] == 0


def test_a_port_that_somebody_has_is_an_error_at_the_start(database_url: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = run("serve", "--port", "0", "--grpc-port", port, "--database-url", database_url, cwd=tmp_path)
    assert (ended.returncode, port in ended.stderr) == (1, True)


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    make_certificate(cert, key)
    return cert, key


def make_certificate(cert: Path, key: Path) -> None:

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
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


async def test_with_a_certificate_calls_are_encrypted(
    database_url: str, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    port = free_port()
    tls = ("--grpc-tls-cert", cert, "--grpc-tls-key", key)
    with serving("--database-url", database_url, "--grpc-port", str(port), *tls, cwd=tmp_path) as running:
        running.ready()
        trusted = grpc.ssl_channel_credentials(cert.read_bytes())
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", trusted) as channel:
            listing = stub(channel, "Segments/ListSegments", pb.ListSegmentsResponse)
            assert [*(await listing(pb.ListSegmentsRequest(), timeout=60)).segments] == []
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            listing = stub(channel, "Segments/ListSegments", pb.ListSegmentsResponse)
            with pytest.raises(grpc.aio.AioRpcError):
                await listing(pb.ListSegmentsRequest(), timeout=60)


def test_a_certificate_needs_its_key_and_both_need_to_be_there(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    cert, key = map(str, certificate)
    assert credentials_of(Settings()) is None
    assert credentials_of(Settings(grpc_tls_cert=cert, grpc_tls_key=key)) is not None
    for settings in (
        Settings(grpc_tls_cert=cert),
        Settings(grpc_tls_key=key),
        Settings(grpc_tls_cert=str(tmp_path / "no"), grpc_tls_key=key),
    ):
        with pytest.raises(StartupFailed):
            credentials_of(settings)
