"""What every request goes through: an id, a line in the log, limits, headers, and CORS where it is wanted."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
import structlog
from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send
from structlog.testing import capture_logs

from segmentd.api.http.app import create_app
from segmentd.api.http.edge.cors import Cors
from segmentd.api.http.edge.middleware import RequestLimits, RequestMiddleware
from segmentd.api.http.edge.request_ids import RequestIds
from segmentd.auth.authenticator import AccessRules, Authenticator
from segmentd.config import Settings, load
from segmentd.domain.access import Role
from segmentd.observability.metrics import Metrics
from segmentd.replica.follower import Follower
from segmentd.serve.http_door import http_door
from segmentd.serve.wiring import open_node, service
from segmentd.storage.database import Database
from tests.support.asgi import Answer, Request, ask
from tests.support.client import Api
from tests.support.door import open_door, open_to_all
from tests.support.office import problem, until
from tests.support.rows import Rows, rows_of
from tests.support.tokens import bearer, new_token

Log = list[MutableMapping[str, Any]]

UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
ORIGIN: Final = "https://console.example"
# Every write takes this lock, shared (catalog_lock).
WRITERS_LOCK: Final = 7236837901


@pytest.fixture
def log() -> Iterator[Log]:
    """The lines that were logged, with what is bound to the request."""
    with capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        yield lines


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    with rows_of(database_url) as rows:
        yield rows


def requests(log: Log) -> Log:
    return [line for line in log if line["event"] == "request"]


# Request ids


@pytest.mark.parametrize("given", ["a", "9", "A.b_c:d-9", "0" * 128, "1b4e28ba-2fa1-11d2-883f-0016d3cca427"])
async def test_a_caller_s_own_request_id_is_taken(api: Api, log: Log, given: str) -> None:
    for path in ("segments", "segments/NOWHERE", "/nowhere"):
        answer = await api.get(path, headers={"X-Request-Id": given})

        assert answer.headers.get_list("X-Request-Id") == [given]
        assert answer.json().get("request_id") == (None if path == "segments" else given)
    assert [line["request_id"] for line in requests(log)] == [given] * 3


@pytest.mark.parametrize(
    "given", ["", "-a", ".a", "a b", "a/b", "a\tb", "0" * 129, "a\x7f", "é", "a;b", "${jndi}", "a,b"]
)
async def test_an_id_that_is_not_well_formed_is_replaced(api: Api, log: Log, given: str) -> None:
    answer = await api.get("segments/NOWHERE", headers=[(b"X-Request-Id", given.encode())])

    made = answer.json()["request_id"]
    assert UUID.fullmatch(made)
    assert answer.headers.get_list("X-Request-Id") == [made]
    assert [line["request_id"] for line in requests(log)] == [made]


async def test_each_request_has_another_id(api: Api) -> None:
    ids = [answer.headers["X-Request-Id"] for answer in [await api.get("/livez") for _ in range(50)]]
    ids += [RequestIds().id().decode() for _ in range(50)]

    assert len({*ids}) == 100
    assert all(UUID.fullmatch(made) for made in ids)


# The line in the log


async def test_a_request_is_logged_with_who_and_what_and_never_the_query_or_the_token(
    database: Database, tmp_path: Path, log: Log
) -> None:
    authenticator = Authenticator(database, AccessRules(may_be_open=False, bound_seconds=50))
    secret = await new_token(database, "importer", Role.READER)
    await authenticator.look()
    app = create_app(service(database, Settings(data_dir=str(tmp_path))), authenticator)
    middleware = RequestMiddleware(app, RequestIds(), RequestLimits(), Metrics())
    path = "/api/v1/reports/11111111-1111-4111-8111-111111111111/file"
    async with Api(middleware) as api:
        await api.get("segments?limit=7", headers=bearer(secret) | {"X-Request-Id": "one"})
        await api.post("segments", json={"slug": "A"}, headers=bearer(secret))
        await api.get("users", headers=bearer("segmentd_bad"))
        await api.get(f"{path}?signature=c2VjcmV0")

    usual = {"event": "request", "actor": "importer"}
    shown = [
        {name: value for name, value in line.items() if name not in {"milliseconds", "request_id"}}
        for line in requests(log)
    ]
    assert shown == [
        {**usual, "method": "GET", "path": "/api/v1/segments", "status": 200, "log_level": "debug"},
        {**usual, "method": "POST", "path": "/api/v1/segments", "status": 403, "log_level": "info"},
        {"event": "request", "method": "GET", "path": "/api/v1/users", "status": 401, "log_level": "debug"},
        {"event": "request", "method": "GET", "path": path, "status": 404, "log_level": "debug"},
    ]
    assert requests(log)[0]["request_id"] == "one"
    assert all(line["milliseconds"] >= 0 for line in requests(log))
    for hidden in (secret, "segmentd_bad", "limit", "c2VjcmV0", "Bearer"):
        assert hidden not in str(log)


# Limits


class Held:
    """An application whose answers wait until the test lets them go; some addresses answer at once."""

    def __init__(self) -> None:
        self.arrived = asyncio.Semaphore(0)
        self.gate = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == ScopeType.HTTP
        del receive
        if scope["path"] == "/held":
            self.arrived.release()
            await self.gate.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def assert_overloaded(answer: Answer) -> None:
    assert answer.status == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert b'"type":"/problems/overloaded"' in answer.body
    assert b'"request_id":"one"' in answer.body
    assert answer.headers["x-request-id"] == "one"
    assert answer.headers["retry-after"].isdecimal()
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["cache-control"] == "no-store"


def held(path: str = "/held") -> Request:
    return Request("GET", path, [("x-request-id", "one")])


async def test_more_requests_than_a_process_works_on_are_refused_and_its_health_is_still_shown(
    log: Log,
) -> None:
    app = Held()
    middleware = RequestMiddleware(app, RequestIds(), RequestLimits(most_requests=3), Metrics())
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(ask(middleware, held())) for _ in range(3)]
        for _ in running:
            await app.arrived.acquire()

        assert_overloaded(await ask(middleware, held()))
        assert_overloaded(await ask(middleware, held("/api/v1/segments")))
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await ask(middleware, held(path))).status == 204
        app.gate.set()

    assert [task.result().status for task in running] == [204] * 3
    assert (await ask(middleware, held("/api/v1/segments"))).status == 204
    assert [line["log_level"] for line in requests(log) if line["status"] == 503] == ["warning"] * 2


async def test_a_request_that_takes_too_long_is_503() -> None:
    app = Held()
    middleware = RequestMiddleware(app, RequestIds(), RequestLimits(seconds=0.01), Metrics())

    assert_overloaded(await ask(middleware, held()))
    assert (await ask(middleware, held("/livez"))).status == 204


async def test_an_answer_that_has_begun_may_take_as_long_as_it_likes() -> None:
    gate = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": []})
        asyncio.get_running_loop().call_later(0.05, gate.set)
        await gate.wait()
        await send({"type": "http.response.body", "body": b"whole", "more_body": False})

    middleware = RequestMiddleware(slow, RequestIds(), RequestLimits(seconds=0.01), Metrics())

    assert (await ask(middleware, held())).body == b"whole"


async def test_a_write_that_takes_too_long_is_undone_and_the_next_one_works(
    database: Database, tmp_path: Path, rows: Rows
) -> None:
    app = create_app(service(database, Settings(data_dir=str(tmp_path))), await open_to_all(database))
    patient = RequestMiddleware(app, RequestIds(), RequestLimits(), Metrics())
    hasty = RequestMiddleware(app, RequestIds(), RequestLimits(seconds=0.2), Metrics())
    async with Api(patient) as api, Api(hasty) as hurried:
        await api.create("A")
        rows("SELECT pg_advisory_lock(%s)", WRITERS_LOCK)

        for answer in await asyncio.gather(
            hurried.post("users/1000/segments", json={"add": ["A"]}),
            hurried.post("segments", json={"slug": "B"}),
        ):
            assert problem(answer) == (503, "overloaded")
        rows("SELECT pg_advisory_unlock(%s)", WRITERS_LOCK)

        async def settled() -> bool:
            return not rows("SELECT FROM pg_stat_activity WHERE datname = current_database()"
                            " AND pid <> pg_backend_pid() AND state <> 'idle'")  # fmt: skip

        await until(settled)
        assert await api.segments(1000) == []
        assert await api.history(1000) == []
        assert (await api.get("segments/B")).status_code == 404
        assert (await api.add(1000, "A"))["added"] == ["A"]


# Headers


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "segments/NOWHERE"), ("GET", "/nowhere"), ("PUT", "segments"), ("POST", "lookup")],
)
async def test_a_problem_is_neither_kept_nor_shown_as_something_else(
    api: Api, method: str, path: str
) -> None:
    answer = await api.request(method, path)

    assert answer.status_code >= 400
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


# CORS

PREFLIGHT: Final = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}


@asynccontextmanager
async def door_for(
    database: Database, folder: Path, origins: str | None, **addresses: str
) -> AsyncIterator[Api]:
    """The whole door of a node with a fresh replica, for pages of these origins."""
    settings = load({"data_dir": str(folder), "cors_origins": origins, **addresses}, {}).settings
    with closing(Follower(database, folder)) as follower:
        await follower.round()
    async with open_node(database, settings, folder) as node:
        authenticator = Authenticator(database, AccessRules(may_be_open=False, bound_seconds=50))
        secret = await new_token(database, str(uuid4()), Role.EDITOR)
        await authenticator.look()
        use_cases = service(database, settings, node)
        door, _, _ = http_door(use_cases, settings, authenticator, node.replica, Metrics())
        async with Api(door) as api:
            api.headers.update(bearer(secret))
            yield api


def cors(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


READ: Final = "users/1000/segments"


async def test_pages_of_other_origins_may_not_call_unless_they_are_named(
    database: Database, tmp_path: Path
) -> None:
    async with door_for(database, tmp_path, None) as api:
        for path in ("segments", READ, "/livez"):
            assert cors(await api.get(path, headers={"Origin": ORIGIN})) == {}
            assert cors(await api.options(path, headers={"Origin": ORIGIN, **PREFLIGHT})) == {}


@pytest.mark.parametrize("origins", [ORIGIN, f" https://other.example , {ORIGIN},"])
async def test_pages_of_an_origin_that_is_named_may_call(
    database: Database, tmp_path: Path, origins: str
) -> None:
    async with door_for(database, tmp_path, origins) as api:
        for path in ("segments", READ):
            answer = await api.get(path, headers={"Origin": ORIGIN})
            assert answer.status_code == 200
            assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert "origin" in answer.headers["Vary"].lower()
            exposed = answer.headers["Access-Control-Expose-Headers"]
            assert exposed == "Age, ETag, Location, Retry-After, X-Request-Id"
            # A page has no token when it asks whether it may send one.
            preflight = await api.options(path, headers={"Origin": ORIGIN, "Authorization": "", **PREFLIGHT})
            assert preflight.status_code == 204
            assert preflight.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert "authorization" in preflight.headers["Access-Control-Allow-Headers"].lower()
            stranger = await api.get(path, headers={"Origin": "https://evil.example"})
            assert "Access-Control-Allow-Origin" not in stranger.headers
        assert cors(await api.get(READ)) == {}


async def test_the_settings_of_the_address_reach_the_door(database: Database, tmp_path: Path) -> None:
    forwarded = {"X-Forwarded-Prefix": "/below"}
    for settings, location in (
        ({}, "/below/api/v1/segments/A"),
        ({"trusted_proxies": "none"}, "/api/v1/segments/B"),
        ({"public_url": "https://segments.example/crm"}, "https://segments.example/crm/api/v1/segments/C"),
    ):
        async with door_for(database, tmp_path, None, **settings) as api:
            answer = await api.post("segments", json={"slug": location[-1]}, headers=forwarded)

            assert answer.headers["Location"] == location


async def test_a_page_may_read_why_it_was_refused(database: Database, tmp_path: Path) -> None:
    async with door_for(database, tmp_path, ORIGIN) as api:
        for path, headers, status in (
            ("segments/NOWHERE", {}, 404),
            (READ, bearer("bad"), 401),
            ("audit", {}, 403),
            (f"segments?{'x' * 9000}", {}, 414),
            ("users%2F1000/segments", {}, 404),
        ):
            answer = await api.get(path, headers={"Origin": ORIGIN, **headers})
            assert answer.status_code == status
            assert answer.headers.get_list("Access-Control-Allow-Origin") == [ORIGIN]


async def test_an_overloaded_service_says_so_to_pages_too() -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise AssertionError("nobody is let through")

    door = RequestMiddleware(app, RequestIds(), RequestLimits(most_requests=0), Metrics(), cors=Cors("*"))

    async with Api(door) as api:
        answer = await api.get("segments", headers={"Origin": ORIGIN})

    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (503, "*")


async def test_an_answer_that_varies_by_its_compression_varies_by_the_origin_too(
    database: Database, tmp_path: Path
) -> None:
    async with door_for(database, tmp_path, ORIGIN) as api:
        answer = await api.get("/docs/swagger-ui.css", headers={"Origin": ORIGIN})

        assert sorted(answer.headers.get_list("Vary", split_commas=True)) == ["Accept-Encoding", "Origin"]


async def test_a_preflight_of_a_foreign_page_gets_no_permission(database: Database, tmp_path: Path) -> None:
    async with door_for(database, tmp_path, ORIGIN) as api:
        for origin in ("https://evil.example", "null", f"{ORIGIN}.evil.example"):
            answer = await api.options(READ, headers={"Origin": origin, **PREFLIGHT})

            assert (answer.status_code, cors(answer)) == (204, {})
            assert answer.headers["Vary"] == "Origin"


async def test_a_preflight_allows_every_method_and_the_headers_that_it_names(
    database: Database, tmp_path: Path
) -> None:
    asked = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "prefer,x-any"}
    async with door_for(database, tmp_path, "*") as api:
        for path in ("segments/A", "/nowhere", "*"):
            answer = await api.options(path, headers={"Origin": ORIGIN, "Authorization": "", **asked})

            assert answer.status_code == 204
            assert cors(answer)["access-control-allow-origin"] == "*"
            assert cors(answer)["access-control-allow-methods"] == "DELETE, GET, HEAD, OPTIONS, PATCH, POST"
            assert cors(answer)["access-control-allow-headers"] == "prefer,x-any"


async def test_a_client_that_goes_away_before_it_is_answered_is_no_mistake_of_ours() -> None:
    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    door = RequestMiddleware(app, RequestIds(), RequestLimits(), Metrics())
    with capture_logs() as lines:
        await ask(door, Request("POST", "/api/v1/segments", (), []))

    assert [(line["event"], line["status"]) for line in lines] == [("request", 499)]


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("users?limit=1&cursor=" + "x" * (8192 - len("/api/v1/users") - len("limit=1&cursor=")), 422),
        ("users?limit=1&cursor=" + "x" * 8192, 414),
        ("segments/" + "x" * 8192, 414),
        ("users?" + "&".join(["x=1"] * 64), 200),
        ("users?" + "&".join(["x=1"] * 65), 414),
        ("users?" + "&" * 8000, 414),
    ],
    ids=["longest", "longer query", "longer path", "most parameters", "more parameters", "empty parameters"],
)
async def test_an_address_that_the_framework_would_remember_has_a_bound(
    database: Database, tmp_path: Path, address: str, status: int
) -> None:
    door = await open_door(service(database, Settings(data_dir=str(tmp_path))), database)
    async with Api(door) as api:
        answer = await api.get(address)
    assert answer.status_code == status
    if status == 414:
        assert answer.json()["type"] == "/problems/address-too-long"
