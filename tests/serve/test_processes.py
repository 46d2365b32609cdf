import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from segmentd.serve import fork_server
from segmentd.serve.fork_server import QUEUE, ForkServer
from segmentd.serve.processes import Process, begun
from tests.support.becoming import launched

MODULE = "tests.support.telling"

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has descriptors of processes")


@pytest.fixture
def forks() -> Iterator[ForkServer]:
    with patch.object(fork_server, "launch", launched):
        server = ForkServer("serve")
    yield server
    server.close()


@pytest.fixture(params=[pytest.param("forked", marks=linux), "executed"])
def server(request: pytest.FixtureRequest) -> ForkServer | None:
    forks: ForkServer | None = request.getfixturevalue("forks") if request.param == "forked" else None
    return forks


async def said(process: Process, *told: str) -> list[str]:
    lines = aiter(process.lines())
    found = []
    for line in told:
        process.tell(f"{line}\n".encode())
        found.append((await anext(lines)).decode().strip())
    return found


async def ended(process: Process) -> int:
    """The exit code, once nothing more comes."""
    async for _ in process.lines():
        pass
    return await process.wait()


async def test_a_process_hears_and_answers_until_the_pipe_to_it_ends(server: ForkServer | None) -> None:
    process, _ = await begun(server, MODULE, None)

    assert await said(process, "one", "two") == ["one", "two"]
    process.close()
    assert await ended(process) == 3
    process.kill()
    process.tell(b"nobody hears that\n")


async def test_a_process_that_is_killed_says_by_what_and_others_live_on(server: ForkServer | None) -> None:
    one, _ = await begun(server, MODULE, None)
    other, _ = await begun(server, MODULE, None)
    ending = asyncio.create_task(ended(one))

    os.kill(one.pid, signal.SIGTERM)
    assert await ending == -signal.SIGTERM

    assert await said(other, "alive") == ["alive"]
    other.kill()
    assert await ended(other) == -signal.SIGKILL


async def test_a_process_that_fails_ends_by_1(server: ForkServer | None) -> None:
    process, _ = await begun(server, MODULE, None)

    process.tell(b"fail\n")

    assert await ended(process) == 1
    process.close()


@linux
async def test_a_forked_process_has_its_name_and_its_own_descriptors_alone(forks: ForkServer) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before, _ = await begun(forks, MODULE, None)
        process, queue = await begun(forks, MODULE, theirs.fileno())

        assert queue == QUEUE
        assert await said(process, "descriptors", "name") == ["[0, 1, 2, 3]", "telling"]
        assert await said(before, "descriptors") == ["[0, 1, 2]"]
        theirs.close()
        process.kill()
        await ended(process)
        assert ours.recv(1) == b""
        before.close()
        assert await ended(before) == 3


@linux
async def test_processes_live_on_without_their_fork_server_and_none_can_be_begun(forks: ForkServer) -> None:
    process, _ = await begun(forks, MODULE, None)

    forks.close()

    assert not forks.is_running()
    with pytest.raises(OSError, match="Bad file descriptor"):
        await begun(forks, MODULE, None)
    assert await said(process, "alive") == ["alive"]
    process.close()
    assert await ended(process) == 1
