"""The hot read in uvicorn's protocol, byte by byte over a real connection."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from litestar.types import Receive, Scope, Send

from segmentd.api.http.edge.connection import ConnectionLimits
from segmentd.api.http.edge.request_ids import RequestIds
from segmentd.api.http.hot.calls import Answer, HotCalls
from segmentd.api.http.hot.path import HotPath
from segmentd.api.http.hot.protocol import PLAIN_HEAD, HotProtocol
from segmentd.config import Settings
from segmentd.observability.metrics import Metrics
from segmentd.replica.follower import Follower
from segmentd.serve.wiring import open_node, service
from segmentd.storage.database import Database
from tests.support.accepting import accepting
from tests.support.client import Api
from tests.support.door import middleware, open_to_all
from tests.support.wire import Wire

HOT = b"GET /api/v1/users/1000/segments HTTP/1.1\r\nHost: segmentd\r\nX-Request-Id: one\r\n"
LIMITS = ConnectionLimits(max_header_bytes=32_768, receive_seconds=20, send_seconds=30, keep_alive_seconds=5)
ANSWER = b'{"user_id":1000,"segments":["A"]}'


class Counting(HotCalls):
    """The hot calls, counting the reads that were asked for."""

    asked = 0

    def read(self, user_id: int, authorization: bytes | None, request_id: bytes | None) -> Answer | None:
        self.asked += 1
        return super().read(user_id, authorization, request_id)


class Line:
    """Raw bytes to and from a server."""

    def __init__(self, app: HotPath, calls: Counting, port: int) -> None:
        self.app = app
        self.calls = calls
        self._port = port

    async def say(
        self, *pieces: bytes, answers: int = 1, bodies: Sequence[bool] | None = None
    ) -> list[bytes]:
        """Sends the pieces, each on its own, and reads so many answers; dates and ages are left out."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)  # so that the server receives them apart; nothing depends on it
            return [await _one_answer(reader, has_body=has_body) for has_body in bodies or [True] * answers]
        finally:
            writer.close()
            await writer.wait_closed()


async def _one_answer(reader: asyncio.StreamReader, *, has_body: bool) -> bytes:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    length = re.search(rb"content-length: (\d+)", head)
    body = await reader.readexactly(int(length[1])) if length and has_body else b""
    return re.sub(rb"(date|age): [^\r]*\r\n", b"", head) + body


@pytest.fixture
async def line(database_url: str, database: Database, api: Api, tmp_path: Path) -> AsyncIterator[Line]:
    """A server whose replica is fresh, with user 1000 in the segment A."""
    await api.create("A")
    await api.add(1000, "A")
    settings = Settings(data_dir=str(tmp_path))
    follower = Follower(database, tmp_path / "node")
    await follower.round()
    follower.close()  # a process opens a replica once; the replica status stays fresh for a while
    async with Database(database_url) as own, open_node(own, settings, tmp_path / "node") as node:
        authenticator = await open_to_all(own)
        app = middleware(service(own, settings, node), authenticator)
        calls = Counting(node.replica, authenticator, RequestIds(), Metrics())
        hot_path = HotPath(app, calls)
        async with accepting(hot_path, HotProtocol.answering_by(calls).within(LIMITS)) as (_, port):
            yield Line(hot_path, calls, port)


async def test_a_plain_hot_read_is_answered_on_the_spot_as_the_parser_would(line: Line) -> None:
    [on_the_spot] = await line.say(HOT + b"\r\n")
    assert line.calls.asked == 1

    [by_the_parser] = await line.say(HOT + b"\r", b"\n")

    assert on_the_spot == by_the_parser
    assert on_the_spot.endswith(ANSWER)


@pytest.mark.parametrize("blanks", [b"\t", b" \t ", b"  "])
async def test_the_blanks_after_a_value_matter_nowhere(line: Line, blanks: bytes) -> None:
    hot = HOT.replace(b"\r\n", blanks + b"\r\n").replace(b"HTTP/1.1" + blanks, b"HTTP/1.1") + b"\r\n"
    [on_the_spot] = await line.say(hot)
    assert line.calls.asked == 1

    [by_the_parser] = await line.say(hot[:-1], b"\n")
    [by_the_framework] = await line.say(hot.replace(b"/segments", b"/segments?ids=number"))

    assert on_the_spot == by_the_parser
    assert by_the_framework.endswith(ANSWER)
    assert b"x-request-id: one\r\n" in on_the_spot
    assert b"x-request-id: one\r\n" in by_the_framework


@pytest.mark.parametrize("path", [b"users%2F1000/segments", b"users/1000%2fsegments", b"users/1000%2F"])
async def test_a_slash_that_is_escaped_leads_nowhere(line: Line, path: bytes) -> None:
    for method in (b"GET", b"DELETE"):
        [answer] = await line.say(method + b" /api/v1/" + path + b" HTTP/1.1\r\nHost: h\r\n\r\n")

        assert answer.startswith(b"HTTP/1.1 404 ")


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
    assert line.calls.asked == 1


async def test_a_hot_read_with_more_headers_than_allowed_is_refused(line: Line) -> None:
    header = b"X: ".ljust(LIMITS.max_header_bytes - len(HOT) - 4, b"x")
    [largest] = await line.say(HOT + header + b"\r\n\r\n")
    assert line.calls.asked == 1

    [larger] = await line.say(HOT + header + b"x\r\n\r\n")

    assert largest.endswith(ANSWER)
    assert larger.startswith(b"HTTP/1.1 431")
    assert line.calls.asked == 1


@pytest.mark.parametrize(
    "name", [b"Connection", b"Content-Length", b"Transfer-Encoding", b"Upgrade", b"Expect"]
)
def test_a_head_that_breaks_off_after_a_header_without_a_value_is_not_whole(name: bytes) -> None:
    headers = HOT.partition(b"\r\n")[2]
    assert PLAIN_HEAD.fullmatch(headers + b"\r\n")
    assert not PLAIN_HEAD.fullmatch(headers + name + b":\r\n")


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


@pytest.mark.parametrize("host", [b"h", b"127.0.0.1:8080", b"[::1]:80", b"h:65535"])
async def test_a_hot_read_for_any_host_is_answered_on_the_spot(line: Line, host: bytes) -> None:
    for head in (
        HOT.replace(b"segmentd", host),
        HOT.replace(b"Host: segmentd\r\n", b"") + b"hOST:" + host + b" \r\n",
    ):
        [answer] = await line.say(head + b"\r\n")

        assert answer.endswith(ANSWER)
    assert line.calls.asked == 2


@pytest.mark.parametrize(
    "hosts",
    [
        b"",
        b"Host:\r\n",
        b"Host: h\r\nhost: h\r\n",
        b"Host: a:b\r\n",
        b"Host: a:99999\r\n",
        b"Host: u@evil\r\n",
        b"Host: [\r\n",
        b"Host: %00\r\n",
        b"Host: a, b\r\n",
    ],
)
async def test_a_hot_read_without_one_good_host_is_refused(line: Line, hosts: bytes) -> None:
    [answer] = await line.say(HOT.replace(b"Host: segmentd\r\n", hosts) + b"\r\n")

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"/problems/malformed" in answer
    assert line.calls.asked == 0


OFFER = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
HIDDEN = HOT.replace(b"1000", b"4711") + b"\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(HIDDEN)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"", b""),
        (OFFER, b""),
        (OFFER + LENGTH, HIDDEN),
        (OFFER + b"Transfer-Encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)),
        (LENGTH, HIDDEN),
        (b"Host: h\r\n", b""),
        (b"X: \x01\r\n", b""),
        (b"X: \x7f\r\n", b""),
        (b"X: \xff\t\r\n", b""),
        (b"X : y\r\n", b""),
        (b" X: y\r\n", b""),
        (b"X: y\n", b""),
        (b"X\r\n", b""),
    ],
)
async def test_hot_reads_are_the_same_however_their_bytes_arrive(
    line: Line, headers: bytes, body: bytes
) -> None:
    wire = Wire(HotProtocol.answering_by(line.calls).within(LIMITS), line.app)
    stream = HOT + headers + b"\r\n" + body + HOT + b"\r\n"

    ways = [await wire.say([stream[:at], stream[at:]], apart=True) for at in range(1, len(stream) + 1)]
    ways.append(await wire.say([stream[at : at + 1] for at in range(len(stream))], apart=True))

    [expected] = {re.sub(rb"(date|age): [^\r]*\r\n", b"", way) for way in ways}
    assert b"4711" not in expected
    assert expected.count(ANSWER) == (0 if b"HTTP/1.1 400" in expected else 2)


@pytest.mark.parametrize("size", [1_000, 40_000])
async def test_a_lookup_with_the_offer_of_http_2_is_answered_in_http_1(line: Line, size: int) -> None:
    body = b'{"user_ids": [1000]}'.ljust(size)
    head = (
        b"POST /api/v1/lookup HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nX-Request-Id: one\r\n"
    )
    whole = head + OFFER + b"HTTP2-Settings: AAMAAABk\r\nContent-Length: %d\r\n\r\n" % size + body

    for pieces in ([whole, HOT + b"\r\n"], [whole[:-500], whole[-500:] + HOT + b"\r\n"]):
        looked_up, read = await line.say(*pieces, answers=2)

        assert looked_up.endswith(b'{"users":[%b]}' % ANSWER)
        assert read.endswith(ANSWER)


async def test_headers_that_came_before_are_answered_as_at_first_and_few_are_remembered(line: Line) -> None:
    protocol = HotProtocol.answering_by(line.calls, ["traceparent"]).within(LIMITS)
    wire = Wire(protocol, line.app)
    read = HOT.replace(b"X-Request-Id: one\r\n", b"")

    async def answer(headers: bytes) -> bytes:
        return re.sub(
            rb"(date|age|x-request-id): [^\r]*\r\n", b"", await wire.say([read + headers + b"\r\n"])
        )

    first = await answer(b"")
    assert first.endswith(ANSWER)
    assert [await answer(b"") for _ in range(3)] == [first] * 3
    assert len(protocol.heads) == 1
    for headers in (b"X-Request-Id: two\r\n", b"traceparent: x\r\n", b"X: %b\r\n" % (b"x" * 1024)):
        assert {await answer(headers), await answer(headers)} == {first}
    assert len(protocol.heads) == 1
    assert (await answer(b"Host: b\r\n")).startswith(b"HTTP/1.1 400")
    for number in range(600):
        assert await answer(b"X: %d\r\n" % number) == first
        assert len(protocol.heads) <= 256
    assert line.calls.asked == 4 + 6 + 600


async def test_requests_one_after_the_other_and_all_at_once_are_answered_in_order(line: Line) -> None:
    other = b"GET /livez HTTP/1.1\r\nHost: segmentd\r\n\r\n"

    answers = await line.say(HOT + b"\r\n", other, HOT + b"\r\n" + other + HOT + b"\r\n", answers=5)

    ends = [answer.rpartition(b"\r\n\r\n")[2] for answer in answers]
    assert ends == [ANSWER, b'{"status":"ok"}', ANSWER, b'{"status":"ok"}', ANSWER]


@pytest.mark.parametrize("count", [2, 64, 65, 200])
async def test_hot_reads_that_come_at_once_are_answered_in_order_and_the_first_64_on_the_spot(
    line: Line, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    by_the_parser = 0
    as_shipped = HotPath.__call__

    async def counted(self: HotPath, scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal by_the_parser
        by_the_parser += 1
        await as_shipped(self, scope, receive, send)

    monkeypatch.setattr(HotPath, "__call__", counted)
    reads = [HOT.replace(b"one", b"read-%d" % number) + b"\r\n" for number in range(count)]

    answers = await line.say(b"".join(reads), answers=count)

    ids = [re.findall(rb"(?i)x-request-id: (\S+)\r\n", answer) for answer in answers]
    assert ids == [[b"read-%d" % number] for number in range(count)]
    assert {answer.rpartition(b"\r\n\r\n")[2] for answer in answers} == {ANSWER}
    assert by_the_parser == max(0, count - 64)


async def test_a_body_that_looks_like_a_request_is_a_body(line: Line) -> None:
    hidden = HOT + b"\r\n"
    head = b"POST /api/v1/lookup HTTP/1.1\r\nHost: segmentd\r\nContent-Type: application/json\r\n"

    [answer] = await line.say(head + b"Content-Length: %d\r\n\r\n" % len(hidden), hidden)

    assert answer.startswith(b"HTTP/1.1 400")
    assert line.calls.asked == 0


def without_times(answer: bytes) -> bytes:
    return re.sub(rb"\d{4}-\d\d-\d\dT[^\"]*", b"TIME", answer)
