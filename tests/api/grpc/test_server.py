"""The gRPC door as a process: health, streams, limits, its port, and its stop."""

import asyncio
import socket
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from segmentd.api.grpc.calls import Limits
from segmentd.api.grpc.generated import segmentd_pb2 as pb
from segmentd.config import Settings
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.api.grpc.conftest import SLUGS, Node, free_port
from tests.support.client import Json
from tests.support.door import open_to_all
from tests.support.grpc_door import Refused, grpc_door, stub
from tests.support.processes import eventually, is_alive, run, serving


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
        assert [segment.slug for segment in answer.segments] == SLUGS


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
