"""Where requests end, by a second parser: h11 finds the same requests in any bytes, however these arrive."""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segmentd.api.http.edge.connection import ConnectionLimits, LimitedProtocol
from tests.support.wire import Seen, Wire

LIMITS: Final = ConnectionLimits(
    max_header_bytes=4096, receive_seconds=300, send_seconds=300, keep_alive_seconds=300
)
SHORT: Final = settings(max_examples=100, suppress_health_check=[*HealthCheck], database=None)
LONG: Final = settings(SHORT, max_examples=5_000)
EFFORTS: Final = [pytest.param(SHORT, id="short"), pytest.param(LONG, marks=pytest.mark.proof, id="proof")]

LINES: Final = [
    *(
        b"GET /a HTTP/1.1",
        b"POST /a HTTP/1.1",
        b"GET /a HTTP/1.0",
        b"POST /a?b=%41 HTTP/1.1",
        b"HEAD /a HTTP/1.1",
    ),
    *(
        b"OPTIONS * HTTP/1.1",
        b"DELETE //a HTTP/1.1",
        b"GET http://h/a HTTP/1.1",
        b"GET /a HTTP/1.1 ",
        b"GET /a",
    ),
]
HEADERS: Final = [
    *(b"Host: h", b"Host: h", b"Host: h", b"host:h:80", b"Content-Length: 5", b"Content-Length: 0"),
    *(b"content-length: 05", b"Content-Length: 5, 5", b"Content-Length: +5", b"Transfer-Encoding: chunked"),
    *(
        b"transfer-encoding: CHUNKED",
        b"Transfer-Encoding: gzip, chunked",
        b"Connection: close",
        b"X: y",
        b"X:",
    ),
    *(
        b"Connection: keep-alive",
        b"Connection: Upgrade\r\nUpgrade: foo",
        b"Expect: 100-continue",
        b" folded",
        b"X : y",
    ),
]
BODIES: Final = [
    *(
        b"",
        b"",
        b"hello",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nT: v\r\n\r\n",
        b"0\r\n\r\n",
    ),
    *(b"05\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n", b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n"),
]
ENDS: Final = [b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"]


class Found(NamedTuple):
    """The whole requests of a connection, and whether the next bytes were refused."""

    requests: Sequence[tuple[str, str, bytes]]
    refused: bool


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Requests of one connection; some bytes may be others, missing or too many."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        end = draw(st.sampled_from(ENDS))
        head = [draw(st.sampled_from(LINES)), *draw(st.lists(st.sampled_from(HEADERS), max_size=4))]
        parts += [end.join(head), b"\r\n\r\n", draw(st.sampled_from(BODIES))]
    stream = b"".join(parts)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(stream)))
        stream = stream[:at] + draw(st.binary(max_size=2)) + stream[at + draw(st.integers(0, 2)) :]
    return stream


@st.composite
def pieces(draw: st.DrawFn) -> list[bytes]:
    """A stream, split at some places."""
    stream = draw(streams())
    places = sorted({0, len(stream), *draw(st.lists(st.integers(0, len(stream)), max_size=6))})
    return [stream[begin:end] for begin, end in itertools.pairwise(places)]


def by_h11(stream: bytes) -> Found:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=LIMITS.max_header_bytes)
    connection.receive_data(stream)
    found: list[tuple[str, str, bytes]] = []
    try:
        for request, body in _requests(connection):
            found.append((request.method.decode(), path_of(request.target), body))
    except h11.RemoteProtocolError:
        return Found(found, refused=True)
    return Found(found, refused=False)


def path_of(target: bytes) -> str:
    """The path of a request's target, which may be an absolute one."""
    target = target.partition(b"?")[0].partition(b"#")[0]
    if b"://" in target and not target.startswith(b"/"):
        target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
    return unquote_to_bytes(target).decode("utf-8", "replace")


def _requests(connection: h11.Connection) -> Iterator[tuple[h11.Request, bytes]]:
    """Each whole request, which is answered as soon as it is there. Raises RemoteProtocolError."""
    request, body = None, b""
    while True:
        event = connection.next_event()
        match event:
            case h11.Request():
                request, body = event, b""
            case h11.Data():
                body += event.data
            case h11.EndOfMessage():
                assert request is not None
                yield request, body
                connection.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return
                connection.start_next_cycle()
            case _:
                return


async def by_us(received: Sequence[bytes]) -> Found:
    app = Seen()
    answers = await Wire(LimitedProtocol.within(LIMITS), app).say(received)
    requests = [(method, path, body) for method, path, _, body in app.requests]
    return Found(requests, refused=b"HTTP/1.1 4" in answers or b"HTTP/1.1 5" in answers)


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_second_parser_finds_no_other_request_in_any_bytes(effort: settings) -> None:
    with asyncio.Runner() as runner:

        @effort
        @given(pieces())
        def run(received: list[bytes]) -> None:
            ours, theirs = runner.run(by_us(received)), by_h11(b"".join(received))
            assert ours.requests == theirs.requests[: len(ours.requests)], (ours, theirs)
            assert ours.refused or len(ours.requests) == len(theirs.requests), (ours, theirs)

        run()
