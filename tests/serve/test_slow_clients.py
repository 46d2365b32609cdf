"""Clients that send or take next to nothing, in great number: they are cut off, and no other notices."""

import asyncio
import json
import resource
import socket
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.client import Json
from tests.support.processes import PATIENCE_S, TLS, Serving, eventually, serving

# The test has a file open for each of its clients too.
FILES: Final = 1024

CUT: Final = '"reason":"slow-client","event":"connection cut"'

BEGUN: Final = b"GET /api/v1/users/1/segments HTTP/1.1\r\nX: "
BODY_BEGUN: Final = (
    b"POST /api/v1/lookup HTTP/1.1\r\nHost: segmentd\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000\r\n\r\n"
)
LARGE: Final = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: segmentd\r\n\r\n"


@contextmanager
def files(number: int) -> Iterator[None]:
    """So many files may be open, in this process and in those that it starts."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


T = TypeVar("T")


class Others:
    """Ordinary clients, each on a connection of its own, and what went wrong for them."""

    def __init__(self, service: Serving) -> None:
        self._service = service
        self.answered = 0

    async def work(self) -> None:
        """Writes, reads, and fails with the first answer that is not the right one."""
        while True:
            user_id = 1_000 + self.answered
            added = await self._ask("POST", f"users/{user_id}/segments", {"add": ["A"]})
            read = await self._ask("GET", f"users/{user_id}/segments", None)
            assert added["segments"] == read["segments"] == ["A"]
            self.answered += 2

    async def _ask(self, method: str, path: str, body: Json) -> Json:
        url = f"{self._service.url}/api/v1/"
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, verify=TLS) as client:
            answer = await client.request(method, path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


async def slow(service: Serving, begun: bytes, dribbled: bytes) -> bytes:
    """Sends a beginning, and a byte now and then, until the service closes; what it answered."""
    address = urlsplit(service.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    answering = asyncio.create_task(reader.read())
    try:
        writer.write(begun)
        while dribbled and not answering.done():
            writer.write(dribbled)
            await asyncio.sleep(0.2)  # a slow client is the subject
        return await asyncio.wait_for(answering, PATIENCE_S)
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def meanwhile(service: Serving, ending: Awaitable[T]) -> T:
    """What comes of slow clients, while ordinary ones are served all the time."""
    others = Others(service)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        working = [tasks.create_task(others.work()) for _ in range(2)]
        end = await ending
        for task in working:
            task.cancel()
    assert others.answered > 0
    return end


def status(answer: bytes) -> int:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == int(head.split()[1])
    return int(head.split()[1])


async def test_a_crowd_of_slow_clients_is_cut_off_while_all_others_are_served(
    database_url: str, tmp_path: Path
) -> None:
    short = {"SEGMENTD_RECEIVE_SECONDS": "4"}
    with serving("--database-url", database_url, cwd=tmp_path, env=short) as service, files(FILES):
        service.ready()
        with service.client() as client:
            assert client.post("segments", json={"slug": "A"}).status_code == 201
        begins = [*[(BEGUN, b"x")] * 500, *[(BODY_BEGUN, b" ")] * 30, *[(b"", b"")] * 50]

        crowd = asyncio.gather(*(slow(service, begun, more) for begun, more in begins))
        answers = await meanwhile(service, crowd)

        assert {status(answer) for answer in answers[:530]} == {408}
        assert {*answers[530:]} == {b""}
        assert service.errors.count(CUT) == 530
        with service.client() as client:
            measured = client.get(f"{service.url}/metrics").text
        assert 'segmentd_http_refused_total{reason="slow-client"} 530.0' in measured
        assert "Traceback" not in service.errors
        assert service.stop() == (0, "")


async def test_clients_that_take_nothing_of_their_answers_are_cut_off_while_all_others_are_served(
    database_url: str, tmp_path: Path
) -> None:
    short = {"SEGMENTD_SEND_SECONDS": "1.5"}
    with (
        serving("--database-url", database_url, cwd=tmp_path, env=short) as service,
        ExitStack() as connections,
    ):
        service.ready()
        with service.client() as client:
            assert client.post("segments", json={"slug": "A"}).status_code == 201
        for _ in range(20):
            connections.enter_context(greedy(service))

        await meanwhile(service, asyncio.to_thread(eventually, lambda: service.errors.count(CUT) == 20))

        assert "Traceback" not in service.errors
        assert service.stop() == (0, "")


def test_clients_that_do_not_read_a_file_that_is_the_same_for_all_take_next_to_no_memory(
    database_url: str, tmp_path: Path
) -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("only Linux shows the memory of another process")
    with serving("--database-url", database_url, cwd=tmp_path) as service, ExitStack() as connections:
        [worker] = service.ready().workers()

        def resident_bytes() -> int:
            lines = Path(f"/proc/{worker}/status").read_text().splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

        connections.enter_context(files(FILES))
        with service.client() as client:
            assets = [client.get(f"{service.url}/docs/swagger-ui-bundle.js").content for _ in range(20)]
        before = resident_bytes()
        for _ in range(500):
            connections.enter_context(greedy(service)).recv(100)
        grown = resident_bytes() - before
        connections.close()

        assert grown < 500 * len(assets[0]) / 20
        assert service.stop() == (0, "")


def greedy(service: Serving) -> socket.socket:
    """Asks for a large answer, with hardly any room for it, and does not read."""
    address = urlsplit(service.url)
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    end.connect((address.hostname, address.port))
    end.sendall(LARGE)
    return end


def test_an_http_process_may_open_as_many_files_as_the_system_lets_it(
    database_url: str, tmp_path: Path
) -> None:
    if not hasattr(resource, "prlimit"):
        pytest.skip("only Linux shows the limits of another process")
    with files(256), serving("--database-url", database_url, cwd=tmp_path) as service:
        [worker] = service.ready().workers()

        soft, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)

        assert 256 < soft == hard
        assert service.stop() == (0, "")


def test_an_idle_connection_is_closed_after_a_time_of_its_own_which_may_be_a_fraction(
    database_url: str, tmp_path: Path
) -> None:
    times = {"SEGMENTD_KEEP_ALIVE_SECONDS": "1.5", "SEGMENTD_RECEIVE_SECONDS": "60"}
    with serving("--database-url", database_url, cwd=tmp_path, env=times) as service:
        address = urlsplit(service.ready().url)
        target = (address.hostname or "", address.port or 0)
        with (
            socket.create_connection(target) as silent,
            closing(HTTPConnection(*target, timeout=PATIENCE_S)) as used,
        ):
            for _ in range(2):
                used.request("GET", "/livez")
                assert used.getresponse().read() == b'{"status":"ok"}'
            assert used.sock.recv(1) == b""

            silent.settimeout(0)
            with pytest.raises(BlockingIOError):
                silent.recv(1)

        assert service.stop() == (0, "")
