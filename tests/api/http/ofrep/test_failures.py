"""Every refusal below /ofrep/, by any part of the service, has OFREP's form and one of its few statuses."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from segmentd.api.http.edge.connection import ConnectionLimits, LimitedProtocol
from segmentd.api.http.edge.cors import Cors
from segmentd.api.http.edge.errors import LARGEST_BODY_BYTES
from segmentd.api.http.edge.middleware import RequestLimits, RequestMiddleware
from segmentd.api.http.edge.request_ids import RequestIds
from segmentd.auth.authenticator import AccessRules, Authenticator
from segmentd.auth.rate_limit import RateLimit
from segmentd.config import Settings
from segmentd.domain.access import Role
from segmentd.domain.identifiers import INT64_MAX
from segmentd.observability.metrics import Metrics
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.api.http.ofrep.conftest import FLAGS, Evaluating, context
from tests.support.asgi import JSON, Headers
from tests.support.client import Api
from tests.support.door import middleware
from tests.support.tokens import bearer, new_token, revoke
from tests.support.wire import Seen, Wire

MISSING: Final = "TARGETING_KEY_MISSING"
INVALID: Final = "INVALID_CONTEXT"
BROKEN: Final = "PARSE_ERROR"

BODIES: Final = {
    b"": MISSING,
    b"{}": MISSING,
    b'{"context":null}': MISSING,
    b'{"context":{}}': MISSING,
    b'{"context":{"targetingKey":null}}': MISSING,
    b'{"context":{"targetingKey":""}}': MISSING,
    b'{"context":{"targeting_key":"1","TargetingKey":"1"}}': MISSING,
    b'{"x":{"context":{"targetingKey":"1"}}}': MISSING,
    b'{"context":{"user":{"targetingKey":"1"}}}': MISSING,
    context("x"): INVALID,
    context("0"): INVALID,
    context("01"): INVALID,
    context("-1"): INVALID,
    context("1.0"): INVALID,
    context(" 1"): INVALID,
    context("1\n"): INVALID,
    context("\u0661"): INVALID,
    context(str(INT64_MAX + 1)): INVALID,
    context("9" * 5000): INVALID,
    context(1): INVALID,
    context(["1"]): INVALID,
    b"{": BROKEN,
    b" ": BROKEN,
    b"null": BROKEN,
    b"[]": BROKEN,
    b'"1"': BROKEN,
    b'{"context":[]}': BROKEN,
    b'{"context":"1"}': BROKEN,
    b'{"context":{"targetingKey":"1"}': BROKEN,
    b'{"context":{"targetingKey":"1"}} x': BROKEN,
    b'{"context":{"targetingKey":"1","targetingKey":"2"}}': BROKEN,
    b'{"context":{"targetingKey":"1","targetingKe\\u0079":"2"}}': BROKEN,
    b'{"context":{"targetingKey":"1"},"context":{"targetingKey":"2"}}': BROKEN,
    b'{"context":{"targetingKey":"1","x":NaN}}': BROKEN,
    b'{"context":{"targetingKey":"1","x":\xff}}': BROKEN,
    context("1").decode().encode("utf-16"): BROKEN,
    b"[" * 100_000: BROKEN,
}


@pytest.mark.parametrize("path", ["", "/PLAIN", "/NOBODY"])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:40]) + f" {len(body)}")
def test_a_body_that_names_no_user_is_refused(evaluating: Evaluating, body: bytes, path: str) -> None:
    answer, _ = evaluating.evaluate(path, body, JSON if body else ())

    failure = json.loads(answer.body)
    assert (answer.status, failure["errorCode"]) == (400, BODIES[body])
    assert failure["errorDetails"]
    assert failure.get("key") == (path[1:] or None)
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"context":{"targetingKey":"1"}}',
        b' {\n"context" :\t{ "targetingKey" : "1" } , "more": [1]} ',
        b'{"context":{"targetingKey":"\\u0031"}}',
        b'{"context":{"targetingKey":"1","half":"\\ud800","exact":0.12345678901234567890}}',
        b'{"context":{"targetingKey":"1","context":{"targetingKey":"2"}}}',
    ],
)
def test_what_else_the_context_says_is_ignored(evaluating: Evaluating, body: bytes) -> None:
    expected, _ = evaluating.evaluate("", context("1"))

    answer, _ = evaluating.evaluate("", body)

    assert answer.body == expected.body


@pytest.mark.parametrize(
    "headers",
    [
        [("content-type", "text/plain")],
        [("content-type", "application/json; charset=latin-1")],
        [("content-type", "application/json"), ("content-type", "application/json")],
        [],
        [*JSON, ("content-encoding", "gzip")],
    ],
)
def test_a_body_of_another_kind_is_refused(evaluating: Evaluating, headers: Headers) -> None:
    answer, own = evaluating.evaluate("/PLAIN", context("1"), headers)

    assert not own
    assert (answer.status, json.loads(answer.body)["errorCode"]) == (400, BROKEN)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "BREW"])
def test_another_method_is_a_bad_request(evaluating: Evaluating, method: str) -> None:
    for path in ("", "/PLAIN"):
        answer, _ = evaluating.evaluate(path, b"", (), method)
        assert answer.status == 400
        if method != "HEAD":
            assert json.loads(answer.body)["errorCode"] == BROKEN


@pytest.mark.parametrize("path", ["/ofrep/", "/ofrep/v1", "/ofrep/v2/evaluate/flags", "/ofrep/v1/x%2Fy"])
async def test_what_is_not_there_is_said_in_the_same_form(api: Api, path: str) -> None:
    answer = await api.post(path, content=context("1"), headers=dict(JSON))

    assert (answer.status_code, answer.json()["errorCode"]) == (404, "GENERAL")


async def test_a_body_that_is_too_large_is_a_bad_request(api: Api) -> None:
    body = context("1", more="x" * LARGEST_BODY_BYTES)

    answer = await api.post(FLAGS, content=body, headers=dict(JSON))

    assert (answer.status_code, answer.json()["errorCode"]) == (400, BROKEN)


# Access


@pytest.fixture
async def closed(database: Database, tmp_path: Path) -> AsyncIterator[tuple[Api, Authenticator]]:
    """A service with access control that allows each caller two requests at once."""
    limit = RateLimit.open(tmp_path / "rates", 0.01, b"key")
    rules = AccessRules(may_be_open=False, bound_seconds=50, rate_limit=limit)
    authenticator = Authenticator(database, rules)
    async with Api(middleware(service(database, Settings(data_dir=str(tmp_path))), authenticator)) as api:
        yield api, authenticator
    limit.close()


async def evaluated(api: Api, headers: Headers | dict[str, str]) -> httpx.Response:
    return await api.post(f"{FLAGS}/A", content=context("1"), headers=[*JSON, *dict(headers).items()])


def failed(answer: httpx.Response, status: int) -> None:
    assert answer.headers["content-type"] == "application/json"
    assert (answer.status_code, answer.json()["errorCode"]) == (status, "GENERAL")
    assert answer.json().keys() == {"key", "errorCode", "errorDetails"}


async def test_a_token_may_come_as_an_api_key(closed: tuple[Api, Authenticator], database: Database) -> None:
    api, authenticator = closed
    secret = await new_token(database, "shop", Role.READER)
    other = await new_token(database, "other", Role.READER)
    await authenticator.look()

    failed(await evaluated(api, {}), 401)
    failed(await evaluated(api, {"X-API-Key": "segmentd_bad"}), 401)
    failed(await evaluated(api, {"X-API-Key": secret, **bearer("segmentd_bad")}), 401)
    assert (await evaluated(api, {"X-API-Key": secret})).status_code == 404  # there is no segment A
    assert (await evaluated(api, {"X-API-Key": "no", **bearer(other)})).status_code == 404
    assert (await api.get("segments", headers={"X-API-Key": secret})).status_code == 401
    await revoke(database, "other")
    await authenticator.look()
    failed(await evaluated(api, {"X-API-Key": other}), 401)


async def test_too_many_requests_are_told_when_to_come_again(
    closed: tuple[Api, Authenticator], database: Database
) -> None:
    api, authenticator = closed
    secret = await new_token(database, "shop", Role.READER)
    await authenticator.look()
    answers = [await evaluated(api, bearer(secret)) for _ in range(3)]

    failed(answers[-1], 429)
    assert answers[-1].headers["Retry-After"].isdecimal()


async def test_without_replica_and_database_it_is_unavailable(api: Api, database: Database) -> None:
    await database.__aexit__(None, None, None)

    answer = await evaluated(api, {})

    failed(answer, 503)
    assert answer.headers["Retry-After"].isdecimal()


async def test_pages_of_other_origins_need_to_be_allowed(api: Api) -> None:
    failed(await evaluated(api, {"Origin": "https://elsewhere.test"}), 403)


async def test_a_process_with_too_much_to_do_says_so() -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    app = RequestMiddleware(never, RequestIds(), RequestLimits(most_requests=0), Metrics(), cors=Cors(["*"]))
    async with Api(app) as api:
        answer = await evaluated(api, {"Origin": "https://elsewhere.test"})

    failed(answer, 503)
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


# The connection

LIMITS: Final = ConnectionLimits(2048, receive_seconds=300, send_seconds=300, keep_alive_seconds=300)


@pytest.mark.parametrize(
    "lines",
    [
        b"Host: h\r\nTransfer-Encoding: gzip\r\n",
        b"Host: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        b"Host: h\r\nBroken\r\n",
        b"X: " + b"x" * 2048 + b"\r\n",
        b"",
    ],
    ids=["coding", "two lengths", "a broken line", "too many bytes", "no host"],
)
async def test_a_broken_head_is_refused_in_the_same_form(lines: bytes) -> None:
    nobody = Seen()
    head = b"POST /ofrep/v1/evaluate/flags/%41?x=1 HTTP/1.1\r\n" + lines + b"\r\n"

    answer = await Wire(LimitedProtocol.within(LIMITS), nobody).say([head])

    assert not nobody.requests
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/json\r\n" in answer
    failure = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (failure["key"], failure["errorCode"]) == ("A", BROKEN)
