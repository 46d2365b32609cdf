"""Plain evaluations are answered in the protocol, with the bytes that the parser's way would give."""

import re
from collections.abc import Sequence
from typing import Final

import pytest
from litestar.types import Receive, Scope, Send

from segmentd.api.http.edge.connection import ConnectionLimits
from segmentd.api.http.hot.protocol import HotProtocol
from tests.api.http.ofrep.conftest import Evaluating, context
from tests.support.wire import Wire

LIMITS: Final = ConnectionLimits(32_768, receive_seconds=300, send_seconds=300, keep_alive_seconds=300)
HOST: Final = b"Host: segmentd:8080\r\n"
KIND: Final = b"Content-Type: application/json\r\nX-Request-Id: one\r\n"
BODY: Final = context("7")


def post(path: bytes = b"", head: bytes = HOST + KIND, body: bytes = BODY) -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST /ofrep/v1/evaluate/flags%b HTTP/1.1\r\n%b%b\r\n%b" % (path, head, length, body)


class Served:
    """A server's end of connections, which counts the requests that come to ASGI."""

    def __init__(self, evaluating: Evaluating) -> None:
        self._evaluating = evaluating
        self.requests = 0
        hot = evaluating.hot
        protocol = HotProtocol.answering_by(hot.calls, ["traceparent"], hot.evaluations).within(LIMITS)

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            self.requests += 1
            await hot(scope, receive, send)

        self._wire = Wire(protocol, counted)

    def say(self, *pieces: bytes) -> bytes:
        self.requests = 0
        self._evaluating.refresh()
        answers = self._evaluating.run(self._wire.say(pieces))
        return re.sub(rb"date: [^\r]*\r\n", b"", answers)


@pytest.fixture(scope="module")
def served(evaluating: Evaluating) -> Served:
    return Served(evaluating)


@pytest.mark.parametrize(
    "request_",
    [
        post(),
        post(b"/PLAIN"),
        post(b"/PLAIN", KIND + HOST),
        post(head=HOST + KIND + b"User-Agent: x\r\nAccept: */*\r\nConnection: Keep-Alive\r\n"),
        post(head=KIND + b"host:\t[::1]:80 \r\n"),
        post(head=HOST + KIND.replace(b"json", b"json; charset=utf-8")),
        post(head=HOST + KIND + b"If-None-Match: *\r\n"),
        post(head=HOST + KIND + b"X-API-Key: any\r\nSec-Fetch-Mode: cors\r\n"),
    ],
    ids=range(1, 9),
)
def test_a_plain_evaluation_is_answered_on_the_spot_as_the_parser_would(
    served: Served, request_: bytes
) -> None:
    on_the_spot = served.say(request_)
    assert served.requests == 0

    by_the_parser = served.say(request_[:-1], request_[-1:])
    assert served.requests == 1

    assert on_the_spot == by_the_parser
    assert on_the_spot.startswith((b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 304 Not Modified\r\n"))


@pytest.mark.parametrize(
    "request_",
    [
        post(b"/NOBODY"),
        post(b"/PLAIN?x=1"),
        post(b"/%50LAIN"),
        post(head=HOST + b"X-Request-Id: one\r\n"),
        post(head=KIND),
        post(head=HOST + HOST + KIND),
        post(head=b"Host: a b\r\n" + KIND),
        post(head=HOST + KIND + KIND),
        post(head=HOST + KIND + b"Content-Length: 34\r\n"),
        post(head=HOST + KIND + b"Transfer-Encoding: chunked\r\n"),
        post(head=HOST + KIND + b"Content-Encoding: identity\r\n"),
        post(head=HOST + KIND + b"Connection: close\r\n"),
        post(head=HOST + KIND + b"Upgrade: h2c\r\n"),
        post(head=HOST + KIND + b"Expect: 100-continue\r\n"),
        post(head=HOST + KIND + b"Origin: http://elsewhere.test\r\n"),
        post(head=HOST + KIND + b"traceparent: 00-1-2-01\r\n"),
        post(head=HOST + KIND + b"X :y\r\n"),
        post().replace(b"HTTP/1.1", b"HTTP/1.0"),
        post(body=b""),
        post(body=b"{}"),
        post(body=b"\\" + BODY),
        post() + b"x",
        post() + post(),
    ],
    ids=range(1, 24),
)
def test_everything_else_is_the_parser_s(served: Served, request_: bytes) -> None:
    at_once = served.say(request_)

    assert at_once == served.say(request_[:30], request_[30:])
    assert served.requests == at_once.count(b"HTTP/1.1 ") - at_once.count(b"HTTP/1.1 100 ") or (
        b"connection: close" in at_once
    )


def test_evaluations_follow_each_other_on_one_connection(served: Served) -> None:
    pieces: Sequence[bytes] = [post(), post(b"/PLAIN"), post(b"/NOBODY")]

    answers = served.say(*pieces)

    assert served.requests == 1
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"200", b"404"]
