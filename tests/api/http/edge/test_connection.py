"""The limits of a connection, byte by byte over a real one."""

import asyncio
import json
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple

import msgspec
import pytest
from structlog.testing import capture_logs

from segmentd.api.http.edge.connection import ConnectionLimits, LimitedProtocol
from segmentd.api.http.edge.send_buffer import Bound, Room, SharedBytes
from segmentd.observability.metrics import Refusal
from tests.support.accepting import accepting
from tests.support.client import Json

# Not how long something may take, but when a test gives up.
PATIENCE_S: Final = 30

# Times that are never over in these tests, of which each test shortens its own.
LIMITS: Final = ConnectionLimits(
    max_header_bytes=2048, receive_seconds=300, send_seconds=300, keep_alive_seconds=300
)
SHORT_S: Final = 0.4

GET: Final = b"GET / HTTP/1.1\r\nHost: segmentd\r\n\r\n"
UPLOAD: Final = b"POST / HTTP/1.1\r\nHost: segmentd\r\nContent-Length: 10\r\n\r\n"
HELD_UPLOAD: Final = UPLOAD.replace(b"/", b"/held", 1)
CHUNKED: Final = b"POST / HTTP/1.1\r\nHost: segmentd\r\nTransfer-Encoding: chunked\r\n\r\n"

LARGE: Final = 2**23
PIECE: Final = 2**16
SHARED: Final = SharedBytes(LARGE)


class Answer(NamedTuple):
    """What the server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> Json:
        """The problem document."""
        assert self.headers["content-type"] == "application/problem+json"
        return json.loads(self.body)


class Client:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Sends bytes; what the server does not take any more is lost."""
        with suppress(ConnectionError):
            for piece in pieces:
                self._writer.write(piece)
                async with asyncio.timeout(PATIENCE_S):
                    await self._writer.drain()

    async def answer(self) -> Answer:
        """Reads one answer."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            line, *lines = head.decode().strip().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(line.split()[1]), headers, body)

    async def rest(self) -> bytes:
        """Waits until the server closes the connection; what it sent until then."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.read()

    async def taken_in_steps(self) -> bytes:
        """All that the server sends, not taken at once."""
        taken = b""
        async with asyncio.timeout(PATIENCE_S):
            while some := await self._reader.read(PIECE):
                taken += some
                await asyncio.sleep(0.02)  # a slow client is the subject
        return taken

    @asynccontextmanager
    async def dribbling(self, byte: bytes) -> AsyncIterator[None]:
        """Sends a byte now and then, if it is one."""

        async def dribble() -> None:
            while byte:
                await self.send(byte)
                await asyncio.sleep(0.02)  # as above

        task = asyncio.create_task(dribble())
        try:
            yield
        finally:
            task.cancel()


class Service:
    """An application that answers with the size of what it received; and the server before it.

    `/held` waits for `go` first, `/early` does not read, `/late` reads once it has begun to answer, and
    `/large`, `/streamed`, `/shared` answer with a lot, as one piece, as many, and as one for all.
    """

    def __init__(self) -> None:
        self.address = ("", 0)
        self.begun = 0
        self.ended = 0
        self.go = asyncio.Event()
        self.held = asyncio.Event()
        self.left = asyncio.Event()
        self.refused: list[Refusal] = []

    async def __call__(
        self, scope: Json, receive: Callable[[], Awaitable[Json]], send: Callable[[Json], Awaitable[None]]
    ) -> None:
        if scope["path"] == "/held":
            self.held.set()
            await self.go.wait()
        if scope["path"] in {"/large", "/streamed", "/shared"}:
            await send(started(LARGE))
            body = SHARED if scope["path"] == "/shared" else bytes(LARGE)
            piece = PIECE if scope["path"] == "/streamed" else LARGE
            for left in reversed(range(0, LARGE, piece)):
                part = body if piece == LARGE else body[:piece]
                await send({"type": "http.response.body", "body": part, "more_body": left > 0})
        elif scope["path"] == "/late":
            await send(started(0))
            assert (await receive())["type"] == "http.disconnect"
        else:
            size = 0
            more = scope["path"] != "/early"
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.left.set()
                    return
                size += len(message["body"])
                more = message["more_body"]
            body = b"%d" % size
            await send(started(len(body)))
            await send({"type": "http.response.body", "body": body})
        self.left.set()

    @asynccontextmanager
    async def client(self, receives: int = 2**18) -> AsyncIterator[Client]:
        """Connects, with so much room for what was not read yet."""
        end = socket.socket()
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        end.settimeout(0)
        await asyncio.get_running_loop().sock_connect(end, self.address)
        self.begun += 1
        reader, writer = await asyncio.open_connection(sock=end, limit=PIECE)
        try:
            yield Client(reader, writer)
        finally:
            writer.transport.abort()

    async def is_alone(self) -> None:
        """Waits until the server has no connection left."""
        async with asyncio.timeout(PATIENCE_S):
            while self.ended < self.begun:  # noqa: ASYNC110 - the protocol sets no event
                await asyncio.sleep(0.01)

    def count(self) -> None:
        """One connection more has ended."""
        self.ended += 1

    async def the_time_is_over(self) -> None:
        """Waits until a connection that is made now, and says nothing, is closed."""
        async with self.client() as silent:
            assert await silent.rest() == b""


def started(size: int) -> Json:
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]}


@asynccontextmanager
async def serving(room: Room | None = None, **limits: float) -> AsyncIterator[Service]:
    """A server with these limits, which ends with the context, and then has no connection left."""
    service = Service()
    limited = msgspec.structs.replace(LIMITS, **limits)
    protocol = LimitedProtocol.within(limited, service.refused.append, room, ended=service.count)
    async with accepting(service, protocol) as service.address:
        yield service


def one_long_header(size: int) -> bytes:
    return GET[:-2] + b"X: ".ljust(size - len(GET) - 2, b"x") + b"\r\n\r\n"


def many_tiny_headers(size: int) -> bytes:
    count, rest = divmod(size - len(GET), 4)
    return GET[:-2] + b"a:\r\n" * (count - 1) + b"a:".ljust(2 + rest, b" ") + b"\r\n\r\n"


def a_long_address(size: int) -> bytes:
    return GET.replace(b"/", b"/?".ljust(size - len(GET) + 1, b"x"), 1)


def blanks_before_a_value(size: int) -> bytes:
    return GET.replace(b": ", b": ".ljust(size - len(GET) + 2))


SHAPES = pytest.mark.parametrize(
    "head", [one_long_header, many_tiny_headers, a_long_address, blanks_before_a_value]
)
PIECES = pytest.mark.parametrize("piece", [1, 1000, PIECE], ids=["by_bytes", "in_pieces", "at_once"])


@SHAPES
@PIECES
async def test_headers_up_to_the_limit_are_served_and_one_byte_more_is_refused(
    head: Callable[[int], bytes], piece: int
) -> None:
    largest, larger = head(LIMITS.max_header_bytes), head(LIMITS.max_header_bytes + 1)
    assert (len(largest), len(larger)) == (LIMITS.max_header_bytes, LIMITS.max_header_bytes + 1)
    async with serving() as service, service.client() as client, service.client() as other:
        for _ in range(2):
            await client.send(*(largest[at : at + piece] for at in range(0, len(largest), piece)))
            assert (await client.answer()).status == 200
        assert service.refused == []

        with capture_logs() as logged:
            await other.send(*(larger[at : at + piece] for at in range(0, len(larger), piece)))
            refusal = await other.answer()
            assert await other.rest() == b""

        assert refusal.status == 431
        assert refusal.headers["connection"] == "close"
        assert refusal.problem == {
            "type": "/problems/headers-too-large",
            "title": "Headers too large",
            "status": 431,
            "detail": "A request may have 2048 bytes of headers.",
        }
        assert service.refused == [Refusal.HEADERS_TOO_LARGE]
        assert [line for line in logged if line["event"] == "connection cut"] == [
            {"event": "connection cut", "log_level": "info", "reason": "headers-too-large"}
        ]


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET /", b"x"),
        (GET[:-2] + b"X: ", b"x"),
        (GET[:-2], b"a:b\r\n"),
        (CHUNKED + b"0\r\nX: ", b"x"),
        (CHUNKED + b"1;", b"x"),
    ],
    ids=["address", "header", "headers", "trailer", "chunk_extension"],
)
async def test_of_headers_without_end_nothing_is_kept_and_the_client_gets_the_refusal(
    begin: bytes, more: bytes
) -> None:
    endless = more * (PIECE // len(more))
    async with serving() as service, service.client() as client:
        await client.send(begin)
        tracemalloc.start()
        try:
            for _ in range(0, LARGE, PIECE):
                await client.send(endless)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert (await client.answer()).status == 431
        assert await client.rest() == b""
        assert peak < LARGE / 4


async def test_trailers_up_to_the_limit_are_taken_and_larger_ones_refused() -> None:
    async with serving() as service, service.client() as client:
        for _ in range(2):
            await client.send(CHUNKED + b"5\r\nhello\r\n0\r\n" + b"a: b\r\n" * 300 + b"\r\n")
            assert (await client.answer()).body == b"5"

        await client.send(CHUNKED[:-2] + b"Expect: 100-continue\r\n\r\n")
        assert (await client.answer()).status == 100
        await client.send(b"0\r\n" + b"a: b\r\n" * 300 + b"\r\n" + one_long_header(LIMITS.max_header_bytes))
        assert [(await client.answer()).body for _ in range(2)] == [b"0", b"0"]

        await client.send(CHUNKED + b"5\r\nhello\r\n0\r\n" + b"a: b\r\n" * 700 + b"\r\n")

        assert (await client.answer()).status == 431
        await asyncio.wait_for(service.left.wait(), PATIENCE_S)


async def test_a_large_body_in_tiny_chunks_is_no_matter_of_headers() -> None:
    async with serving() as service, service.client() as client:
        await client.send(CHUNKED + b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n")

        assert (await client.answer()).body == b"50000"


@pytest.mark.parametrize("dribbled", [b"", b"x"], ids=["silent", "dribbling"])
@pytest.mark.parametrize(
    "begin",
    [
        b"GET /",
        GET[:-2] + b"X: ",
        UPLOAD.replace(b"10", b"1000"),
        UPLOAD.replace(b"10", b"200000") + bytes(100_000),
        CHUNKED + b"fffff\r\n",
        CHUNKED + b"0\r\nX: ",
    ],
    ids=["address", "headers", "body", "large_body", "chunk", "trailer"],
)
async def test_a_request_that_is_not_received_in_time_is_answered_so(begin: bytes, dribbled: bytes) -> None:
    async with serving(receive_seconds=SHORT_S) as service, service.client() as client:
        first = await served_once(client)
        await client.send(begin)
        with capture_logs() as logged:
            async with client.dribbling(dribbled):
                answer = await client.answer()
                assert await client.rest() == b""

        assert first.status == 200
        assert answer.status == 408
        assert answer.problem["type"] == "/problems/request-timeout"
        assert answer.problem["detail"] == "The request was not received within 0.4 seconds."
        assert answer.headers["connection"] == "close"
        assert service.refused == [Refusal.SLOW_CLIENT]
        assert {"event": "connection cut", "log_level": "info", "reason": "slow-client"} in logged


async def served_once(client: Client) -> Answer:
    await client.send(GET)
    return await client.answer()


IMPORT: Final = CHUNKED.replace(b"/", b"/api/v1/imports", 1)


async def test_a_body_of_any_length_may_take_longer_as_long_as_enough_of_it_comes() -> None:
    async with serving(receive_seconds=SHORT_S, least_bytes_per_second=50) as service:
        async with service.client() as client:
            await client.send(IMPORT)
            for _ in range(6):  # 0.4 s would be over after the fourth
                await client.send(b"a\r\n0123456789\r\n" * 3)
                await asyncio.sleep(SHORT_S / 4)  # a steady client is the subject
            await client.send(b"0\r\n\r\n")
            answer = await client.answer()
        assert (answer.status, answer.body) == (200, b"180")
        assert service.refused == []


@pytest.mark.parametrize("dribbled", [b"", b"1\r\nx\r\n"], ids=["silent", "dribbling"])
async def test_a_body_of_any_length_that_comes_too_slowly_is_refused(dribbled: bytes) -> None:
    async with (
        serving(receive_seconds=SHORT_S, least_bytes_per_second=10_000) as service,
        service.client() as client,
    ):
        await client.send(IMPORT)
        async with client.dribbling(dribbled):
            answer = await client.answer()

        assert answer.status == 408
        assert answer.problem["detail"] == "The body came with less than 10000 bytes a second."
        assert service.refused == [Refusal.SLOW_CLIENT]


async def test_an_application_that_waits_for_the_body_learns_that_the_client_is_gone() -> None:
    async with serving(receive_seconds=SHORT_S) as service, service.client() as client:
        await client.send(UPLOAD + b"12345")

        assert (await client.answer()).status == 408
        await asyncio.wait_for(service.left.wait(), PATIENCE_S)


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
async def test_a_connection_without_a_request_is_closed_without_a_word(sent: bytes) -> None:
    async with serving(receive_seconds=SHORT_S) as service, service.client() as client:
        async with client.dribbling(sent):
            with suppress(ConnectionError):  # by what was sent while the server closed
                assert await client.rest() == b""

        assert service.refused == []


async def test_an_idle_connection_is_closed_after_its_own_time_which_may_be_a_fraction() -> None:
    async with serving(keep_alive_seconds=SHORT_S) as service, service.client() as client:
        assert (await served_once(client)).status == 200
        assert (await served_once(client)).status == 200

        assert await client.rest() == b""

        assert service.refused == []


async def test_an_idle_connection_is_not_closed_by_the_time_for_requests() -> None:
    async with serving(receive_seconds=SHORT_S) as service, service.client() as client:
        assert (await served_once(client)).status == 200

        await service.the_time_is_over()

        assert (await served_once(client)).status == 200


@pytest.mark.parametrize(
    ("begin", "before", "end", "received"),
    [
        (b"GET /held HTTP/1.1\r\nHost: h\r\n\r\n", b"", b"", b"0"),
        (HELD_UPLOAD.replace(b"10", b"200000") + bytes(150_000), b"", bytes(50_000), b"200000"),
        (HELD_UPLOAD[:-2] + b"Expect: 100-continue\r\n\r\n", b"100", bytes(10), b"10"),
        (b"GET /held HTTP/1.1\r\nHost: h\r\n\r\n" + UPLOAD, b"200", bytes(10), b"10"),
        (b"GET /held HTTP/1.1\r\nHost: h\r\n\r\n" + UPLOAD[:9], b"200", UPLOAD[9:] + bytes(10), b"10"),
    ],
    ids=["answer", "unread_body", "invitation", "earlier_request", "earlier_request_amid_headers"],
)  # fmt: skip
async def test_time_for_which_the_application_lets_the_client_wait_does_not_count(
    begin: bytes, before: bytes, end: bytes, received: bytes
) -> None:
    async with (
        serving(receive_seconds=1, keep_alive_seconds=0.05) as service,
        service.client() as client,
    ):
        sending = asyncio.create_task(client.send(begin))
        await asyncio.wait_for(service.held.wait(), PATIENCE_S)
        await service.the_time_is_over()

        service.go.set()
        if before:
            assert (await client.answer()).status == int(before)
        async with service.client() as other:
            assert (await served_once(other)).status == 200
            assert await other.rest() == b""  # so the server has looked since the client could go on
        await client.send(end)
        await sending

        answer = await client.answer()
        assert (answer.status, answer.body) == (200, received)
        assert service.refused == []


@pytest.mark.parametrize("path", [b"/early", b"/late"])
async def test_a_request_that_is_answered_before_it_was_received_gets_no_second_answer(path: bytes) -> None:
    async with serving(receive_seconds=SHORT_S) as service, service.client() as client:
        await client.send(UPLOAD.replace(b"/", path, 1))
        assert (await client.answer()).status == 200

        assert await client.rest() == b""

        assert service.refused == [Refusal.SLOW_CLIENT]
        await asyncio.wait_for(service.left.wait(), PATIENCE_S)


@pytest.mark.parametrize("path", [b"/large", b"/streamed"])
@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"], ids=["kept", "closed"])
async def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(path: bytes, more: bytes) -> None:
    async with serving(send_seconds=SHORT_S) as service, service.client(receives=4096) as client:
        await client.send(GET.replace(b"/", path, 1)[:-2] + more + b"\r\n")

        await service.is_alone()

        await asyncio.wait_for(service.left.wait(), PATIENCE_S)
        assert service.refused == [Refusal.SLOW_CLIENT]


async def test_a_refusal_that_is_not_taken_is_cut_off_as_any_answer() -> None:
    async with serving(send_seconds=SHORT_S) as service, service.client(receives=4096) as client:
        await client.send(GET.replace(b"/", b"/large", 1), b"?")

        await service.is_alone()

        assert service.refused == [Refusal.SLOW_CLIENT]


@pytest.mark.parametrize("path", [b"/large", b"/streamed"])
async def test_a_client_that_takes_its_answer_slowly_but_steadily_gets_all_of_it(path: bytes) -> None:
    async with (
        serving(send_seconds=SHORT_S, receive_seconds=SHORT_S, keep_alive_seconds=SHORT_S) as service,
        service.client() as client,
    ):
        await client.send(GET.replace(b"/", path, 1))

        assert len(await client.taken_in_steps()) > LARGE

        assert service.refused == []


@pytest.mark.parametrize("path", [b"/large", b"/streamed", b"/shared"])
async def test_a_client_that_takes_its_answer_too_slowly_is_cut_off(path: bytes) -> None:
    async with (
        serving(send_seconds=SHORT_S, least_bytes_per_second=2**30) as service,
        service.client(receives=4096) as client,
    ):
        await client.send(GET.replace(b"/", path, 1))
        with suppress(ConnectionError):
            assert len(await client.taken_in_steps()) < LARGE

        await service.is_alone()
        assert service.refused == [Refusal.SLOW_CLIENT]


async def test_answers_that_are_taken_at_once_are_not_slow_however_small_they_are() -> None:
    async with serving(send_seconds=SHORT_S, least_bytes_per_second=2**30) as service:
        async with service.client() as client:
            assert (await served_once(client)).status == 200
            await service_looked(service)
            assert (await served_once(client)).status == 200
        assert service.refused == []


async def service_looked(service: Service) -> None:
    """Waits until an answer that is not taken is cut off, so that each connection was looked at."""
    async with service.client(receives=4096) as other:
        await other.send(GET.replace(b"/", b"/large", 1))
        async with asyncio.timeout(PATIENCE_S):
            while service.refused != [Refusal.SLOW_CLIENT]:  # noqa: ASYNC110 - it sets no event
                await asyncio.sleep(0.01)
    service.refused.clear()


async def test_of_too_many_connections_the_last_one_is_refused_and_closed() -> None:
    room = Room(connections=Bound("connections", 2))
    async with serving(room) as service:
        with capture_logs() as logged:
            async with service.client() as first, service.client() as second:
                assert [(await served_once(each)).status for each in (first, second)] == [200, 200]
                for _ in range(3):
                    async with service.client() as third:
                        refusal = await third.answer()
                        assert await third.rest() == b""
                assert [(await served_once(each)).status for each in (first, second)] == [200, 200]

        assert (refusal.status, refusal.problem["type"]) == (503, "/problems/overloaded")
        assert refusal.headers["connection"] == "close"
        assert int(refusal.headers["retry-after"]) > 0
        assert service.refused == [Refusal.CONNECTIONS] * 3
        assert [line for line in logged if line["event"] == "a bound is reached"] == [
            {"event": "a bound is reached", "log_level": "warning", "of": "connections", "most": 2}
        ]
        await service.is_alone()
        assert room.connections.held == 0
        async with service.client() as fourth:
            assert (await served_once(fourth)).status == 200


@pytest.mark.parametrize("path", [b"/large", b"/streamed", b"/shared"])
async def test_what_clients_have_not_taken_is_counted_unless_all_answers_share_it(path: bytes) -> None:
    room = Room()
    async with serving(room) as service:
        async with service.client(receives=4096) as client:
            await client.send(GET.replace(b"/", path, 1))
            if path == b"/streamed":
                await held(room)
            else:
                await asyncio.wait_for(service.left.wait(), PATIENCE_S)

            assert (room.unsent.held > 0) == (path != b"/shared")
        await service.is_alone()
        assert room.unsent.held == 0

        async with service.client() as reader:
            await reader.send(GET.replace(b"/", path, 1))
            assert len((await reader.answer()).body) == LARGE
            assert (await served_once(reader)).status == 200
            assert room.unsent.held == 0


async def held(room: Room) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not room.unsent.held:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03secret",
        b"secret / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /secret HTTP/9.9\r\n\r\n",
        b"GET /secret\x80\r\n\r\n",
        b"GET http://[secret HTTP/1.1\r\nHost: h\r\n\r\n",
        GET[:-2] + b"secret\x00: x\r\n\r\n",
        GET[:-2] + b"Content-Length: secret\r\n\r\n",
        CHUNKED + b"secret\r\n",
    ],
)
async def test_what_is_not_http_is_refused_with_a_problem_and_not_echoed(sent: bytes) -> None:
    async with serving() as service, service.client() as client:
        await client.send(sent)
        answer = await client.answer()
        assert await client.rest() == b""

        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert answer.problem == {
            "type": "/problems/malformed",
            "title": "Malformed request",
            "status": 400,
            "detail": "This is not a well-formed HTTP/1.1 request.",
        }
        assert b"secret" not in str(answer).encode()
        assert service.refused == []


@pytest.mark.parametrize(
    ("second", "statuses"),
    [
        (b"?", [200, 400]),
        (one_long_header(3 * LIMITS.max_header_bytes), [200, 431]),
        (UPLOAD.replace(b"10", b"0") + b"?", [200, 200, 400]),
        (CHUNKED + b"?", [200, 400]),
        (CHUNKED + b"0\r\n" + b"a: b\r\n" * 1000, [200, 431]),
    ],
    ids=["malformed", "headers", "third_malformed", "malformed_body", "trailers"],
)
async def test_a_refusal_waits_for_the_answers_that_are_due_before_it(
    second: bytes, statuses: list[int]
) -> None:
    async with serving() as service, service.client() as client:
        await client.send(GET.replace(b"/", b"/held", 1) + second)
        await asyncio.wait_for(service.held.wait(), PATIENCE_S)

        service.go.set()

        assert [(await client.answer()).status for _ in statuses] == statuses
        assert await client.rest() == b""


@pytest.mark.parametrize("refused", [b"?", one_long_header(3 * LIMITS.max_header_bytes)])
async def test_after_a_refusal_nothing_is_a_request_and_the_connection_has_the_time_of_an_idle_one(
    refused: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(keep_alive_seconds=SHORT_S) as service, service.client() as client:
        await client.send(refused)
        assert (await client.answer()).status in {400, 431}

        await client.send(b"\r\n\r\n" + GET)

        assert await client.rest() == b""
        await service.is_alone()
        assert not service.left.is_set()
        assert [record for record in caplog.records if record.levelname == "ERROR"] == []
