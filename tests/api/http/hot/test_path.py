"""The hot path answers as the framework does, byte for byte, or leaves it to the framework."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litestar.types import ASGIApp, Receive, Scope, Send

from segmentd.api.http.edge.errors import LARGEST_BODY_BYTES
from segmentd.api.http.hot.path import HotPath
from segmentd.auth.authenticator import Authenticator
from segmentd.domain.identifiers import INT64_MAX
from segmentd.replica.replica import Replica
from segmentd.replica.status import boot_time
from segmentd.storage.database import Database
from tests.support.asgi import JSON, Answer, Counted, Request, ask
from tests.support.client import Api
from tests.support.door import OPEN, hot_path
from tests.support.postgres import new_database
from tests.support.two_doors import two_doors

USERS: Final = range(1, 30)
MANY: Final = settings(
    max_examples=150,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Doors:
    """The same state behind three doors: the hot path, the framework beside it, and one with no replica."""

    def __init__(
        self, runner: asyncio.Runner, replica: Replica, framework: Counted, plain: ASGIApp, hot: HotPath
    ) -> None:
        self._runner = runner
        self._replica = replica
        self._framework = framework
        self._plain = plain
        self._hot = hot

    def ask(self, request: Request) -> tuple[Answer, bool]:
        """The one answer of all doors, and whether it was the hot path's own."""
        self._replica.status.fresh_at = boot_time()
        self._framework.asked = 0
        request = request._replace(headers=[*request.headers, ("x-request-id", "one")])
        answer = self._runner.run(ask(self._hot, request))
        own = self._framework.asked == 0
        for door in (self._framework, self._plain):
            assert answered(self._runner.run(ask(door, request))) == answered(answer)
        if own:
            assert answer.status == 200
            assert answer.headers.keys() == {"x-request-id", "age", "content-type", "content-length"}
        return answer, own


def answered(answer: Answer) -> tuple[Any, ...]:
    """What must be the same for every way to answer."""
    allowed = sorted(answer.headers.get("allow", "").split(", "))
    return answer.status, answer.headers.get("content-type"), allowed, answer.body


async def prepare(api: Api) -> None:
    for slug in ("PLAIN", "a.b-c_d", "Z"):
        await api.create(slug)
    for slug, percent in {"NONE": 0, "TENTH": 10, "HALF": 50, "ALL": 100}.items():
        await api.create(slug, percent=percent)
    for user_id in (*USERS, INT64_MAX):
        await api.change(
            user_id,
            add=["PLAIN", "a.b-c_d", "NONE"][: 1 + user_id % 3],
            remove=["ALL", "HALF", "Z"][user_id % 3 :],
        )
    await api.add(3, {"slug": "Z", "ttl_seconds": 3600})


@pytest.fixture(scope="module")
def doors(
    postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Doors]:
    folder = tmp_path_factory.mktemp("node")
    with (
        new_database(postgres_url, template_database) as url,
        two_doors(url, folder, prepare) as (runner, replica, authenticator, beside, alone),
    ):
        framework = Counted(beside)
        yield Doors(runner, replica, framework, alone, hot_path(framework, replica, authenticator))


@pytest.mark.parametrize("user_id", [1, 2, 3, 9, 10, 29, 30, 4_000_000_000, 2**62, INT64_MAX - 1, INT64_MAX])
def test_a_plain_read_is_the_hot_path_s_own(doors: Doors, user_id: int) -> None:
    answer, own = doors.ask(Request("GET", f"/api/v1/users/{user_id}/segments"))

    assert own
    assert answer.headers["age"] == "0"
    assert json.loads(answer.body)["user_id"] == user_id


IDS = [
    "",
    "0",
    "-1",
    "+1",
    "01",
    "001",
    "1.0",
    "1e3",
    "0x1",
    "1_000",
    " 1",
    "1 ",
    "1%20",
    "%201",
    "%31",
    "1%32",
    "%2B1",
    "%D9%A1",
    "%E0%A5%A7",
    "%C2%B2",
    "%EF%BC%91",
    "%00",
    "1%00",
    "1%0A",
    "a",
    "%F0%9F%98%80",
    "%FF",
    "1,2",
    "1;2",
    "1%2F2",
    "../1",
    "..",
    ".",
    "1/",
    "/1",
    "//",
    "None",
    "null",
    "true",
    "NaN",
    "inf",
    str(INT64_MAX + 1),
    str(2**64),
    str(2**64 + 1),
    "9" * 18,
    "9" * 19,
    "9" * 20,
    "9" * 5000,
    "0" * 19,
    "0" * 18 + "1",
]


@pytest.mark.parametrize("text", IDS, ids=lambda text: repr(text[:25]) + f" {len(text)}")
def test_every_spelling_of_an_id_is_answered_as_by_the_framework(doors: Doors, text: str) -> None:
    doors.ask(Request("GET", f"/api/v1/users/{text}/segments"))


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/users/1/segments/",
        "/api/v1/users/1/segments//",
        "//api/v1/users/1/segments",
        "/api/v1//users/1/segments",
        "/api/v1/users/1/segments?",
        "/api/v1/users/1/segments?detail=false",
        "/api/v1/users/1/segments?detail=maybe",
        "/api/v1/users/1/segments?at=2020-01-01T00:00:00Z",
        "/api/v1/users/1/segments?at=",
        "/api/v1/users/1/segments?unknown=1",
        "/api/v1/users/1/segments?&&",
        "/api/v1/users/1/SEGMENTS",
        "/api/v1/Users/1/segments",
        "/api/v1/users/1/segments/PLAIN",
        "/api/v1/users/segments",
        "/api/v1/users/1/segments/segments",
        "/api/v1/users//segments",
        "/users/1/segments",
        "/api/v2/users/1/segments",
        "/api/v1/lookup",
        "/api/v1/lookup/",
        "/",
    ],
)
@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "BREW"]
)
def test_every_address_and_method_is_answered_as_by_the_framework(
    doors: Doors, method: str, path: str
) -> None:
    if method == "GET" and "lookup" not in path and "at=2020" in path:
        pytest.skip("the past is the history's, which has its own tests")
    _, own = doors.ask(Request(method, path))

    assert own == ((method, path) == ("GET", "/api/v1/users/1/segments?"))


@pytest.mark.parametrize(
    "headers",
    [
        [("accept", "text/html")],
        [("accept", "application/xml;q=1")],
        [("accept-encoding", "gzip, br")],
        [("content-type", "text/plain")],
        [("content-length", "5")],
        [("range", "bytes=0-3")],
        [("if-none-match", "*")],
        [("x-http-method-override", "DELETE")],
        [("authorization", "Bearer nothing")],
        [("cookie", "a=b")],
    ],
)
def test_headers_that_mean_nothing_here_change_nothing(
    doors: Doors, headers: Sequence[tuple[str, str]]
) -> None:
    doors.ask(Request("GET", "/api/v1/users/1/segments", headers, [b"body!"]))


def lookup(*user_ids: object) -> bytes:
    return json.dumps({"user_ids": user_ids}).encode()


@pytest.mark.parametrize(
    "body",
    [
        lookup(),
        lookup(1),
        lookup(3, 1, 2),
        lookup(1, 1, 1),
        lookup(INT64_MAX, 12345678901),
        lookup(*range(1, 1001)),
        b' {\n"user_ids" :\t[ 1 ,2 ] } ',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_a_plain_lookup_is_the_hot_path_s_own(doors: Doors, body: bytes) -> None:
    answer, own = doors.ask(Request("POST", "/api/v1/lookup", JSON, [body]))

    assert own
    assert answer.status == 200
    asked = json.loads(body)["user_ids"]
    assert [user["user_id"] for user in json.loads(answer.body)["users"]] == asked
    for user in json.loads(answer.body)["users"][:5]:
        one, _ = doors.ask(Request("GET", f"/api/v1/users/{user['user_id']}/segments"))
        assert json.loads(one.body) == user


BODIES = [
    b"",
    b" ",
    b"null",
    b"[]",
    b"[1]",
    b"1",
    b'"user_ids"',
    b"{}",
    b'{"user_ids":null}',
    b'{"user_ids":1}',
    b'{"user_ids":"1"}',
    b'{"user_ids":{}}',
    b'{"user_ids":["1"]}',
    b'{"user_ids":[1.0]}',
    b'{"user_ids":[1.5]}',
    b'{"user_ids":[1e0]}',
    b'{"user_ids":[-0]}',
    b'{"user_ids":[0]}',
    b'{"user_ids":[-1]}',
    b'{"user_ids":[true]}',
    b'{"user_ids":[null]}',
    b'{"user_ids":[[1]]}',
    b'{"user_ids":[01]}',
    b'{"user_ids":[+1]}',
    b'{"user_ids":[1,]}',
    b'{"user_ids":[1]',
    b'{"user_ids":[1]}}',
    b'{"user_ids":[1]} x',
    b'{"user_ids":[1],"x":1}',
    b'{"USER_IDS":[1]}',
    b'{"user_ids":[NaN]}',
    b'{"user_ids":[Infinity]}',
    b"{'user_ids':[1]}",
    b'{"user_ids":[1],"user_ids":[2]}',
    b'{"user_ids":[1],"\\u0075ser_ids":[2]}',
    b'{"user_ids":[1],"\xff":1}',
    b'{"user_ids":[1],"\\ud800":1}',
    b"\x00",
    '{"user_ids":[1]}'.encode("utf-16"),
    b'{"user_ids":[%d]}' % (INT64_MAX + 1),
    b'{"user_ids":[%d]}' % 2**64,
    b'{"user_ids":[1%s]}' % (b"0" * 400),
    b"[" * 100_000,
    b'{"user_ids":' + b"[" * 100_000,
]


@pytest.mark.parametrize(
    "body",
    [
        *(pytest.param(body, id=f"{number} {body[:25]!r}") for number, body in enumerate(BODIES)),
        pytest.param(lookup(*range(1, 1002)), id="too many"),
    ],
)
def test_what_no_lookup_is_is_refused_as_by_the_framework(doors: Doors, body: bytes) -> None:
    answer, own = doors.ask(Request("POST", "/api/v1/lookup", JSON, [body]))

    assert not own
    assert answer.status in {400, 422}


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'\xef\xbb\xbf{"user_ids":[1]}', JSON),
        (b'{"\\u0075ser_ids":[1]}', JSON),
        (lookup(1), [*JSON, ("content-encoding", "identity")]),
        (lookup(1), [*JSON, ("sec-fetch-site", "same-origin")]),
    ],
)
def test_an_unusual_lookup_is_the_framework_s(
    doors: Doors, body: bytes, headers: list[tuple[str, str]]
) -> None:
    answer, own = doors.ask(Request("POST", "/api/v1/lookup", headers, [body]))

    assert not own
    assert (answer.status, json.loads(answer.body)["users"][0]["user_id"]) == (200, 1)


@pytest.mark.parametrize(
    "header", [("origin", "https://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")]
)
def test_a_lookup_of_a_foreign_page_is_refused_as_by_the_framework(
    doors: Doors, header: tuple[str, str]
) -> None:
    answer, own = doors.ask(Request("POST", "/api/v1/lookup", [*JSON, header], [lookup(1)]))

    assert not own
    assert answer.status == 403


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_a_lookup_in_a_coding_is_refused_as_by_the_framework(doors: Doors, coding: str) -> None:
    headers = [*JSON, ("content-encoding", coding)]

    answer, own = doors.ask(Request("POST", "/api/v1/lookup", headers, [lookup(1)]))

    assert not own
    assert answer.status == 415


@pytest.mark.parametrize("padding", [LARGEST_BODY_BYTES - 16, LARGEST_BODY_BYTES - 15, LARGEST_BODY_BYTES])
def test_a_body_that_is_too_large_is_refused_also_where_it_is_sound(doors: Doors, padding: int) -> None:
    body = b'{"user_ids":[1]}' + b" " * padding
    length = [("content-length", str(len(body)))]

    for headers in (JSON, [*JSON, *length]):
        answer, _ = doors.ask(Request("POST", "/api/v1/lookup", headers, [body]))
        assert answer.status == (200 if len(body) <= LARGEST_BODY_BYTES else 413)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("content-type", "")],
        [("content-type", "application/json; charset=utf-8")],
        [("content-type", "application/json;charset=UTF8")],
        [("content-type", "application/json; charset=latin-1")],
        [("content-type", "application/json; charset=utf-16")],
        [("content-type", "Application/JSON")],
        [("content-type", " application/json ")],
        [("content-type", "application/json;")],
        [("content-type", "application/problem+json")],
        [("content-type", "application/x-www-form-urlencoded")],
        [("content-type", "multipart/form-data; boundary=x")],
        [("content-type", "application/msgpack")],
        [("content-type", "text/plain")],
        [("content-type", "json")],
        [("content-type", "application/json"), ("content-type", "text/plain")],
        [("content-type", "text/plain"), ("content-type", "application/json")],
        [("content-type", "application/json"), ("content-type", "application/json")],
        [("content-type", "application/json"), ("accept", "text/html")],
        [("content-type", "application/json"), ("content-encoding", "gzip")],
        [("content-type", "application/json"), ("content-length", "0")],
    ],
    ids=repr,
)
@pytest.mark.parametrize("body", [lookup(1, 2), b"{", b""], ids=["sound", "broken", "empty"])
def test_every_media_type_is_taken_as_by_the_framework(
    doors: Doors, headers: Sequence[tuple[str, str]], body: bytes
) -> None:
    doors.ask(Request("POST", "/api/v1/lookup", headers, [body]))


@pytest.mark.parametrize(
    "body",
    [
        [lookup(1, 2), b""],
        [b"", lookup(1, 2)],
        [b'{"user_ids":', b"[1,", b"2]}"],
        [b'{"user_ids":[1', b"1]}"],
        [lookup(1), lookup(2)],
        [bytes([byte]) for byte in lookup(1, 2)],
        [b'{"user_ids":[1]}', b" " * LARGEST_BODY_BYTES],
    ],
    ids=["and nothing", "nothing and", "in three", "within a number", "two", "byte by byte", "too large"],
)
def test_a_body_that_comes_in_several_messages_is_taken_as_by_the_framework(
    doors: Doors, body: Sequence[bytes]
) -> None:
    _, own = doors.ask(Request("POST", "/api/v1/lookup", JSON, body))

    assert not own


@pytest.mark.parametrize("path", ["/api/v1/lookup?", "/api/v1/lookup?x=1", "/api/v1/lookup/"])
def test_a_lookup_at_another_spelling_of_the_address_is_answered_as_by_the_framework(
    doors: Doors, path: str
) -> None:
    doors.ask(Request("POST", path, JSON, [lookup(1)]))


segment_of_path = st.text(st.characters(codec="utf-8", exclude_characters="/?#"), max_size=25)


@MANY
@given(st.one_of(st.integers(-(2**65), 2**65).map(str), st.integers(1, INT64_MAX).map(str), segment_of_path))
def test_any_id_is_answered_as_by_the_framework(doors: Doors, text: str) -> None:
    escaped = "".join(f"%{byte:02X}" for byte in text.encode()) if not text.isascii() or "%" in text else text

    doors.ask(Request("GET", f"/api/v1/users/{escaped}/segments"))


identifiers = st.one_of(
    st.integers(1, 40), st.integers(1, INT64_MAX), st.integers(), st.floats(), st.text(max_size=3)
)
lookups = st.one_of(
    st.builds(lambda ids: {"user_ids": ids}, st.lists(st.integers(1, INT64_MAX), max_size=50)),
    st.builds(lambda ids: {"user_ids": ids}, st.lists(identifiers, max_size=5)),
    st.dictionaries(
        st.sampled_from(["user_ids", "user_id", ""]), st.lists(identifiers, max_size=3), max_size=2
    ),
).map(lambda body: json.dumps(body).encode())


@MANY
@given(st.one_of(lookups, st.binary(max_size=40)), st.data())
def test_any_lookup_is_answered_as_by_the_framework(doors: Doors, body: bytes, data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        begin = data.draw(st.integers(0, len(body)))
        body = body[:begin] + data.draw(st.binary(max_size=2)) + body[begin + data.draw(st.integers(0, 2)) :]

    doors.ask(Request("POST", "/api/v1/lookup", JSON, [body]))


async def test_what_is_no_request_is_left_to_the_framework(tmp_path: Path, database: Database) -> None:
    seen: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_: object) -> Any:  # noqa: ANN401 - nobody calls it
        raise AssertionError

    with closing(Replica(tmp_path, 50)) as replica:
        for kind in ("lifespan", "websocket"):
            scope: Any = {"type": kind, "path": "/api/v1/users/1/segments", "query_string": b""}
            await hot_path(app, replica, Authenticator(database, OPEN))(scope, nothing, nothing)
    assert seen == ["lifespan", "websocket"]


async def test_a_client_that_leaves_before_its_body_came_is_left_to_the_framework(
    tmp_path: Path, database: Database
) -> None:
    received: list[Any] = []

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        received.extend([await receive(), await receive()])

    messages: list[Any] = [{"type": "http.disconnect"}, {"type": "http.disconnect"}]

    async def receive() -> Any:  # noqa: ANN401 - ASGI's own type is a union of many
        return messages.pop(0)

    async def send(_: object) -> None:
        raise AssertionError

    with closing(Replica(tmp_path, 50)) as replica:
        scope: Any = {
            "type": "http", "method": "POST", "path": "/api/v1/lookup", "raw_path": b"/api/v1/lookup",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }  # fmt: skip
        await hot_path(app, replica, Authenticator(database, OPEN))(scope, receive, send)
    assert received == [{"type": "http.disconnect"}] * 2
