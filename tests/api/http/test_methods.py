"""HEAD wherever there is GET, and what OPTIONS and a 405 say of both."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from litestar import Litestar, get
from litestar.response import Stream
from litestar.routes import HTTPRoute

from segmentd.api.http.app import create_app
from segmentd.api.http.edge.connection import ConnectionLimits, LimitedProtocol
from segmentd.api.http.edge.cors import ALL_METHODS
from segmentd.api.http.edge.middleware import RequestLimits, RequestMiddleware
from segmentd.api.http.edge.request_ids import RequestIds
from segmentd.config import Settings
from segmentd.observability.metrics import Metrics
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.api.http.hot.test_protocol import ANSWER, HOT, Line, line
from tests.support.client import Api
from tests.support.door import open_to_all
from tests.support.wire import Wire

__all__ = ["line"]

READS: Final = [
    "/livez",
    "/readyz",
    "/docs",
    "/docs/swagger-ui.css",
    "/docs/nothing",
    "/openapi.json",
    "segments",
    "segments/A",
    "segments/NOWHERE",
    "segments/A/users",
    "segments/A/users?limit=0",
    "users",
    "users/1000",
    "users/1000/segments",
    "users/1000/segments?detail=true",
    "users/1000/segments/A",
    "users/1000/history",
    "reports/no",
    "reports/no/file?signature=x",
    "audit",
    "/nowhere",
]


@pytest.fixture
async def reads(api: Api) -> Api:
    """A service with something to read."""
    await api.create("A")
    await api.add(1000, "A")
    return api


@pytest.mark.parametrize("path", READS)
async def test_head_is_get_without_the_body(reads: Api, path: str) -> None:
    fixed = {"X-Request-Id": "one", "Accept-Encoding": "identity"}

    got, head = await reads.get(path, headers=fixed), await reads.head(path, headers=fixed)

    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers == got.headers
    assert int(head.headers["Content-Length"]) == len(got.content) > 0


async def test_head_on_the_way_of_the_hot_read_is_followed_by_the_next_answer(line: Line) -> None:
    head = HOT.replace(b"GET", b"HEAD") + b"\r\n"

    answered, read = await line.say(head + HOT + b"\r\n", answers=2, bodies=(False, True))

    assert read == answered + ANSWER


async def test_a_report_is_not_read_for_a_head() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
                await asyncio.sleep(0)
        finally:
            closed.set()

    @get("/file")
    async def file() -> Stream:
        return Stream(endless(), headers={"Content-Length": "99"})

    app = RequestMiddleware(Litestar([file], openapi_config=None), RequestIds(), RequestLimits(), Metrics())
    limits = ConnectionLimits(2048, receive_seconds=300, send_seconds=300, keep_alive_seconds=300)
    answer = await Wire(LimitedProtocol.within(limits), app).say([b"HEAD /file HTTP/1.1\r\nHost: h\r\n\r\n"])

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: 99\r\n" in answer
    await asyncio.wait_for(closed.wait(), 10)


ALLOWED: Final = {
    "segments": "GET, HEAD, OPTIONS, POST",
    "segments/A": "DELETE, GET, HEAD, OPTIONS, PATCH",
    "users/1/segments": "GET, HEAD, OPTIONS, POST",
    "users/1/segments/A": "GET, HEAD, OPTIONS",
    "lookup": "OPTIONS, POST",
    "reports": "OPTIONS, POST",
    "/livez": "GET, HEAD, OPTIONS",
    "/docs/x": "GET, HEAD, OPTIONS",
    "/openapi.json": "GET, HEAD, OPTIONS",
}


@pytest.mark.parametrize("path", ALLOWED)
async def test_options_and_a_405_name_every_method_of_an_address(api: Api, path: str) -> None:
    options, refused = await api.options(path), await api.request("TRACE", path)

    assert (options.status_code, options.headers["Allow"]) == (204, ALLOWED[path])
    assert refused.status_code == 405
    assert sorted(refused.headers["Allow"].split(", ")) == ALLOWED[path].split(", ")


async def test_options_of_the_whole_service_names_every_method_that_an_address_has(
    line: Line, database: Database, tmp_path: Path
) -> None:
    app = create_app(service(database, Settings(data_dir=str(tmp_path))), await open_to_all(database))
    methods = {method for route in app.routes if isinstance(route, HTTPRoute) for method in route.methods}

    [read] = await line.say(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")

    assert read.startswith(b"HTTP/1.1 204 ")
    assert b"allow: %b\r\n" % ALL_METHODS in read
    assert ALL_METHODS.decode().split(", ") == sorted({*methods, "HEAD"})


async def test_head_of_what_is_only_written_is_405(api: Api) -> None:
    answer = await api.head("lookup")

    assert (answer.status_code, answer.content) == (405, b"")
    assert sorted(answer.headers["Allow"].split(", ")) == ["OPTIONS", "POST"]
