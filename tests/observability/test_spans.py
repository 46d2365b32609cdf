"""Spans: every request with its statements, and nothing that is nobody's business."""

from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Final, LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest
from litestar.types import Receive, Scope, Send

from segmentd.api.http.edge.tracing import trace_requests
from segmentd.config import Settings
from segmentd.observability.traces import Tracing
from segmentd.replica.follower import Follower
from segmentd.serve.wiring import open_node, service
from segmentd.storage.database import Database, Succeeded
from tests.support.asgi import JSON, Request, ask
from tests.support.client import Api
from tests.support.collector import Collector
from tests.support.door import hot_path, middleware, open_door, open_to_all
from tests.support.grpc_door import grpc_door
from tests.support.office import Office

CALLER: Final = "0af7651916cd43dd8448eb211c80319c"
CALLERS_SPAN: Final = "b7ad6b7169203331"
# PostgreSQL's refusal of each quotes its parameter.
QUOTING: Final[list[LiteralString]] = ["SELECT %s::int", "-- a remark\nSELECT %s::timestamptz"]


@pytest.fixture
async def traced(database_url: str, tracing: Tracing) -> AsyncIterator[Database]:
    async with Database(database_url, tracing=tracing) as database:
        yield database


@pytest.fixture
async def traced_api(traced: Database, tracing: Tracing, tmp_path: Path) -> AsyncIterator[Api]:
    """The whole service with its requests and statements traced."""
    app = await open_door(service(traced, Settings(data_dir=str(tmp_path))), traced)
    async with Api(trace_requests(app, tracing)) as api:
        yield api


# What a trace shows


async def test_a_request_is_a_span_named_by_its_route_above_its_statements(
    api: Api, traced_api: Api, tracing: Tracing, collector: Collector
) -> None:
    await api.create("A")
    await traced_api.add(1000, "A")
    tracing.close()

    request = collector.named("POST /api/v1/users/{user_id}/segments")
    assert (request.kind, request.parent, request.failed) == ("SERVER", "", False)
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/api/v1/users/{user_id}/segments",
        "http.response.status_code": "200",
        "network.protocol.version": "1.1",
        "url.scheme": "http",
    }
    statements = collector.below(request)
    assert len(statements) == len(collector.spans) - 1
    [change] = [span for span in statements if span.name == "SELECT change_memberships"]
    assert (change.kind, change.failed) == ("CLIENT", False)
    assert change.attributes.keys() == {"db.system.name", "db.query.text"}
    assert "%(user_ids)s" in change.attributes["db.query.text"]


async def test_the_trace_of_the_caller_goes_on(
    traced_api: Api, tracing: Tracing, collector: Collector
) -> None:
    assert "traceparent" in tracing.headers
    await traced_api.get("segments", headers={"traceparent": f"00-{CALLER}-{CALLERS_SPAN}-01"})
    await traced_api.get("users", headers={"traceparent": f"00-{CALLER}-{CALLERS_SPAN}-00"})
    tracing.close()

    request = collector.named("GET /api/v1/segments")
    assert (request.trace, request.parent) == (CALLER, CALLERS_SPAN)
    assert {span.trace for span in collector.below(request)} == {CALLER}
    assert not [span for span in collector.spans if "users" in span.name], "its caller records nothing"


async def test_a_call_over_grpc_is_a_span_named_by_its_method_in_the_trace_of_its_caller(
    traced: Database, tracing: Tracing, collector: Collector, tmp_path: Path
) -> None:
    use_cases = service(traced, Settings(data_dir=str(tmp_path)))
    async with grpc_door(use_cases, await open_to_all(traced), tracing=tracing) as client:
        parent = f"00-{CALLER}-{CALLERS_SPAN}-01"
        await client.call("Segments/CreateSegment", {"slug": "A"}, traceparent=parent)
        await client.call("Segments/GetSegment", {"slug": "X"})
    tracing.close()

    call = collector.named("POST /segmentd.v1.Segments/CreateSegment")
    assert (call.kind, call.trace, call.parent, call.failed) == ("SERVER", CALLER, CALLERS_SPAN, False)
    assert call.attributes["network.protocol.version"] == "2"
    assert {span.trace for span in collector.below(call)} == {CALLER}
    refused = collector.named("POST /segmentd.v1.Segments/GetSegment")
    assert refused.attributes["http.response.status_code"] == "404"
    assert (refused.parent, len(collector.below(refused))) == ("", 1)


async def test_a_report_is_built_in_a_span_above_its_transactions(
    traced_api: Api, traced: Database, tracing: Tracing, collector: Collector, tmp_path: Path
) -> None:
    office = Office(traced_api, traced, tmp_path, tracing)
    await office.make()
    tracing.close()

    order = collector.named("POST /api/v1/reports")
    assert "transaction" in {span.name for span in collector.below(order)}
    build = collector.named("build_report")
    assert (build.kind, build.parent) == ("CONSUMER", "")
    assert {"transaction", "UPDATE reports"} <= {span.name for span in collector.below(build)}


async def test_a_hot_call_has_the_name_that_the_framework_gives_it(
    api: Api, database: Database, tracing: Tracing, collector: Collector, tmp_path: Path
) -> None:
    await api.create("A")
    await api.add(1000, "A")
    with closing(Follower(database, tmp_path / "node")) as follower:
        await follower.round()
    settings = Settings(data_dir=str(tmp_path))
    async with open_node(database, settings, tmp_path / "node") as node:
        everybody = await open_to_all(database)
        framework = middleware(service(database, settings, node), everybody)
        for app in (hot_path(nothing_behind, node.replica, everybody), framework):
            await ask(trace_requests(app, tracing), Request("GET", "/api/v1/users/1000/segments"))
            await ask(
                trace_requests(app, tracing),
                Request("POST", "/api/v1/lookup", JSON, [b'{"user_ids":[1000]}']),
            )
    tracing.close()

    read, lookup = "GET /api/v1/users/{user_id}/segments", "POST /api/v1/lookup"
    assert [span.name for span in collector.spans] == [read, read, lookup, lookup]


async def nothing_behind(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotImplementedError


async def test_what_belongs_to_no_request_and_no_job_is_not_traced(
    traced: Database, tracing: Tracing, collector: Collector
) -> None:
    await traced.execute("SELECT 1")
    async with traced.transaction():
        pass
    tracing.close()

    assert collector.spans == []


async def test_a_refusal_shows_its_status_and_a_failure_is_marked(
    database: Database, tracing: Tracing, collector: Collector, tmp_path: Path
) -> None:
    async with Database("postgresql://127.0.0.1:1/nothing", tracing=tracing) as away:
        app = middleware(service(away, Settings(data_dir=str(tmp_path))), await open_to_all(database))
        async with Api(trace_requests(app, tracing)) as api:
            assert (await api.get("users/0/segments/A")).status_code == 422
            assert (await api.get("nothing")).status_code == 404
            assert (await api.get("segments")).status_code == 503
    tracing.close()

    assert not collector.named("GET /api/v1/users/{user_id}/segments/{slug}").failed
    assert not collector.named("GET").failed
    request = collector.named("GET /api/v1/segments")
    [statement] = collector.below(request)
    assert [(span.failed, span.attributes["error.type"]) for span in (request, statement)] == [
        (True, "503"),
        (True, "Unavailable"),
    ]


# What a trace never shows


async def test_no_span_holds_a_token_a_signature_an_id_or_any_other_value(
    traced_api: Api, traced: Database, tracing: Tracing, collector: Collector, tmp_path: Path
) -> None:
    token, user_id, slug, reason = "sgm_a-token", 7_160_053_361, "AN_UNHEARD_OF_SLUG", "ticket 4711"
    traced_api.headers["Authorization"] = f"Bearer {token}"
    await traced_api.create(slug)
    await traced_api.change(user_id, add=[slug], reason=reason)
    await traced_api.get(f"users/{user_id}/history?limit=5&cursor={token}")
    await traced_api.get(f"nothing/{user_id}?{token}")
    await traced_api.post("segments", json={"slug": slug})
    office = Office(traced_api, traced, tmp_path, tracing)
    report = await office.make(
        user_id=user_id, segment=slug, **{"from": "2001-02-03T04:05:06Z"}, to="9999-12-31T00:00:00Z"
    )
    assert (await office.file(report)).status_code == 200
    for statement in QUOTING:
        with pytest.raises(psycopg.DataError, match=token), tracing.job("quoted"):
            await traced.all(Succeeded, statement, [token])
    async with traced.transaction() as connection:
        with pytest.raises(psycopg.DataError, match=token), tracing.job("quoted"):
            await connection.execute("SELECT %s::int", [token])
    tracing.close()

    sent = b"".join(collector.bodies)
    assert sent.count(b"quoted") == len(QUOTING) + 1
    signature = urlsplit(report["url"]).query.removeprefix("signature=")
    for secret in (token, signature, slug, reason, str(user_id), report["id"], "2001-02-03"):
        assert secret.encode() not in sent
