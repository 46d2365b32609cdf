import asyncio
import gzip
import hashlib
import re
import threading
from importlib import resources

import jsonschema_rs
import pytest

from segmentd import __version__
from segmentd.api.http.assets import Asset
from segmentd.config import Settings
from segmentd.domain.audit import AuditOperation
from segmentd.domain.described import Described
from segmentd.domain.memberships import Because, Cause, Operation, Source
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.support.client import Api, Json
from tests.support.door import middleware, open_to_all

ROUTES = {
    "/api/v1/segments": {"get", "post"},
    "/api/v1/segments/{slug}": {"get", "patch", "delete"},
    "/api/v1/segments/{slug}/users": {"get"},
    "/api/v1/users": {"get", "post"},
    "/api/v1/users/{user_id}": {"get", "delete"},
    "/api/v1/users/{user_id}/segments": {"get", "post"},
    "/api/v1/users/{user_id}/segments/{slug}": {"get"},
    "/api/v1/users/{user_id}/history": {"get"},
    "/api/v1/lookup": {"post"},
    "/livez": {"get"},
    "/readyz": {"get"},
}
METHODS = {"get", "post", "put", "patch", "delete"}
PROBLEM_JSON = "application/problem+json"


@pytest.fixture
async def document(api: Api) -> Json:
    """The OpenAPI document."""
    return (await api.get("/openapi.json")).json()


def operations(document: Json) -> dict[str, Json]:
    """The operations by method and path."""
    return {
        f"{method} {path}": operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


async def test_a_living_process_says_so(api: Api) -> None:
    answer = await api.get("/livez")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_a_service_with_its_database_is_ready(api: Api) -> None:
    answer = await api.get("/readyz")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_without_its_database_a_service_lives_and_says_why_it_is_not_ready(
    database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = Settings(data_dir=str(tmp_path_factory.mktemp("data")))
    closed = Database(database_url)
    async with closed:
        authenticator = await open_to_all(closed)

    async with Api(middleware(service(closed, settings), authenticator)) as api:
        assert (await api.get("/livez")).status_code == 200
        for answer in (
            await api.get("/readyz"),
            await api.get("segments"),
            await api.get("users/1/segments"),
            await api.post("users/1/segments", json={"add": ["A"]}),
        ):
            assert answer.status_code == 503
            assert answer.headers["Content-Type"] == PROBLEM_JSON
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.json()["type"] == "/problems/unavailable"
            assert "database" in answer.json()["detail"]
        assert (await api.get("segments/a b")).status_code == 422


async def test_the_document_is_valid_openapi_3_1(document: Json) -> None:
    assert document["openapi"].startswith("3.1.")
    assert {"title", "version"} <= document["info"].keys()
    for name, schema in document["components"]["schemas"].items():
        assert jsonschema_rs.meta.is_valid(
            {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
        ), name
    referenced = set(re.findall(r'"#/components/schemas/([^"]+)"', str(document).replace("'", '"')))
    assert referenced <= document["components"]["schemas"].keys()
    ids = [operation["operationId"] for operation in operations(document).values()]
    assert len({*ids}) == len(ids)
    for path, item in document["paths"].items():
        for operation in item.values():
            declared = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path))


@pytest.mark.parametrize("explained", [AuditOperation, Because, Cause, Operation, Source])
async def test_the_document_lists_the_values_of_an_enum_and_explains_each(
    document: Json, explained: type[Described]
) -> None:
    schema = document["components"]["schemas"][explained.__name__]

    assert schema["enum"] == [*explained]
    for value in explained:
        assert f"- `{value}`: {value.sentence}" in schema["description"]


async def test_the_document_names_every_route(document: Json) -> None:
    shown = {path: item.keys() & METHODS for path, item in document["paths"].items()}

    assert shown | ROUTES == shown


async def test_every_operation_is_summed_up_for_people(document: Json) -> None:
    for name, operation in operations(document).items():
        assert re.fullmatch(r"[A-Z][a-z]+\W.+ .+[^.]", operation["summary"]), name


async def test_every_operation_names_its_problems(document: Json) -> None:
    for name, operation in operations(document).items():
        refusals = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
        # A range beyond the end is answered by headers alone.
        refusals.pop("416", None)
        if " /ofrep/" in name:
            contents = [answer["content"] for answer in refusals.values()]
            schema = {"$ref": "#/components/schemas/EvaluationFailure"}
            assert contents == [{"application/json": {"schema": schema}}] * len(refusals)
            assert refusals.keys() == {"400", "401", "403", "404", "429", "500", "503"}
            continue
        for status, answer in refusals.items():
            assert [*answer["content"]] == [PROBLEM_JSON], (name, status)
            assert answer["content"][PROBLEM_JSON]["schema"] == {"$ref": "#/components/schemas/ProblemBody"}
        if name != "get /livez":
            assert "503" in refusals, name
        if "requestBody" in operation:
            # A list may have any size, and what is wrong in it is said by the import.
            of_json = set() if name == "post /api/v1/imports" else {"400", "413"}
            assert {"415", "422"} | of_json <= refusals.keys(), name
        else:
            assert "400" not in refusals, name
        if operation.get("parameters"):
            assert "422" in refusals, name
    assert "409" in operations(document)["post /api/v1/users"]["responses"]
    assert "404" in operations(document)["post /api/v1/users/{user_id}/segments"]["responses"]
    assert "404" not in operations(document)["get /api/v1/users/{user_id}/segments"]["responses"]


async def test_the_documentation_works_without_the_internet(api: Api) -> None:
    page = await api.get("/docs")

    assert page.status_code == 200
    assert page.headers["Content-Type"].startswith("text/html")
    assert "//" not in re.sub("<!doctype html>|</", "", page.text)
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) >= 3
    for address in loaded:
        if address.startswith("data:"):
            continue
        asset = await api.get(address)
        assert asset.status_code == 200
        assert len(asset.content) > 0
        kind = "text/css" if address.endswith(".css") else "text/javascript"
        assert asset.headers["Content-Type"].startswith(kind)


async def test_the_documentation_may_load_nothing_from_elsewhere(api: Api) -> None:
    policy = (await api.get("/docs")).headers["Content-Security-Policy"]

    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "*" not in policy
    assert "frame-ancestors 'none'" in policy
    assert 'data-document="/openapi.json"' in (await api.get("/docs")).text


async def test_the_documentation_is_not_to_be_taken_for_anything_else(api: Api) -> None:
    headers = (await api.get("/docs")).headers

    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/livez", "segments", "segments/no", "/docs/no"])
async def test_nothing_but_the_metrics_tells_the_version(api: Api, path: str) -> None:
    answer = await api.get(path)

    shown = answer.text + str(answer.headers)
    assert __version__ not in shown.replace("3.1.0", "")  # OpenAPI's own
    assert "server" not in answer.headers


@pytest.mark.parametrize(
    "name", ["../pyproject.toml", "%2e%2e%2fapp.py", "index.html", "swagger-ui.css.map", "%00"]
)
async def test_the_documentation_serves_its_own_assets_and_nothing_else(api: Api, name: str) -> None:
    assert (await api.get(f"/docs/{name}")).status_code == 404


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("LICENSE", "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"),
        ("swagger-ui-bundle.js", "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2"),
        ("swagger-ui.css", "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d"),
    ],
)
def test_the_files_of_swagger_ui_are_those_of_its_release(name: str, digest: str) -> None:
    content = resources.files("segmentd.api.http").joinpath("swagger_ui", name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == digest


async def test_other_requests_are_answered_while_a_file_is_compressed(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressing, go_on = threading.Event(), threading.Event()
    compress = gzip.compress

    def slow(data: bytes, compresslevel: int = 9, *, mtime: float | None = None) -> bytes:
        compressing.set()
        go_on.wait(30)
        return compress(data, compresslevel, mtime=mtime)

    monkeypatch.setattr(gzip, "compress", slow)
    Asset.of_package.cache_clear()
    file = asyncio.create_task(api.get("/docs/swagger-ui.css"))
    assert await asyncio.to_thread(compressing.wait, 30)

    alive = await api.get("/livez")
    assert not file.done()
    go_on.set()

    assert (alive.status_code, (await file).status_code) == (200, 200)


@pytest.mark.parametrize("name", ["swagger-ui-bundle.js", "swagger-ui.css"])
async def test_an_asset_is_held_once_and_compressed_and_known_by_its_tag(api: Api, name: str) -> None:
    content = resources.files("segmentd.api.http").joinpath("swagger_ui", name).read_bytes()
    plain = await api.get(f"/docs/{name}", headers={"Accept-Encoding": "identity"})
    packed = await api.get(f"/docs/{name}", headers={"Accept-Encoding": "br;q=1, gzip;q=0.5"})

    assert plain.content == packed.content == content
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert int(packed.headers["Content-Length"]) * 3 < len(content)
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"
    assert plain.headers["ETag"] != packed.headers["ETag"]
    for answer, coding in ((plain, "identity"), (packed, "gzip")):
        known = {"Accept-Encoding": coding, "If-None-Match": f'"x", W/{answer.headers["ETag"]}'}
        again = await api.get(f"/docs/{name}", headers=known)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["ETag"] == answer.headers["ETag"]


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("deflate, gzip;q=1.0, *;q=0.5", "gzip"),
        ("br,gzip ; q=0.001", "gzip"),
        ("*", "gzip"),
        ("", None),
        ("gzip;q=0", None),
        ("gzip; q=0.000", None),
        ("*, gzip;q=0", None),
        ("notgzip", None),
        ("br", None),
    ],
)
async def test_an_asset_is_compressed_for_those_who_take_it(
    api: Api, accepted: str, coding: str | None
) -> None:
    answer = await api.get("/docs/swagger-ui.css", headers={"Accept-Encoding": accepted})

    assert answer.headers.get("Content-Encoding") == coding
