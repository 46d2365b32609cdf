"""A plain change in uvicorn's protocol, byte by byte over real connections, against the framework alone."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs

from segmentd.api.http.edge.connection import ConnectionLimits, LimitedProtocol
from segmentd.api.http.edge.in_progress import InProgress
from segmentd.api.http.edge.request_ids import RequestIds
from segmentd.api.http.hot.calls import HotCalls
from segmentd.api.http.hot.direct_changes import DirectChanges, PendingChange, Sending
from segmentd.api.http.hot.posts import PlainPost
from segmentd.api.http.hot.protocol import HotProtocol
from segmentd.auth.authenticator import AccessRules, Authenticator
from segmentd.config import Settings
from segmentd.domain.access import Role
from segmentd.domain.identifiers import UserId
from segmentd.domain.memberships import Changed
from segmentd.observability.metrics import Metrics
from segmentd.replica.follower import Follower
from segmentd.serve.wiring import open_node, service
from segmentd.service import Service
from segmentd.storage.database import Database
from tests.support.accepting import accepting
from tests.support.client import Api
from tests.support.door import OPEN, middleware, open_to_all
from tests.support.tokens import new_token
from tests.support.wire import Wire

LIMITS: Final = ConnectionLimits(
    max_header_bytes=32_768, receive_seconds=20, send_seconds=30, keep_alive_seconds=5
)
PATIENCE_S: Final = 20
BEGIN: Final = "POST /api/v1/users/1000/segments HTTP/1.1\r\nHost: segmentd\r\nX-Request-Id: one\r\n"
ADD_A: Final = b'{"add":["A"]}'


def request(
    body: bytes = ADD_A, *more: str, begin: str = BEGIN, media_type: str = "application/json"
) -> bytes:
    lines = [f"Content-Type: {media_type}", f"Content-Length: {len(body)}", *more]
    return begin.encode() + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


class Counting(DirectChanges):
    """The short way, counting what it took."""

    taken = 0

    def begin(self, post: PlainPost, send: Sending) -> PendingChange | None:
        pending = super().begin(post, send)
        self.taken += pending is not None
        return pending


class Connection:
    """A client's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self) -> bytes:
        """The next answer, without its date."""
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        length = re.search(rb"content-length: (\d+)", head)
        body = await self._reader.readexactly(int(length[1])) if length else b""
        return re.sub(rb"date: [^\r]*\r\n", b"", head) + body

    async def end(self) -> bytes:
        """What comes until the server closes it."""
        return await asyncio.wait_for(self._reader.read(), PATIENCE_S)

    def close(self) -> None:
        self._writer.close()


class Doors:
    """Two servers of one service: with the short way, and the framework alone."""

    def __init__(
        self, changes: Counting, protocol: type[LimitedProtocol], database: Database, ports: tuple[int, int]
    ) -> None:
        self.changes = changes
        self.protocol = protocol
        self.database = database
        self._ports = ports
        self._connections: list[Connection] = []

    async def connect(self, *, alone: bool = False) -> Connection:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._ports[alone])
        self._connections.append(Connection(reader, writer))
        return self._connections[-1]

    async def ask(self, *pieces: bytes, reset: bytes | None = None) -> tuple[bytes, bool]:
        """The one answer of both, each to the same state, and whether the short way gave it."""
        answers: list[bytes] = []
        took = []
        for alone in (False, True):
            connection = await self.connect(alone=alone)
            if reset is not None:
                connection.send(reset)
                await connection.answer()
            taken = self.changes.taken
            for piece in pieces:
                connection.send(piece)
                await asyncio.sleep(0.01)  # so that the server receives them apart; nothing depends on it
            answers.append(await connection.answer())
            took.append(self.changes.taken > taken)
            connection.close()
        assert answers[0] == answers[1]
        return answers[0], took[0]

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


async def opened(
    stack: AsyncExitStack,
    database: Database,
    folder: Path,
    rules: AccessRules = OPEN,
    use_cases: Service | None = None,
    *,
    most_requests: int = 512,
    seconds: float = 70,
) -> Doors:
    settings = Settings(data_dir=str(folder))
    follower = Follower(database, folder / "node")
    await follower.round()
    follower.close()
    node = await stack.enter_async_context(open_node(database, settings, folder / "node"))
    authenticator = Authenticator(database, rules)
    await authenticator.look()
    served = use_cases or service(database, settings, node)
    framework = middleware(served, authenticator)
    parts = (served, authenticator, RequestIds(), InProgress(most_requests, Metrics()), Metrics(), seconds)
    changes = Counting(*parts)
    calls = HotCalls(node.replica, authenticator, RequestIds(), Metrics())
    protocols = [
        HotProtocol.answering_by(calls, ["traceparent"], None, way).within(LIMITS) for way in (changes, None)
    ]
    addresses = [await stack.enter_async_context(accepting(framework, protocol)) for protocol in protocols]
    doors = Doors(changes, protocols[0], database, (addresses[0][1], addresses[1][1]))
    stack.callback(doors.close)
    return doors


@pytest.fixture
async def doors(database: Database, api: Api, tmp_path: Path) -> AsyncIterator[Doors]:
    await api.create("A")
    await api.create("B", percent=100)
    async with AsyncExitStack() as stack:
        yield await opened(stack, database, tmp_path)


async def test_a_plain_change_is_answered_with_the_framework_s_bytes(doors: Doors) -> None:
    reset = request(b'{"remove":["A","B"]}')
    for body, status in {
        ADD_A: 200,
        b'{"add":["A"],"remove":["B"],"reason":"x"}': 200,
        b'{"add":[{"slug":"A","until":"2100-01-01T00:00:00Z"}]}': 200,
        b'{"add":["A","nowhere"]}': 404,
        b'{"add":["A"],"remove":["A"]}': 422,
        b'{"add":[]}': 422,
        b'{"add":[{"slug":"A","until":"2001-01-01T00:00:00Z"}]}': 422,
    }.items():
        answer, short = await doors.ask(request(body), reset=reset)

        assert short, body
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert b"x-request-id: one\r\n" in answer


async def test_every_other_request_is_the_parser_s(doors: Doors) -> None:
    long_body = ADD_A + b" " * 2**16
    for name, pieces in {
        "broken JSON": [request(b"{")],
        "a key twice": [request(b'{"add":["A"],"add":["B"]}')],
        "a query": [request(begin=BEGIN.replace("segments ", "segments?ids=string "))],
        "an id that is too large": [request(begin=BEGIN.replace("1000", "9" * 19))],
        "an unusual header": [request(ADD_A, "traceparent: 00-1-1-01")],
        "another type": [request(media_type="text/plain")],
        "a foreign origin": [request(ADD_A, "Origin: https://evil.example")],
        "on behalf of somebody": [request(ADD_A, "X-On-Behalf-Of: support")],
        "two lengths": [request(ADD_A, f"Content-Length: {len(ADD_A)}")],
        "a body that comes later": [request()[: -len(ADD_A)], ADD_A],
        "a body that comes in two": [request()[:-3], ADD_A[-3:]],
        "chunks": [
            f"{BEGIN}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            + b"%x\r\n%b\r\n0\r\n\r\n" % (len(ADD_A), ADD_A)
        ],
        "the end of the connection": [request(ADD_A, "Connection: close")],
        "a long body": [request(long_body)],
        "another address": [request(begin=BEGIN.replace("/segments", "/history"))],
    }.items():
        _, short = await doors.ask(*pieces, reset=request(b'{"remove":["A"]}'))

        assert not short, name


async def test_what_a_client_sends_meanwhile_is_answered_afterwards_in_order(doors: Doors) -> None:
    read = b"GET /api/v1/users/1000/segments HTTP/1.1\r\nHost: segmentd\r\n\r\n"
    remove = request(b'{"remove":["A","B"]}')
    connection = await doors.connect()
    async with doors.database.transaction() as holding:
        await holding.execute("INSERT INTO users (id, registered_at, last_at) VALUES (1000, now(), now())")
        connection.send(request())
        await asyncio.sleep(0.01)
        connection.send(read + remove[:50])
        await asyncio.sleep(0.01)
        connection.send(remove[50:] + read)
        await asyncio.sleep(0.01)

    answers = [await connection.answer() for _ in range(4)]

    assert doors.changes.taken == 1
    assert [json.loads(answer.partition(b"\r\n\r\n")[2])["segments"] for answer in answers] == [
        ["A", "B"], ["A", "B"], [], [],
    ]  # fmt: skip
    connection.send(request())
    assert b'"added":["A"]' in await connection.answer()
    assert doors.changes.taken == 2


@pytest.mark.parametrize(("role", "status"), [(None, 401), (Role.READER, 403), (Role.EDITOR, 404)])
async def test_who_may_not_change_is_refused_with_the_same_bytes(
    database: Database, tmp_path: Path, role: Role | None, status: int
) -> None:
    secret = await new_token(database, "one", role or Role.READER)
    async with AsyncExitStack() as stack:
        rules = AccessRules(may_be_open=False, bound_seconds=50)
        closed = await opened(stack, database, tmp_path, rules)
        headers = [] if role is None else [f"Authorization: Bearer {secret}"]
        with capture_logs() as lines:
            answer, short = await closed.ask(request(ADD_A, *headers))

    assert short
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert [line["status"] for line in lines if line["event"] == "request"] == [status, status]
    assert lines[0].get("actor") == (None if role is None else "one")


# Changes that do not end


class Endless(Service):
    """A service whose changes never end by themselves."""

    def __init__(self) -> None:
        self.begun: list[asyncio.Future[Changed | Exception]] = []
        self.one = asyncio.Event()

    def begin_change(self, *_: object) -> asyncio.Future[Changed | Exception]:
        self.begun.append(asyncio.get_running_loop().create_future())
        self.one.set()
        return self.begun[-1]

    async def change_memberships(self, *_: object) -> Changed:
        raise ZeroDivisionError("secret")


async def under_way(doors: Doors, service: Endless) -> Connection:
    connection = await doors.connect()
    connection.send(request())
    await asyncio.wait_for(service.one.wait(), PATIENCE_S)
    return connection


async def test_a_client_that_goes_away_takes_its_change_along(database: Database, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        endless = Endless()
        doors = await opened(stack, database, tmp_path, use_cases=endless)
        with capture_logs() as lines:
            (await under_way(doors, endless)).close()
            await asyncio.wait_for(asyncio.wait(endless.begun), PATIENCE_S)

        assert endless.begun[0].cancelled()
        assert [(line["event"], line["status"]) for line in lines] == [("request", 499)]
        assert not doors.changes.in_progress.is_exceeded


async def test_a_change_that_takes_too_long_is_answered_and_not_wanted_any_more(
    database: Database, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        endless = Endless()
        doors = await opened(stack, database, tmp_path, use_cases=endless, seconds=0.05)
        connection = await under_way(doors, endless)

        assert (await connection.answer()).startswith(b"HTTP/1.1 503 ")
        assert endless.begun[0].cancelled()
        connection.send(request())
        assert b"took longer" in await connection.answer()


async def test_a_failure_is_answered_with_the_framework_s_bytes(database: Database, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        endless = Endless()
        doors = await opened(stack, database, tmp_path, use_cases=endless)
        connection, alone = await under_way(doors, endless), await doors.connect(alone=True)
        endless.begun[0].set_result(ZeroDivisionError("secret"))
        alone.send(request())
        answer = await connection.answer()

        assert answer == await alone.answer()
        assert answer.startswith(b"HTTP/1.1 500 ")


async def test_a_stop_answers_the_changes_that_are_under_way_and_ends_their_connections(
    database: Database, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        endless = Endless()
        doors = await opened(stack, database, tmp_path, use_cases=endless)
        connection = await under_way(doors, endless)
        await doors.changes.in_progress.cut_off()

        answer = await connection.answer()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"stopped before" in answer
        assert endless.begun[0].cancelled()


async def test_a_stop_lets_a_change_end_and_closes_its_connection(database: Database, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        endless = Endless()
        doors = await opened(stack, database, tmp_path, use_cases=endless)
        protocol, transport, _ = Wire(
            doors.protocol, middleware(endless, await open_to_all(database))
        ).connect()
        protocol.data_received(request())
        protocol.leave()
        assert not transport.is_closing()

        endless.begun[0].set_result(Changed(UserId(1000), [], [], [], [], []))
        while not transport.is_closing():  # noqa: ASYNC110 - as soon as the loop has run its callbacks
            await asyncio.sleep(0)

    assert b"\r\nconnection: close\r\n" in transport.written
    assert transport.written.endswith(
        b'{"user_id":1000,"segments":[],"added":[],"removed":[],"updated":[],"unchanged":[]}'
    )


async def test_too_many_requests_are_refused_by_the_framework_s_door(
    database: Database, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        endless = Endless()
        doors = await opened(stack, database, tmp_path, use_cases=endless, most_requests=1)
        await under_way(doors, endless)

        other = await doors.connect()
        other.send(request())
        await other.answer()

        assert doors.changes.taken == 1
