"""The row about streams: what ten thousand watchers cost a process while nothing changes, and when all do."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final
from urllib.request import Request, urlopen

import grpc

from bench.figures import Figure
from bench.grpc_reading import free_port
from bench.lab import Lab
from bench.memory import private_mebibytes
from bench.processor import processor_seconds
from segmentd.api.grpc.generated import segmentd_pb2 as pb

_METHOD: Final = "/segmentd.v1.Memberships/WatchUserSegments"
_STREAMS: Final = 10_000
_OF_CONNECTION: Final = 1000
_AT_ONCE: Final = 100
# The end of the work that opening streams left behind.
_REST_SECONDS: Final = 3.0
_IDLE_SECONDS: Final = 10.0
_PATIENCE_SECONDS: Final = 120.0
_SEGMENT: Final = "watched"


def grpc_watchers(lab: Lab) -> Iterator[Figure]:
    """Streams of different users: their memory, the processor while nothing changes, and a change of all."""
    port, streams = free_port(), min(_STREAMS, lab.plan.size)
    flags = ["--grpc-port", str(port), "--max-streams", str(streams)]
    with lab.node_on(lab.database_url, "node with streams", workers=1, flags=flags) as node:
        _send(node.url, "POST", "segments", {"slug": _SEGMENT, "percent": 0})
        pid = node.grpc_worker()
        memory, idle, changed = asyncio.run(_watch(lab, node.url, port, pid, streams))
    work = f"{streams:,} streams of WatchUserSegments"
    yield Figure(name="grpc-watchers", work=work, unit="KiB each", values=[memory], rate=False)
    yield Figure(name="grpc-watchers-idle", work=work, unit="% of a core", values=[idle], rate=False)
    yield Figure(
        name="grpc-watchers-change",
        work=f"{work}: a percentage that changes all",
        unit="µs of processor each",
        values=[changed],
        rate=False,
    )


async def _watch(lab: Lab, url: str, port: int, pid: int, streams: int) -> tuple[float, float, float]:
    """KiB a stream, percent of a core, and microseconds of the processor for each changed user."""
    before = private_mebibytes(pid)
    told = _Told()
    async with _watching(port, streams, told):
        lab.say(f"grpc-watchers: {streams} streams")
        await told.wait(streams)
        await asyncio.sleep(_REST_SECONDS)
        memory = (private_mebibytes(pid) - before) * 1024 / streams
        began = processor_seconds([pid])
        await asyncio.sleep(_IDLE_SECONDS)
        idle = (processor_seconds([pid]) - began) / _IDLE_SECONDS
        began = processor_seconds([pid])
        await asyncio.to_thread(_send, url, "PATCH", f"segments/{_SEGMENT}", {"percent": 100})
        await told.wait(2 * streams)
        return memory, 100 * idle, (processor_seconds([pid]) - began) * 1e6 / streams


class _Told:
    """How many messages came, on all streams."""

    def __init__(self) -> None:
        self.count = 0

    async def wait(self, count: int) -> None:
        """Until so many came. Raises TimeoutError."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while self.count < count:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.count} of {count} messages came")
            await asyncio.sleep(0.1)


@asynccontextmanager
async def _watching(port: int, streams: int, told: _Told) -> AsyncIterator[None]:
    """Streams of the users 1, 2 and so on, a thousand on each connection."""
    async with AsyncExitStack() as stack:
        tasks: list[asyncio.Task[None]] = []
        opening = asyncio.Semaphore(_AT_ONCE)
        for first in range(1, streams + 1, _OF_CONNECTION):
            own = [("grpc.use_local_subchannel_pool", 1)]
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=own)
            await stack.enter_async_context(channel)
            method = channel.unary_stream(_METHOD, pb.WatchUserSegmentsRequest.SerializeToString, None)
            tasks += [
                asyncio.create_task(_follow(method, user_id, opening, told))
                for user_id in range(first, min(first + _OF_CONNECTION, streams + 1))
            ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def _follow(method: Any, user_id: int, opening: asyncio.Semaphore, told: _Told) -> None:  # noqa: ANN401
    async with opening:
        stream = method(pb.WatchUserSegmentsRequest(user_id=user_id))
        await stream.read()
        told.count += 1
    with contextlib.suppress(asyncio.CancelledError):
        while await stream.read():
            told.count += 1


def _send(url: str, method: str, path: str, body: object) -> None:
    request = Request(  # noqa: S310 - our own server
        f"{url}/api/v1/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
        method=method,
    )
    with urlopen(request, timeout=60) as answer:  # noqa: S310 - our own server
        answer.read()
