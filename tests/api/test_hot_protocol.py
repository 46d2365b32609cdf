"""The hot read in uvicorn's protocol, byte by byte over a real connection."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn

from segmentd.api.http.connection import ConnectionLimits
from segmentd.api.http.hot_path import HotPath
from segmentd.api.http.hot_protocol import PLAIN, HotProtocol
from segmentd.api.http.request_ids import RequestIds
from segmentd.config import Settings
from segmentd.observability.metrics import Metrics
from segmentd.replica.follower import Follower
from segmentd.serve.http_worker import Server
from segmentd.serve.wiring import near, service
from segmentd.storage.database import Database
from tests.client import Api
from tests.door import entrance, open_to_all

HOT = b"GET /api/v1/users/1000/segments HTTP/1.1\r\nHost: segmentd\r\nX-Request-Id: one\r\n"
LIMITS = ConnectionLimits(max_header_bytes=32_768, receive_seconds=20, send_seconds=30, keep_alive_seconds=5)
ANSWER = b'{"user_id":1000,"segments":["A"]}'


class Counting(HotPath):
    """The hot path, counting what it was asked on the spot."""

    asked = 0

    def user(self, user_id: int, authorization: bytes | None) -> tuple[bytes, int] | None:
        self.asked += 1
        return super().user(user_id, authorization)


class Line:
    """Raw bytes to and from a server."""

    def __init__(self, hot_path: Counting, port: int) -> None:
        self.hot_path = hot_path
        self._port = port

    async def say(self, *pieces: bytes, answers: int = 1) -> list[bytes]:
        """Sends the pieces, each on its own, and reads so many answers; dates and ages are left out."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)  # so that the server receives them apart; nothing depends on it
            return [await _one_answer(reader) for _ in range(answers)]
        finally:
            writer.close()
            await writer.wait_closed()


async def _one_answer(reader: asyncio.StreamReader) -> bytes:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    length = re.search(rb"content-length: (\d+)", head)
    body = await reader.readexactly(int(length[1])) if length else b""
    return re.sub(rb"(date|age): [^\r]*\r\n", b"", head) + body


@pytest.fixture
async def line(database_url: str, database: Database, api: Api, tmp_path: Path) -> AsyncIterator[Line]:
    """A server whose copy is fresh, with user 1000 in the segment A."""
    await api.create("A")
    await api.add(1000, "A")
    settings = Settings(data_dir=str(tmp_path))
    follower = Follower(database, tmp_path / "node")
    await follower.round()
    follower.close()  # a process opens a copy once; what stands on the board stays fresh for a while
    async with Database(database_url) as own, near(own, settings, tmp_path / "node") as node:
        authenticator = await open_to_all(own)
        app = entrance(service(own, settings, node), authenticator)
        hot_path = Counting(app, node.replica, authenticator, RequestIds(), Metrics())
        started = asyncio.Event()
        config = uvicorn.Config(
            hot_path,
            port=0,
            http=HotProtocol.answering_by(hot_path).within(LIMITS),
            ws="none",
            lifespan="off",
            log_config=None,
            server_header=False,
        )
        server = Server(config, started.set)
        serving = asyncio.create_task(server.serve())
        await asyncio.wait_for(started.wait(), 10)
        yield Line(hot_path, server.servers[0].sockets[0].getsockname()[1])
        server.should_exit = True
        await serving


async def test_a_plain_hot_read_is_answered_on_the_spot_as_the_parser_would(line: Line) -> None:
    [on_the_spot] = await line.say(HOT + b"\r\n")
    assert line.hot_path.asked == 1

    [by_the_parser] = await line.say(HOT + b"\r", b"\n")

    assert on_the_spot == by_the_parser
    assert on_the_spot.endswith(ANSWER)


@pytest.mark.parametrize(
    "header",
    [
        b"Connection: keep-alive, x",
        b"Connection: close",
        b"connection : close",
        b"Content-Length: 0",
        b"Expect: x",
        b"Upgrade: h2c",
    ],
)
async def test_what_is_about_the_connection_or_a_body_is_left_to_the_parser(
    line: Line, header: bytes
) -> None:
    [answer] = await line.say(HOT + header + b"\r\n\r\n")

    # A blank before the colon is refused by the parser, as it was before.
    assert answer.endswith(ANSWER) or answer.startswith(b"HTTP/1.1 400")


async def test_a_client_that_asks_to_keep_the_connection_is_answered_on_the_spot(line: Line) -> None:
    [answer] = await line.say(HOT + b"Connection: Keep-Alive\r\nAccept: */*\r\n\r\n")

    assert answer.endswith(ANSWER)
    assert line.hot_path.asked == 1


async def test_a_hot_read_with_more_headers_than_allowed_is_refused(line: Line) -> None:
    header = b"X: ".ljust(LIMITS.max_header_bytes - len(HOT) - 4, b"x")
    [largest] = await line.say(HOT + header + b"\r\n\r\n")
    assert line.hot_path.asked == 1

    [larger] = await line.say(HOT + header + b"x\r\n\r\n")

    assert largest.endswith(ANSWER)
    assert larger.startswith(b"HTTP/1.1 431")
    assert line.hot_path.asked == 1


@pytest.mark.parametrize(
    "name", [b"Connection", b"Content-Length", b"Transfer-Encoding", b"Upgrade", b"Expect"]
)
def test_a_head_that_breaks_off_after_a_header_without_a_value_is_not_whole(name: bytes) -> None:
    assert PLAIN.fullmatch(HOT + b"\r\n")
    assert not PLAIN.fullmatch(HOT + name + b":\r\n")


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /api/v1/users/01000/segments HTTP/1.1",
        b"GET /api/v1/users/0/segments HTTP/1.1",
        b"GET /api/v1/users/9223372036854775808/segments HTTP/1.1",
        b"GET /api/v1/users/1000/segments?detail=true HTTP/1.1",
        b"GET /api/v1/users/1000/segments/ HTTP/1.1",
        b"GET /api/v1/users/1000/segments HTTP/1.0",
    ],
)
async def test_unusual_requests_get_the_frameworks_answer(line: Line, request_line: bytes) -> None:
    rest = b"\r\nHost: segmentd\r\nX-Request-Id: one\r\n\r\n"

    [at_once] = await line.say(request_line + rest)
    [in_pieces] = await line.say(request_line + rest[:-1], rest[-1:])

    assert without_times(at_once) == without_times(in_pieces)


async def test_requests_one_after_the_other_and_all_at_once_are_answered_in_order(line: Line) -> None:
    other = b"GET /livez HTTP/1.1\r\nHost: segmentd\r\n\r\n"

    answers = await line.say(HOT + b"\r\n", other, HOT + b"\r\n" + other + HOT + b"\r\n", answers=5)

    ends = [answer.rpartition(b"\r\n\r\n")[2] for answer in answers]
    assert ends == [ANSWER, b'{"status":"ok"}', ANSWER, b'{"status":"ok"}', ANSWER]


async def test_a_body_that_looks_like_a_request_is_a_body(line: Line) -> None:
    hidden = HOT + b"\r\n"
    head = b"POST /api/v1/lookup HTTP/1.1\r\nHost: segmentd\r\nContent-Type: application/json\r\n"

    [answer] = await line.say(head + b"Content-Length: %d\r\n\r\n" % len(hidden), hidden)

    assert answer.startswith(b"HTTP/1.1 400")
    assert line.hot_path.asked == 0


def without_times(answer: bytes) -> bytes:
    return re.sub(rb"\d{4}-\d\d-\d\dT[^\"]*", b"TIME", answer)
