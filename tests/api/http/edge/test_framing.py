"""Where requests end: a body is never taken for a request, however the bytes arrive."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Final

import pytest

from segmentd.api.http.edge.connection import ConnectionLimits, LimitedProtocol
from segmentd.api.http.edge.cors import Cors
from segmentd.api.http.edge.framing import is_host
from tests.support.wire import Seen, Wire

LIMITS: Final = ConnectionLimits(
    max_header_bytes=2048, receive_seconds=300, send_seconds=300, keep_alive_seconds=300
)
HIDDEN: Final = b"DELETE /hidden HTTP/1.1\r\nHost: h\r\n\r\n"
NEXT: Final = b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"
LENGTH: Final = b"Content-Length: %d\r\n" % len(HIDDEN)
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
CHUNKS: Final = b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (HIDDEN[:5], len(HIDDEN) - 5, HIDDEN[5:])

# What asks for another protocol, and what only looks so.
OFFERS: Final = [
    b"",
    b"Connection: Upgrade\r\nUpgrade: foo\r\n",
    b"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n",
    b"Connection: upgrade, close\r\nUpgrade: foo\r\n",
    b"Upgrade: foo\r\n",
    b"Connection: Upgrade\r\n",
]
# Headers and body whose end is certain: read as a body, or refused.
CERTAIN: Final = [
    (LENGTH, HIDDEN),
    (CHUNKED, CHUNKS),
    (b"transfer-encoding:CHUNKED \r\n", CHUNKS),
    (CHUNKED, b"1;a=b;c\r\nD\r\n%x\r\n%b\r\n0;x\r\n\r\n" % (len(HIDDEN) - 1, HIDDEN[1:])),
    (CHUNKED, CHUNKS[:-2] + b"Authorization: Bearer x\r\nHost: other\r\nUpgrade: foo\r\n\r\n"),
    (CHUNKED, CHUNKS[:-2] + b"Connection: Upgrade\r\nUpgrade: foo\r\n\r\n"),
    (LENGTH.replace(b": ", b":\t 0"), HIDDEN),
    (LENGTH + b"Expect: 100-continue\r\n", HIDDEN),
]
# Each is refused, at the latest at the end of the body.
REFUSED: Final = [
    (LENGTH + CHUNKED, CHUNKS),
    (CHUNKED + LENGTH, CHUNKS),
    (LENGTH + LENGTH, HIDDEN),
    (LENGTH + b"Content-Length: 1\r\n", HIDDEN),
    (LENGTH.replace(b": ", b": +"), HIDDEN),
    (LENGTH.replace(b": ", b": -"), HIDDEN),
    (LENGTH.replace(b": ", b": 0x"), HIDDEN),
    (LENGTH.replace(b":", b" :"), HIDDEN),
    (b" " + LENGTH, HIDDEN),
    (b"X: y\r\n " + LENGTH, HIDDEN),
    (b"X: y\n" + LENGTH, HIDDEN),
    (b"X: y\r" + LENGTH, HIDDEN),
    (b"X: y\0" + LENGTH, HIDDEN),
    (b"X\0: y\r\n" + LENGTH, HIDDEN),
    (b": y\r\n" + LENGTH, HIDDEN),
    (b"Content-Length: 3 5\r\n", HIDDEN),
    (b"Content-Length: 35, 35\r\n", HIDDEN),
    (b"Content-Length:\r\n", HIDDEN),
    (b"Content-Length: 18446744073709551651\r\n", HIDDEN),
    (b"Content-Length: \xb2\r\n", HIDDEN),
    (b"Transfer-Encoding: chunked, chunked\r\n", CHUNKS),
    (CHUNKED + CHUNKED, CHUNKS),
    (b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS),
    (b"Transfer-Encoding: chunked, gzip\r\n", CHUNKS),
    (b"Transfer-Encoding: gzip\r\n" + CHUNKED, CHUNKS),
    (b"Transfer-Encoding: identity\r\n", CHUNKS),
    (b"Transfer-Encoding: xchunked\r\n", CHUNKS),
    (b'Transfer-Encoding: "chunked"\r\n', CHUNKS),
    (b"Transfer-Encoding: chunked;q=1\r\n", CHUNKS),
    (b"Transfer-Encoding:\r\n", CHUNKS),
    (b"Transfer-Encoding:\x0bchunked\r\n", CHUNKS),
    (b"Transfer-Encoding : chunked\r\n", CHUNKS),
    (b"Transfer-Encoding:\r\n chunked\r\n", CHUNKS),
    (CHUNKED, CHUNKS.replace(b"5\r\n", b"5 \r\n", 1)),
    (CHUNKED, CHUNKS.replace(b"5\r\n", b"0x5\r\n", 1)),
    (CHUNKED, CHUNKS.replace(b"5\r\n", b"+5\r\n", 1)),
    (CHUNKED, CHUNKS.replace(b"5\r\n", b"5\n", 1)),
    (CHUNKED, CHUNKS.replace(b"5\r\n", b"5;a=\nb\r\n", 1)),
    (CHUNKED, CHUNKS.replace(b"5\r\n", b"5\r", 1)),
    (CHUNKED, CHUNKS.replace(b"DELET\r\n", b"DELETx\n", 1)),
    (CHUNKED, CHUNKS.replace(b"DELET\r\n", b"DELETE\r\n", 1)),
    (CHUNKED, b"1" + b"0" * 16 + b"\r\n" + HIDDEN),
    (CHUNKED, CHUNKS[:-2] + LENGTH + b"\r\n"),
    (CHUNKED, CHUNKS[:-2] + CHUNKED + b"\r\n"),
]
# Whole heads; each is a request of its own or refused.
HEADS: Final = [
    b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /a HTTP/1.1\r\nhOsT: h:80\r\n\r\n",
    b"\r\n\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /a HTTP/1.1\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: h, h\r\n\r\n",
    b"GET /a HTTP/1.0\r\n\r\n",
    b"GET /a HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n",
    b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /a HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n",
    b"POST /a HTTP/1.0\r\n" + LENGTH + b"\r\n" + HIDDEN,
    b"POST /a HTTP/1.0\r\n" + CHUNKED + b"\r\n" + CHUNKS,
    b"GET /a\r\n\r\n",
    b"GET /a HTTP/0.9\r\n\r\n",
    b"GET /a HTTP/1.2\r\nHost: h\r\n\r\n",
    b"GET /a HTTP/2.0\r\nHost: h\r\n\r\n",
    b"GET /a http/1.1\r\nHost: h\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"PRI * HTTP/1.1\r\nHost: h\r\n\r\nSM\r\n\r\n",
    b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n" + LENGTH + b"\r\n" + HIDDEN,
    b"CONNECT /a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET http://other:81/a?b HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET http://other/a HTTP/1.0\r\n\r\n",
    b"GET http://user@other/a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET http://other HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET ftp://other/a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET //other/a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /a\xff HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /a\0 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET  /a  HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET\t/a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"get /a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"G\0ET /a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /a HTTP/1.1 \r\nHost: h\r\n\r\n",
    b"GET /a HTTP/1.1\nHost: h\n\n",
    b"GET /a HTTP/1.1\r\nHost: h\r\n\n",
    b"GET /a HTTP/1.1\r\nHost: h\r\nX: y\x01\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: h\r\nX: y\x7f\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: h\r\nX y\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]


def post(offer: bytes, framing: tuple[bytes, bytes]) -> bytes:
    headers, body = framing
    return b"POST /a HTTP/1.1\r\nHost: h\r\n" + offer + headers + b"\r\n" + body


FRAMINGS: Final = [
    *itertools.starmap(post, itertools.product(OFFERS, CERTAIN)),
    *itertools.starmap(post, itertools.product(OFFERS[:3], REFUSED)),
    *(post(offer, framing) + post(OFFERS[2], CERTAIN[1]) for offer in OFFERS for framing in CERTAIN[:2]),
    *(post(offer, (b"", b"")) for offer in OFFERS),
    *HEADS,
]


def ways(stream: bytes, first: int, step: int) -> Iterator[Sequence[bytes]]:
    """The stream whole, in two pieces, and byte by byte."""
    yield [stream]
    for at in range(1 + first % step, len(stream), step):
        yield [stream[:at], stream[at:]]
    yield [stream[at : at + 1] for at in range(len(stream))]


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"^HTTP/1.1 (\d+)", answers, re.MULTILINE)]


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.proof, id="proof")])
@pytest.mark.parametrize("part", range(8))
async def test_however_the_bytes_arrive_the_application_sees_the_same_requests(part: int, step: int) -> None:
    app = Seen()
    wire = Wire(LimitedProtocol.within(LIMITS), app)
    for number, framing in enumerate(FRAMINGS[part::8]):
        expected = None
        for way in ways(framing + NEXT, number, step):
            for apart in (True, False) if len(way) != 2 else (False,):
                app.requests.clear()
                received = statuses(await wire.say(way, apart=apart)), [*app.requests]
                expected = expected or received
                assert received == expected, (framing, way)


async def ask(stream: bytes) -> tuple[list[int], list[tuple[str, str, bytes, bytes]]]:
    app = Seen()
    answers = await Wire(LimitedProtocol.within(LIMITS), app).say([stream])
    return statuses(answers), app.requests


@pytest.mark.parametrize("framing", CERTAIN)
@pytest.mark.parametrize("offer", OFFERS)
async def test_a_body_is_read_as_a_body_whatever_else_the_client_would_like_to_speak(
    offer: bytes, framing: tuple[bytes, bytes]
) -> None:
    answered, [(method, path, headers, body), *others] = await ask(post(offer, framing) + NEXT)

    assert (method, path, body) == ("POST", "/a", HIDDEN)
    assert (b"authorization" in headers, headers.count(b"host: ")) == (False, 1)
    closed = b"close" in offer
    assert [other[:2] for other in others] == ([] if closed else [("GET", "/next")])
    assert [status for status in answered if status != 100] == [200] * (1 if closed else 2)


@pytest.mark.parametrize("framing", REFUSED)
@pytest.mark.parametrize("offer", OFFERS[:3])
async def test_framing_that_leaves_a_doubt_is_refused_and_the_connection_with_it(
    offer: bytes, framing: tuple[bytes, bytes]
) -> None:
    answered, requests = await ask(post(offer, framing) + NEXT)

    assert requests == []
    assert answered in ([400], [501])


@pytest.mark.parametrize("head", HEADS)
async def test_a_head_is_one_request_or_refused(head: bytes) -> None:
    answered, requests = await ask(head + NEXT)

    paths = [path for _, path, _, _ in requests]
    assert [path for path in paths if path != "/next"] in ([], ["/a"], ["*"], ["//other/a"])
    assert 200 in answered or answered == [400]


@pytest.mark.parametrize("size", [1, 2**15, 2**15 + 1, 2**17])
@pytest.mark.parametrize("offer", OFFERS[1:4])
async def test_a_body_of_any_size_stays_a_body(offer: bytes, size: int) -> None:
    body = (HIDDEN * (size // len(HIDDEN) + 1))[:size]
    framing = (b"Content-Length: %d\r\n" % size, body)

    for pieces in ([post(offer, framing) + NEXT], [post(offer, framing), NEXT]):
        app = Seen()
        await Wire(LimitedProtocol.within(LIMITS), app).say(pieces, apart=True)

        assert [(path, received) for _, path, _, received in app.requests] == [("/a", body), ("/next", b"")]


async def test_the_host_of_an_absolute_target_counts() -> None:
    _, [(_, path, headers, _), _] = await ask(b"GET http://other:81/a HTTP/1.1\r\nHost: h\r\n\r\n" + NEXT)

    assert (path, headers) == ("/a", b"host: other:81")


async def test_the_blanks_around_a_value_are_no_part_of_it() -> None:
    _, [(_, _, headers, _)] = await ask(b"GET /a HTTP/1.1\r\nHost:\t h \t\r\nX-A: b c\t\r\nX-D: \t\r\n\r\n")

    assert headers == b"host: h\nx-a: b c\nx-d: "


async def test_a_list_that_stands_in_several_lines_is_one() -> None:
    lines = b"Prefer: respond-async\r\nX: 1\r\nAccept-Encoding: br\r\nPREFER: wait=5\r\nX: 2\r\n"
    _, [(_, _, headers, _)] = await ask(b"GET /a HTTP/1.1\r\nHost: h\r\n" + lines + b"\r\n")

    assert headers.split(b"\n") == [
        *(b"host: h", b"x: 1", b"x: 2", b"prefer: respond-async, wait=5", b"accept-encoding: br")
    ]


@pytest.mark.parametrize(
    "stream",
    [
        b"GET /a HTTP/1.1\r\nHost: h\r\nHost: h\r\nOrigin: https://page.example\r\n\r\n",
        b"GET /a HTTP/1.1\r\nOrigin: https://page.example\r\nX: %b\r\n\r\n" % (b"x" * 4096),
        b"POST /a HTTP/1.1\r\nHost: h\r\nOrigin: https://page.example\r\nContent-Length: -1\r\n\r\n",
        post(b"Origin: https://page.example\r\n", (CHUNKED, b"x\r\n")),
        post(b"", (LENGTH, HIDDEN)) + post(b"Origin: https://page.example\r\n", (CHUNKED, b"x\r\n")),
    ],
    ids=range(5),
)
async def test_a_page_that_may_call_may_read_a_refusal_of_the_protocol(stream: bytes) -> None:
    async def answers(*origins: str) -> bytes:
        wire = Wire(LimitedProtocol.within(LIMITS, cors=Cors(origins)), Seen())
        return (await wire.say([stream])).lower()

    allowed = b"access-control-allow-origin: %b\r\n"
    answered = await answers("https://page.example", "https://other.example")
    assert answered.count(allowed % b"https://page.example") == 1
    assert (allowed % b"*") in await answers("*")
    for others in ((), ("https://other.example",)):
        assert b"access-control" not in await answers(*others)


HOSTS: Final = rb"h a-b_c.example. 127.0.0.1 h:0 h:65535 h: [::1] [::ffff:1.2.3.4]:80".split()
NO_HOSTS: Final = [
    b"",
    b"a b",
    b"x" * 256,
    *rb"a:b a:99999 a:65536 a:-1 a:1:2 user@evil u:p@evil".split(),
    *rb"[ [] [::1 ::1 [1] [::1]x [::1%25eth0] [::1]:b".split(),
    *b'%00 a%2eb a/b a?b a#b a,b a;b " <a> a\\b \xe4'.split(),
]


@pytest.mark.parametrize("host", HOSTS)
async def test_a_host_may_be_a_name_or_an_address_with_a_port_or_without(host: bytes) -> None:
    assert is_host(host)
    assert (await ask(b"GET /a HTTP/1.1\r\nHost: \t%b \r\n\r\n" % host))[0] == [200]


@pytest.mark.parametrize("host", NO_HOSTS)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_what_is_no_host_is_refused(version: bytes, host: bytes) -> None:
    assert not is_host(host)
    assert (await ask(b"GET /a HTTP/%b\r\nHost: %b\r\n\r\n" % (version, host)))[0] == [400]
