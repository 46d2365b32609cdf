"""The row about gRPC: calls for each second of the server's processor time."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import grpc

from bench.figures import Figure, Target
from bench.grpc_constant import METHOD
from bench.grpc_load import Calls, put_calls
from bench.lab import Lab
from bench.processor import processor_seconds
from segmentd.api.grpc.generated import segmentd_pb2 as pb

_TURN_SECONDS = 1.0


def grpc_read(lab: Lab) -> Iterator[Figure]:
    """The segments of random users over gRPC."""
    port = free_port()
    rates: dict[str, list[float]] = {"constant": [], "segmentd": []}
    flags: Sequence[str] = ["--grpc-port", str(port)]
    with lab.node_on(lab.database_url, "node with gRPC", workers=1, flags=flags) as node:
        body = asyncio.run(_one(port))
        with _constant(body) as (constant_port, constant_pid):
            servers = {"constant": (constant_port, constant_pid), "segmentd": (port, node.grpc_worker())}
            for place, _ in servers.values():
                _answered(lab, place)
            for number in range(lab.plan.rounds):
                lab.say(f"grpc-read: round {number + 1}")
                for name, rate in _round(lab, servers).items():
                    rates[name].append(rate)
    yield Figure(
        name="grpc-read",
        work=f"ListUserSegments, 4 connections with 8 calls each, random ids of {lab.plan.size:,}",
        unit="calls/s of processor",
        values=rates["segmentd"],
        reference=f"grpcio, a constant answer of {len(body)} B",
        reference_values=rates["constant"],
        target=Target(0.7, 0.85),
    )


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port: int = chosen.getsockname()[1]
        return port


def _round(lab: Lab, servers: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    """The rates of all servers, by turns of a second: what else the machine does falls on all of them."""
    calls = dict.fromkeys(servers, 0)
    seconds = dict.fromkeys(servers, 0.0)
    for _ in range(round(lab.plan.seconds / _TURN_SECONDS)):
        for name, (place, pid) in servers.items():
            before = processor_seconds([pid])
            calls[name] += _answered(lab, place)
            seconds[name] += processor_seconds([pid]) - before
    return {name: calls[name] / seconds[name] for name in servers}


def _answered(lab: Lab, port: int) -> int:
    """How many calls were answered in one turn."""
    return asyncio.run(put_calls(port, Calls(METHOD, lab.plan.size), _TURN_SECONDS, lab.next_seed()))


@contextmanager
def _constant(body: bytes) -> Iterator[tuple[int, int]]:
    command = [sys.executable, "-m", "bench.grpc_constant", body.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise TypeError("both are pipes")
        yield int(process.stdout.readline()), process.pid
        process.stdin.close()


async def _one(port: int) -> bytes:
    """An answer as it is sent."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = pb.ListUserSegmentsRequest(user_id=1).SerializeToString()
        answer: bytes = await channel.unary_unary(METHOD, None, None)(
            request, timeout=30, wait_for_ready=True
        )
        return answer
