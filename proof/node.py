"""A node of real processes on fixed ports, with its own PostgreSQL: it is killed, and started again."""

import asyncio
import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from proof.connection import Client, Lost
from proof.writers import SLUGS, Doors
from segmentd.storage import embedded
from tests.support.processes import Serving, is_alive

HTTP: Final = "http_worker"
NODE: Final = "node_worker"
GRPC: Final = "grpc_worker"
POSTGRES: Final = "bin/postgres -D"
BACKEND: Final = "postgres: "

_PATIENCE_S: Final = 180.0
_START_S: Final = 240.0
_WORKERS: Final = 2


# Below those that the system gives to clients: nobody takes the port of a node that is started again.
_PORTS: Final = range(20_000, 32_000)


def own_port() -> int:
    """A port of the loopback that stays free while nobody listens there."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class NodeFailed(Exception):
    """The node did not come back."""


class Node:
    """`segmentd serve`, started again on the same data and ports whenever it is asked to."""

    def __init__(self, folder: Path, env: Mapping[str, str], *, as_shipped: bool) -> None:
        self.folder = folder
        self._as_shipped = as_shipped
        self.doors = Doors("127.0.0.1", own_port(), own_port())
        self._env = {
            "SEGMENTD_GRPC_PORT": str(self.doors.grpc_port),
            "SEGMENTD_IMPORTS_PER_CALLER": "10000",
            **env,
        }
        self._serving: Serving | None = None
        self._earlier: list[Serving] = []
        self.slowest_start_s = 0.0

    @property
    def url(self) -> str:
        """The URL of its PostgreSQL while that runs. Raises NodeFailed."""
        if given := self._env.get("SEGMENTD_DATABASE_URL"):
            return given
        found = embedded.url_of_running(self.folder / "data")
        if found is None:
            raise NodeFailed("PostgreSQL does not run")
        return found

    @property
    def errors(self) -> str:
        """All that it wrote to standard error."""
        running = [] if self._serving is None else [self._serving]
        return "".join(each.errors for each in [*self._earlier, *running])

    async def start(self) -> None:
        """Returns when it is ready; those that ended are left behind."""
        if self._serving is not None:
            self._earlier.append(self._serving)
        arguments = ("--port", str(self.doors.port), "--workers", str(_WORKERS))
        data = ("--data-dir", str(self.folder / "data"))
        self._serving = await asyncio.to_thread(
            Serving, [*arguments, *data], self.folder, self._env, as_shipped=self._as_shipped
        )
        begun = time.monotonic()
        while not self._serving.url:
            try:
                await asyncio.to_thread(self._serving.ready)
            except AssertionError as error:  # on a busy machine it may take longer than a test waits
                if not is_alive(self._serving.pid) or time.monotonic() - begun > _START_S:
                    raise NodeFailed("it did not start") from error
        self.slowest_start_s = max(self.slowest_start_s, time.monotonic() - begun)
        await self.healthy()

    async def healthy(self) -> None:
        """Returns when all its processes are there and everything is ready. Raises NodeFailed."""
        client = Client(self.doors.host, self.doors.port, seconds=5)
        deadline = time.monotonic() + _PATIENCE_S
        good = 0
        while good < 2 * _WORKERS:
            if time.monotonic() > deadline:
                raise NodeFailed("it is not ready")
            client.close()
            try:
                ready = (await client.ask("GET", "/readyz")).status == 200
            except Lost:
                ready = False
            good = good + 1 if ready else 0
            if not ready:
                await asyncio.sleep(0.1)
        client.close()
        while any(len(self.of(kind)) < count for kind, count in ((HTTP, _WORKERS), (NODE, 1), (GRPC, 1))):
            if time.monotonic() > deadline:
                raise NodeFailed("a process is missing")
            await asyncio.sleep(0.1)

    async def stop(self) -> int:
        """Stops it in order; the exit code."""
        assert self._serving is not None  # noqa: S101 - it was started
        code, _ = await asyncio.to_thread(self._serving.stop)
        return code

    def family(self) -> dict[int, str]:
        """All its processes, the supervisor too."""
        assert self._serving is not None  # noqa: S101 - it was started
        return {self._serving.pid: "supervisor", **self._serving.family()}

    def of(self, kind: str) -> list[int]:
        """Its processes of one kind."""
        return sorted(pid for pid, command in self.family().items() if kind in command)

    def clean_up(self) -> None:
        """Ends whatever is left."""
        for each in [*self._earlier, *([] if self._serving is None else [self._serving])]:
            each.clean_up()


@asynccontextmanager
async def running_node(
    folder: Path,
    env: Mapping[str, str] | None = None,
    slugs: Sequence[str] = SLUGS,
    *,
    as_shipped: bool = True,
) -> AsyncIterator[Node]:
    """A node that is ready and has these segments."""
    node = Node(folder, env or {}, as_shipped=as_shipped)
    try:
        await node.start()
        client = node.doors.client()
        for slug in slugs:
            await client.ask("POST", "/api/v1/segments", {"slug": slug})
        client.close()
        yield node
    finally:
        await asyncio.to_thread(node.clean_up)


def send(pids: list[int], number: signal.Signals) -> None:
    """Sends a signal to those that still run."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


async def gone(pids: list[int]) -> None:
    """Returns when all of them have ended. Raises NodeFailed."""
    deadline = time.monotonic() + _PATIENCE_S
    while any(map(is_alive, pids)):
        if time.monotonic() > deadline:
            raise NodeFailed("a process outlives its supervisor")
        await asyncio.sleep(0.05)


async def stopped(pids: list[int], seconds: float) -> None:
    """Stops processes (SIGSTOP) for so long."""
    send(pids, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        send(pids, signal.SIGCONT)


def one_of(chance: random.Random, pids: list[int]) -> list[int]:
    """One of them, if there are any."""
    return [chance.choice(pids)] if pids else []
