"""A plain change is answered as the framework does, byte for byte, or left to the framework."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litestar.types import Receive, Scope, Send

from segmentd.api.http.edge.errors import LARGEST_BODY_BYTES
from segmentd.api.http.hot.changes import HotChanges
from segmentd.auth.authenticator import AccessRules, Authenticator
from segmentd.auth.rate_limit import RateLimit
from segmentd.config import Settings
from segmentd.domain.access import Role
from segmentd.domain.errors import Unavailable
from segmentd.domain.identifiers import INT64_MAX
from segmentd.domain.memberships import MOST_SLUGS, Changed
from segmentd.serve.wiring import service
from segmentd.service import Service
from segmentd.storage.database import Database
from tests.support.asgi import JSON, Answer, Counted, Headers, Request, ask
from tests.support.client import Api, Json
from tests.support.door import OPEN, behind_middleware, framework, open_to_all
from tests.support.postgres import new_database
from tests.support.tokens import new_token

PATH: Final = "/api/v1/users/1000/segments"
ONE: Final = ("x-request-id", "one")
MANY: Final = settings(
    max_examples=150,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Pair:
    """The same service twice, each with a database of its own: with hot changes, and the framework alone."""

    def __init__(self, hot: Service, alone: Service, authenticator: Authenticator) -> None:
        self.behind = Counted(framework(hot, authenticator))
        self._hot = behind_middleware(HotChanges(self.behind, hot, authenticator))
        self._alone = behind_middleware(framework(alone, authenticator))

    async def ask(self, request: Request) -> tuple[Answer, bool]:
        """The one answer of both, and whether it came without the framework."""
        self.behind.asked = 0
        request = request._replace(headers=[*request.headers, ONE])
        answer, alone = await ask(self._hot, request), await ask(self._alone, request)
        assert answer == alone
        return answer, self.behind.asked == 0

    async def change(self, body: Json) -> tuple[Answer, bool]:
        """A change of the user 1000."""
        return await self.ask(Request("POST", PATH, JSON, [json.dumps(body).encode()]))


def close(runner: asyncio.Runner, database: Database) -> None:
    runner.run(database.__aexit__(None, None, None))


class Doors(NamedTuple):
    pair: Pair
    runner: asyncio.Runner

    def ask(self, request: Request) -> tuple[Answer, bool]:
        return self.runner.run(self.pair.ask(request))

    def change(self, body: Json) -> tuple[Answer, bool]:
        return self.runner.run(self.pair.change(body))


@pytest.fixture(scope="module")
def doors(
    postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Doors]:
    chosen = Settings(data_dir=str(tmp_path_factory.mktemp("node")))
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        urls = [stack.enter_context(new_database(postgres_url, template_database)) for _ in "12"]
        databases = [Database(url) for url in urls]
        for database in databases:
            runner.run(database.__aenter__())
            stack.callback(close, runner, database)
            authenticator = runner.run(open_to_all(database))
            alone = Api(behind_middleware(framework(service(database, chosen), authenticator)))
            for slug, percent in {"A": None, "B": None, "null": None, "NONE": 0, "ALL": 100}.items():
                runner.run(alone.create(slug, percent=percent, salt="1"))
        hot, plain = [service(each, chosen) for each in databases]
        yield Doors(Pair(hot, plain, authenticator), runner)


@pytest.mark.parametrize(
    "body",
    [
        {"add": ["A"]},
        {"add": ["A", "null"], "remove": ["ALL"]},
        {"remove": ["B", "NONE"], "reason": 'ticket: 4711, "said" he'},
        {"remove": ["A"], "reason": "тикет: 1"},
        {"add": ["ALL"], "remove": [], "reason": None},
        {"add": [{"slug": "A", "until": "2100-01-01T00:00:00Z"}, "B"]},
        {"add": [{"slug": "A", "until": "2100-01-01T03:00:00+03:00"}, {"slug": "B", "until": None}]},
    ],
    ids=repr,
)
def test_a_plain_change_is_answered_without_the_framework(doors: Doors, body: Json) -> None:
    answer, own = doors.change(body)

    assert own
    assert answer.status == 200
    assert json.loads(answer.body).keys() == {
        "user_id", "segments", "added", "removed", "updated", "unchanged",
    }  # fmt: skip
    assert answer.headers.keys() == {"x-request-id", "content-type", "content-length"}


@pytest.mark.parametrize("user_id", [1, 4_000_000_000, INT64_MAX])
def test_every_id_is_in_the_answer_as_it_was_asked(doors: Doors, user_id: int) -> None:
    answer, own = doors.ask(Request("POST", f"/api/v1/users/{user_id}/segments", JSON, [b'{"add":["A"]}']))

    assert own
    assert json.loads(answer.body)["user_id"] == user_id


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"add": ["UNKNOWN", "A"], "remove": ["OTHER"]}, 404),
        ({"add": ["a"]}, 404),
        ({"add": ["A", "A"]}, 422),
        ({"add": ["A"], "remove": ["A"]}, 422),
        ({"add": []}, 422),
        ({}, 422),
        ({"add": [{"slug": "A", "until": "2100-01-01T00:00:00Z", "ttl_seconds": 1}]}, 422),
        ({"add": [{"slug": "A", "until": "2001-01-01T00:00:00Z"}, "B"]}, 422),
        ({"add": [f"S{number}" for number in range(600)], "remove": [f"T{n}" for n in range(600)]}, 422),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_change_that_is_refused_is_refused_without_the_framework(
    doors: Doors, body: Json, status: int
) -> None:
    before, _ = doors.change({"remove": ["B"]})

    answer, own = doors.change(body)

    assert own
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert (
        json.loads(doors.change({"remove": ["B"]})[0].body)["segments"] == json.loads(before.body)["segments"]
    )


UNREADABLE: Final = [
    b"",
    b"null",
    b"[]",
    b'"add"',
    b'{"add":"A"}',
    b'{"add":[1]}',
    b'{"add":[null]}',
    b'{"add":["-A"]}',
    b'{"add":["A\\n"]}',
    b'{"add":["A"],"x":1}',
    b'{"add":["A"]',
    b'{"add":["A"]} x',
    b'{"add":["A",]}',
    b'{"add":["A"],"reason":1}',
    b'{"add":["A"],"reason":"\x00"}',
    b'{"add":["A"],"reason":"\\u0000"}',
    b'{"add":["A"],"reason":"\\ud800"}',
    b'{"add":["A"],"reason":"\xff"}',
    b'{"add":[{"slug":"A","ttl_seconds":0}]}',
    b'{"add":[{"slug":"A","ttl_seconds":1.0}]}',
    b'{"add":[{"slug":"A","ttl_seconds":"60"}]}',
    b'{"add":[{"slug":"A","until":"2100-01-01T00:00:00"}]}',
    b'{"add":[{"slug":"A","until":"9999-12-31T23:59:59-12:00"}]}',
    b'{"add":[{"until":"2100-01-01T00:00:00Z"}]}',
    # A key twice, of which msgspec takes the last one.
    b'{"add":["A"],"add":["B"]}',
    b'{"add":["A"],"\\u0061dd":["B"]}',
    b'{"add":["A"],"add":[]}',
    b'{"add":[],"add":["A"]}',
    b'{"add":["A"],"reason":"x:y","reason":"z"}',
    b'{"add":["A"],"reason":"z","reason":"x:y"}',
    b'{"add":["A"],"reason":"\\u003a","add":["A"]}',
    b'{"reason":"a","reason":null,"add":["A"]}',
    b'{"reason":null,"reason":"a:","add":["A"]}',
    b'{"add":[{"slug":"A","slug":"B"}]}',
    b'{"add":[{"slug":"A","ttl_seconds":60,"ttl_seconds":60}]}',
    b'{"add":[{"slug":"A","until":null,"until":null}]}',
]


@pytest.mark.parametrize("body", UNREADABLE, ids=lambda body: repr(body[:50]))
def test_a_body_that_is_no_change_is_the_framework_s_and_changes_nothing(doors: Doors, body: bytes) -> None:
    before, _ = doors.change({"remove": ["B"]})

    answer, own = doors.ask(Request("POST", PATH, JSON, [body]))

    assert not own
    assert answer.status in {400, 422}
    assert (
        json.loads(doors.change({"remove": ["B"]})[0].body)["segments"] == json.loads(before.body)["segments"]
    )


ADD: Final = b'{"add":["A"]}'


def changing(path: str = PATH, *headers: tuple[str, str], body: Sequence[bytes] = (ADD,)) -> Request:
    return Request("POST", path, [*JSON, *headers], body)


UNUSUAL: Final = {
    "a query": changing(f"{PATH}?ids=string"),
    "a slash at the end": changing(f"{PATH}/"),
    "an escape": changing(PATH.replace("1000", "%31000")),
    **{f"the id {text}": changing(PATH.replace("1000", text)) for text in ("0", "-1", "01", "1.0", "x")},
    "an id that is too large": changing(PATH.replace("1000", str(INT64_MAX + 1))),
    "another method": changing()._replace(method="PUT"),
    "no type": changing()._replace(headers=[]),
    "a type with a parameter": changing()._replace(
        headers=[("content-type", f"{JSON[0][1]}; charset=utf-8")]
    ),
    "another type": changing()._replace(headers=[("content-type", "text/plain")]),
    "two types": changing(PATH, *JSON),
    "a coding": changing(PATH, ("content-encoding", "gzip")),
    "no coding, said so": changing(PATH, ("content-encoding", "identity")),
    "a foreign origin": changing(PATH, ("origin", "https://evil.example")),
    "a foreign site": changing(PATH, ("sec-fetch-site", "cross-site")),
    "the own site": changing(PATH, ("sec-fetch-site", "same-origin")),
    "on behalf of somebody": changing(PATH, ("x-on-behalf-of", "support")),
    "on behalf of nobody": changing(PATH, ("x-on-behalf-of", "")),
    "an expectation": changing(PATH, ("expect", "100-continue")),
    "a byte order mark": changing(body=[b"\xef\xbb\xbf" + ADD]),
    "two messages, one empty": changing(body=[ADD, b""]),
    "two messages": changing(body=[ADD[:5], ADD[5:]]),
    "a long body": changing(body=[ADD + b" " * 2**16]),
    "a body that is too long": changing(body=[ADD + b" " * LARGEST_BODY_BYTES]),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_request_is_the_framework_s(doors: Doors, name: str) -> None:
    _, own = doors.ask(UNUSUAL[name])

    assert not own


def test_a_thousand_slugs_are_plain(doors: Doors) -> None:
    answer, own = doors.change({"add": [f"UNKNOWN_SEGMENT_{number}" for number in range(MOST_SLUGS)]})

    assert own
    assert len(json.loads(answer.body)["segments"]) == MOST_SLUGS


@pytest.mark.parametrize("header", [("accept-encoding", "gzip"), ("accept", "text/html"), ("cookie", "a=b")])
def test_headers_that_mean_nothing_here_change_nothing(doors: Doors, header: tuple[str, str]) -> None:
    for body in (ADD, b'{"add":["%b"]}' % b'","'.join(b"UNKNOWN_%d" % number for number in range(200))):
        answer, own = doors.ask(Request("POST", PATH, [*JSON, header], [body]))
        assert own
        assert "content-encoding" not in answer.headers


slugs = st.sampled_from(["A", "B", "NONE", "ALL", "null", "a", "-", "", "A"])
terms = st.fixed_dictionaries(
    {"slug": slugs},
    optional={"until": st.sampled_from([None, "2100-01-01T00:00:00Z", "x"]), "ttl_seconds": st.none()},
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "add": st.lists(st.one_of(slugs, slugs, terms), max_size=3, unique_by=repr),
        "remove": st.lists(slugs, max_size=2, unique=True),
        "reason": st.one_of(st.none(), st.text(st.sampled_from('a":,{}\\ы'), max_size=4)),
        "x": st.none(),
    },
)


@MANY
@given(changes, st.data())
def test_any_change_is_answered_as_by_the_framework(doors: Doors, change: Json, data: st.DataObject) -> None:
    body = json.dumps(change, ensure_ascii=data.draw(st.booleans())).encode()
    if data.draw(st.booleans()):
        begin = data.draw(st.integers(0, len(body)))
        inserted = data.draw(st.one_of(st.binary(max_size=2), st.sampled_from([b'"add":["B"],', b":", b'"'])))
        body = body[:begin] + inserted + body[begin + data.draw(st.integers(0, 2)) :]

    doors.ask(Request("POST", PATH, JSON, [body]))


# Who may


@pytest.fixture
def pair(database: Database, tmp_path: Path) -> Callable[[AccessRules], tuple[Pair, Authenticator]]:
    """Both on one database, for requests that change nothing."""

    def under(rules: AccessRules) -> tuple[Pair, Authenticator]:
        authenticator, use_cases = (
            Authenticator(database, rules),
            service(database, Settings(data_dir=str(tmp_path))),
        )
        return Pair(use_cases, use_cases, authenticator), authenticator

    return under


CLOSED: Final = AccessRules(may_be_open=False, bound_seconds=50)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 401),
        ([("authorization", "Bearer bad")], 401),
        ([("authorization", "Basic eDp5")], 401),
        ([("authorization", "Bearer a"), ("authorization", "Bearer b")], 401),
        (Role.READER, 403),
        (Role.EDITOR, 404),
        (Role.ADMIN, 404),
    ],
    ids=repr,
)
async def test_who_may_not_change_is_refused_with_the_same_bytes(
    database: Database,
    pair: Callable[[AccessRules], tuple[Pair, Authenticator]],
    headers: Headers | Role,
    status: int,
) -> None:
    these, authenticator = pair(CLOSED)
    secret = await new_token(database, "one", headers if isinstance(headers, Role) else Role.EDITOR)
    await authenticator.look()
    if isinstance(headers, Role):
        headers = [("authorization", f"Bearer {secret}")]

    answer, own = await these.ask(Request("POST", PATH, [*JSON, *headers], [ADD]))

    assert answer.status == status
    assert own == (len(headers) < 2)


class Counting(RateLimit):
    """Counts the requests, and refuses those after so many."""

    def __init__(self, most: int) -> None:
        self.left = most

    def take(self, _: str) -> float:
        self.left -= 1
        return 0.0 if self.left >= 0 else 7.0


async def test_a_request_counts_once_against_the_rate_also_where_the_framework_answers_it(
    pair: Callable[[AccessRules], tuple[Pair, Authenticator]],
) -> None:
    these, authenticator = pair(OPEN._replace(rate_limit=Counting(4)))
    await authenticator.look()

    answers = [await these.ask(Request("POST", PATH, JSON, [body])) for body in (b"{", ADD, ADD)]

    assert [(answer.status, own) for answer, own in answers] == [(400, False), (404, True), (429, True)]
    assert answers[2][0].headers["retry-after"] == "7"


# What goes wrong


class Failing(Service):
    """A service whose every change fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def change_memberships(self, *_: object) -> Changed:
        raise self._error


@pytest.mark.parametrize(
    ("error", "status"), [(Unavailable("It is away."), 503), (ZeroDivisionError("secret"), 500)]
)
async def test_a_failure_is_answered_with_the_same_bytes(
    database: Database, error: Exception, status: int
) -> None:
    these = Pair(Failing(error), Failing(error), await open_to_all(database))

    answer, own = await these.change({"add": ["A"]})

    assert own
    assert answer.status == status
    assert ("retry-after" in answer.headers) == (status == 503)
    assert b"secret" not in answer.body


async def test_a_client_that_leaves_before_its_body_came_is_left_to_the_framework(database: Database) -> None:
    received: list[Any] = []

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        received.extend([await receive(), await receive()])

    messages: list[Any] = [{"type": "http.disconnect"}, {"type": "http.disconnect"}]

    async def receive() -> Any:  # noqa: ANN401 - ASGI's own type is a union of many
        return messages.pop(0)

    async def send(_: object) -> None:
        raise AssertionError

    changes = HotChanges(app, Failing(AssertionError()), await open_to_all(database))
    scope: Any = {
        "type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": b"",
        "headers": [(b"content-type", b"application/json")], "state": {},
    }  # fmt: skip
    await changes(scope, receive, send)
    assert received == [{"type": "http.disconnect"}] * 2
