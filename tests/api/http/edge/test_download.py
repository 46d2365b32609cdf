"""A streamed answer ends as it should only if its content did: whatever else happens, the client sees it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from typing import Final

import pytest
from litestar.types import Receive, Scope, Send
from structlog.testing import capture_logs

from segmentd.api.http.edge.connection import ConnectionLimits, LimitedProtocol
from segmentd.api.http.edge.download import Content, Download
from segmentd.domain.errors import Unavailable
from tests.support.accepting import accepting
from tests.support.client import Json

PATIENCE_S: Final = 30
LIMITS: Final = ConnectionLimits(
    max_header_bytes=2048, receive_seconds=300, send_seconds=300, keep_alive_seconds=300
)
HEADERS: Final = {"Content-Type": "text/csv"}
CHUNKS: Final = (b"1;explicit\n", b"2;rollout\n")
GET: Final = {version: b"GET / HTTP/%b\r\nHost: segmentd\r\n\r\n" % version for version in (b"1.0", b"1.1")}

Opened = Callable[[], AsyncIterator[Content]]


class Source:
    """A content with two chunks, and then an error if there is one; or it goes on until it is closed."""

    def __init__(self, error: Exception | None = None, *, endless: bool = False) -> None:
        self._error = error
        self._endless = endless
        self.closed = asyncio.Event()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Content]:
        try:
            yield Content(HEADERS, self._chunks())
        finally:
            self.closed.set()

    async def _chunks(self) -> AsyncIterator[bytes]:
        for chunk in CHUNKS:
            yield chunk
        while self._endless:
            yield b"3;explicit\n" * 10_000
        if self._error:
            raise self._error


@asynccontextmanager
async def serving(source: Source) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A server that answers with the content, and a connection to it, which outlives it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(asyncio.CancelledError):  # as the request middleware does, once an answer has begun
            await Download(source.opened())(scope, receive, send)

    with ExitStack() as clients:
        async with accepting(app, LimitedProtocol.within(LIMITS)) as address:
            reader, writer = await asyncio.open_connection(*address)
            clients.callback(writer.transport.abort)
            yield reader, writer


@pytest.mark.parametrize(
    ("version", "body", "framing"),
    [
        (b"1.1", b"b\r\n%b\r\na\r\n%b\r\n0\r\n\r\n" % CHUNKS, b"transfer-encoding: chunked"),
        (b"1.0", b"".join(CHUNKS), b"connection: close"),
    ],
)
async def test_a_content_is_sent_in_the_framing_of_the_version(
    version: bytes, body: bytes, framing: bytes
) -> None:
    source = Source()
    async with serving(source) as (reader, writer), asyncio.timeout(PATIENCE_S):
        writer.write(GET[version])

        head = await reader.readuntil(b"\r\n\r\n")
        sent = await (reader.readexactly(len(body)) if version == b"1.1" else reader.read())

        assert head.startswith(b"HTTP/1.1 200 ")
        assert framing in head
        assert b"content-type: text/csv" in head
        assert sent == body
        assert source.closed.is_set()


@pytest.mark.parametrize("version", GET)
@pytest.mark.parametrize("error", [Unavailable(), RuntimeError("a bug")])
async def test_a_content_that_fails_breaks_off(version: bytes, error: Exception) -> None:
    source = Source(error)
    with capture_logs() as logs:
        async with serving(source) as (reader, writer), asyncio.timeout(PATIENCE_S):
            writer.write(GET[version])

            with pytest.raises(ConnectionResetError):
                await reader.read(-1)

            assert source.closed.is_set()
    [line] = [line for line in logs if line["event"] == "answer broken off"]
    assert (line["error"], bool(line["exc_info"])) == (
        type(error).__name__,
        not isinstance(error, Unavailable),
    )


async def test_an_error_before_the_first_chunk_is_raised() -> None:
    class Failing(AbstractAsyncContextManager[Content]):
        async def __aenter__(self) -> Content:
            raise Unavailable

        async def __aexit__(self, *_: object) -> None:
            raise AssertionError("it was never entered")

    async def receive() -> Json:
        await asyncio.Event().wait()

    async def send(_message: Json) -> None:
        raise AssertionError("nothing is sent")

    scope: Json = {}

    with pytest.raises(Unavailable):
        await Download(Failing())(scope, receive, send)


async def test_the_content_is_closed_when_the_client_goes_away() -> None:
    source = Source(endless=True)
    async with serving(source) as (reader, writer), asyncio.timeout(PATIENCE_S):
        writer.write(GET[b"1.1"])
        await reader.readuntil(CHUNKS[1])
        assert not source.closed.is_set()

        writer.transport.abort()

        await source.closed.wait()


@pytest.mark.parametrize("version", GET)
async def test_a_stop_breaks_off_what_it_does_not_wait_for(version: bytes) -> None:
    source = Source(endless=True)
    async with serving(source) as (reader, writer):
        writer.write(GET[version])
        await reader.readuntil(CHUNKS[1])
        reading = asyncio.create_task(reader.read(-1))

    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reading, PATIENCE_S)
    assert source.closed.is_set()
