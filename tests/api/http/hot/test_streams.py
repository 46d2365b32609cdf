"""Bytes of a connection are answered by the hot path as by the framework, however they are split."""

import asyncio
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Final

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from segmentd.api.http.edge.connection import ConnectionLimits, LimitedProtocol
from segmentd.api.http.edge.request_ids import RequestIds
from segmentd.api.http.hot.calls import HotCalls
from segmentd.api.http.hot.path import HotPath
from segmentd.api.http.hot.protocol import HotProtocol
from segmentd.api.http.ofrep.hot import Evaluations
from segmentd.replica.replica import Replica
from segmentd.replica.status import boot_time
from tests.support.client import Api
from tests.support.door import unread_metrics
from tests.support.postgres import new_database
from tests.support.two_doors import two_doors
from tests.support.wire import Wire

LIMITS: Final = ConnectionLimits(
    max_header_bytes=4096, receive_seconds=300, send_seconds=300, keep_alive_seconds=300
)
SHORT: Final = settings(max_examples=60, suppress_health_check=[*HealthCheck], database=None)
LONG: Final = settings(SHORT, max_examples=2_000)
EFFORTS: Final = [pytest.param(SHORT, id="short"), pytest.param(LONG, marks=pytest.mark.proof, id="proof")]

TARGETS: Final = [
    *(
        b"GET /api/v1/users/1/segments",
        b"GET /api/v1/users/2/segments",
        b"GET /api/v1/users/9223372036854775808/segments",
    ),
    *(
        b"HEAD /api/v1/users/1/segments",
        b"GET /api/v1/users/01/segments",
        b"GET /api/v1/users/1/segments?detail=true",
    ),
    *(
        b"GET /api/v1/users/%31/segments",
        b"DELETE /api/v1/lookup",
        b"POST /api/v1/lookup",
        b"POST /api/v1/lookup",
    ),
    *(
        b"POST /ofrep/v1/evaluate/flags",
        b"POST /ofrep/v1/evaluate/flags/A",
        b"POST /ofrep/v1/evaluate/flags/none",
    ),
]
HEADERS: Final = [
    *(
        b"Host: h",
        b"host: h:80",
        b"Accept: */*",
        b"Accept-Encoding: gzip",
        b"X-Request-Id: one",
        b"Connection: close",
    ),
    *(
        b"Content-Type: application/json",
        b"content-type: application/json; charset=utf-8",
        b"Content-Type: text/csv",
    ),
    *(
        b"Content-Encoding: gzip",
        b"Origin: https://other.example",
        b"Expect: 100-continue",
        b"Authorization: Bearer x",
    ),
    *(b"If-None-Match: *", b"X-On-Behalf-Of: me", b"Authorization: Basic eA==", b"X: \xff", b"X : y"),
]
BODIES: Final = [
    *(
        b'{"user_ids":[1,2,3]}',
        b'{"user_ids":["1"]}',
        b'{"user_ids":[1,1]}',
        b'{"user_ids":[]}',
        b'{"user_ids":[0]}',
    ),
    *(
        b'{"context":{"targetingKey":"1"}}',
        b'{"context":{"targetingKey":"01"}}',
        b'{"context":{}}',
        b"{}",
        b"",
        b"\xff",
    ),
    *(
        b'{"user_ids":[1],"user_ids":[2]}',
        b'{"user_ids":[1.0]}',
        b'{"context":{"targetingKey":"1","targetingKey":"2"}}',
    ),
]
_NAMED: Final = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# What a client acts on. The rest is a date, an age and a name, or the same for all.
_TELLING: Final = re.compile(rb"(?:content-type|content-length|connection|etag|transfer-encoding): [^\r]*")


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    body = draw(st.sampled_from(BODIES))
    headers = [b"Host: h", *draw(st.lists(st.sampled_from(HEADERS), max_size=3))]
    target = draw(st.sampled_from(TARGETS))
    if target.startswith(b"POST"):
        headers += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    else:
        body = b""
    return b"%b HTTP/1.1\r\n%b\r\n\r\n%b" % (target, b"\r\n".join(headers), body)


@st.composite
def pieces(draw: st.DrawFn) -> list[bytes]:
    """Some requests, of which a byte may be another, missing or too many; split at some places."""
    stream = b"".join(draw(st.lists(requests(), min_size=1, max_size=3)))
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(stream)))
        stream = stream[:at] + draw(st.binary(max_size=1)) + stream[at + draw(st.integers(0, 1)) :]
    places = sorted({0, len(stream), *draw(st.lists(st.integers(0, len(stream)), max_size=4))})
    return [stream[begin:end] for begin, end in itertools.pairwise(places)]


Told = tuple[bytes, list[bytes], bytes]
"""A status, what a client acts on, and a body."""


class Ways:
    """The hot path, and the framework without it, behind one connection each."""

    def __init__(self, runner: asyncio.Runner, replica: Replica, hot: Wire, framework: Wire) -> None:
        self._runner = runner
        self._replica = replica
        self._hot = hot
        self._framework = framework

    def answers(self, received: Sequence[bytes]) -> tuple[list[Told], list[Told]]:
        """Of the hot path, and of the framework."""
        self._replica.status.fresh_at = boot_time()
        return self._runner.run(_answered(self._hot, received)), self._runner.run(
            _answered(self._framework, received)
        )


async def _answered(wire: Wire, received: Sequence[bytes]) -> list[Told]:
    protocol, transport, state = wire.connect()
    for piece in received:
        while transport.paused and state.tasks:
            await asyncio.wait(state.tasks, timeout=1)
        if transport.closing:
            break
        protocol.data_received(piece)
    # A request whose body does not end waits for it.
    while state.tasks and not protocol.cycle.more_body:
        await asyncio.wait(state.tasks, timeout=1)
    protocol.connection_lost(None)
    await asyncio.gather(*state.tasks)
    _, *answers = re.split(rb"HTTP/1\.1 (?=[1-5])", _NAMED.sub(b"ID", bytes(transport.written)))
    return [_telling(answer) for answer in answers]


def _telling(answer: bytes) -> Told:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head[:3], sorted(map(bytes.lower, _TELLING.findall(head.lower()))), body


async def _prepare(api: Api) -> None:
    await api.create("A")
    await api.create("HALF", percent=50)
    for user_id in range(1, 4):
        await api.add(user_id, "A")


@pytest.fixture(scope="module")
def ways(
    postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ways]:
    folder = tmp_path_factory.mktemp("node")
    with (
        new_database(postgres_url, template_database) as url,
        two_doors(url, folder, _prepare) as (runner, replica, authenticator, beside, alone),
    ):
        parts = (replica, authenticator, RequestIds(), unread_metrics())
        calls, evaluations = HotCalls(*parts), Evaluations(*parts)
        hot = HotPath(beside, calls, evaluations)
        protocol = HotProtocol.answering_by(calls, evaluations=evaluations).within(LIMITS)
        yield Ways(runner, replica, Wire(protocol, hot), Wire(LimitedProtocol.within(LIMITS), alone))


# Who is going to be refused is not asked for the body first.
EXPECTING: Final = (
    b"POST %b HTTP/1.1\r\nHost: h\r\nOrigin: %b\r\nExpect: 100-continue\r\n"
    b"Content-Type: application/json\r\nContent-Length: 20\r\n\r\n"
)
REFUSED: Final = EXPECTING % (b"/ofrep/v1/evaluate/flags", b"https://other.example") + b'{"user_ids":[1,2,3]}'
LOOKED_UP: Final = (EXPECTING % (b"/api/v1/lookup", b"x")).replace(
    b"Origin: x\r\n", b""
) + b'{"user_ids":[1,2,3]}'


@pytest.mark.parametrize("effort", EFFORTS)
def test_any_bytes_in_any_pieces_are_answered_as_by_the_framework(ways: Ways, effort: settings) -> None:
    answered = 0

    @effort
    @given(pieces())
    @example([REFUSED])
    @example([REFUSED[:-20], REFUSED[-20:]])
    @example([LOOKED_UP])
    def run(received: list[bytes]) -> None:
        nonlocal answered
        by_hot_path, by_framework = ways.answers(received)
        in_one, _ = ways.answers([b"".join(received)])
        assert by_hot_path == by_framework, received
        assert by_hot_path == in_one, received
        assert not any(status == b"500" for status, *_ in by_hot_path)
        answered += len(by_hot_path)

    run()
    assert answered
