"""A node that serves gRPC, one for all tests of a process."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import grpc
import httpx
import pytest

from tests.support.client import Json
from tests.support.postgres import new_database
from tests.support.processes import Serving, serving

SLUGS = ["A", "AVITO_VOICE_MESSAGES", "B"]


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


@pytest.fixture(scope="session")
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
        for slug in SLUGS:
            httpx.post(f"{running.url}/api/v1/segments", json={"slug": slug}).raise_for_status()
        yield Node(running, port)
