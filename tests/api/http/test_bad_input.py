"""Every way to get a request wrong: each is answered as a problem, and none of them changes anything."""

import codecs
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, NamedTuple

import httpx
import psycopg
import pytest
import pytest_asyncio
from psycopg import sql

from segmentd.api.http.edge.errors import LARGEST_BODY_BYTES
from segmentd.service import Service
from segmentd.storage.database import Database
from tests.support.client import Api, Json
from tests.support.door import open_door
from tests.support.postgres import new_database
from tests.support.served import served

# One application serves all rows: none of them changes anything, and each proves it.
pytestmark = pytest.mark.asyncio(loop_scope="module")

TABLES: Final = (
    *("users", "registrations", "segments", "rollouts", "memberships", "membership_events", "catalog"),
    *("segment_events",),
)

INT64_MAX: Final = 2**63 - 1
JSON_TYPE: Final = {"Content-Type": "application/json"}
# What a Python service could let slip: a stack trace, its own files, SQL.
LEAKS: Final = ("Traceback", ".py", "psycopg", "SELECT ", "INSERT ", "UPDATE ", "sqlstate", "msgspec")


class Bad(NamedTuple):
    """A bad request and how it is refused; a validation names the pointers of its errors."""

    name: str
    method: str
    path: str
    status: int = 422
    kind: str = "validation"
    pointers: tuple[str, ...] = ()
    content: bytes | None = None
    headers: dict[str, str] = {}  # noqa: RUF012 - a tuple's default, never written to

    def __repr__(self) -> str:
        return self.name  # a body of 2 MiB would fill the screen


def body(
    name: str,
    method: str,
    path: str,
    content: Json,
    *pointers: str,
    status: int = 422,
    kind: str = "validation",
) -> Bad:
    """A row whose body is JSON; bytes are sent as they are."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Bad(name, method, path, status, kind, pointers, raw, JSON_TYPE)


def segment(name: str, pointer: str, **fields: Json) -> Bad:
    """A segment that nobody can make, by one of its fields."""
    return body(f"segment: {name}", "POST", "segments", {"slug": "NEW", **fields}, pointer)


def patch(name: str, pointer: str, **fields: Json) -> Bad:
    """A segment that cannot become like this."""
    return body(f"patch: {name}", "PATCH", "segments/TAKEN", fields, pointer)


def change(name: str, *pointers: str, **fields: Json) -> Bad:
    """A change of a user's segments that contradicts itself or the rules."""
    return body(f"change: {name}", "POST", "users/1000/segments", fields, *pointers)


def term(name: str, pointer: str, **fields: Json) -> Bad:
    """A term that nobody can have."""
    return change(f"term {name}", pointer, add=["OTHER", {"slug": "FREE", **fields}])


def query(path: str, pointer: str) -> Bad:
    """A bad value in a query."""
    return Bad(f"query: {path}", "GET", path, pointers=(pointer,))


BAD_SLUGS: Final = {
    "empty": "",
    "129 long": "a" * 129,
    "with a blank": "a b",
    "with a slash": "a/b",
    "with NUL": "a\0",
    "not ASCII": "é",
    "full-width": "Ａ",
    "ending with a line feed": "TAKEN\n",
    "beginning with a hyphen": "-a",
    "beginning with a dot": ".a",
    "beginning with an underscore": "_a",
    "a lone surrogate": "\ud800",
    "a number": 1,
    "null": None,
    "a list": ["A"],
}
BAD_IDS: Final = {
    "0": 0,
    "-1": -1,
    "2^63": 2**63,
    "1.5": 1.5,
    "a string": "1000",
    "true": True,
    "a list": [1],
    "10^30": 10**30,
}
BAD_PERCENTAGES: Final[tuple[Json, ...]] = (
    *(-1, -0.0001, 100.0001, 101, 10**30, 1.00001, 1e-10, "10", True, []),
)
# The last one ends after the year 9999.
BAD_SECONDS: Final[tuple[Json, ...]] = (0, -5, 1.5, "60", True, [], 10**12 + 1, 10**30, 400_000_000_000)
BAD_TIMES: Final = ("", "x", "2020-01-01", "2020-01-01T00:00:00", "2020-W01-1T00:00:00Z", "20200101T000000Z")
FAR_TIMES: Final = ("10000-01-01T00:00:00Z", "0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-10:00")
UNTEXT: Final = {"NUL": "a\0b", "a lone surrogate": "a\ud800", "a lone low surrogate": "\udc00a"}


def slugs() -> Iterator[Bad]:
    for name, slug in BAD_SLUGS.items():
        yield segment(f"slug {name}", "/slug", slug=slug)
        yield patch(f"slug {name}", "/slug", slug=slug)
        yield change(f"add of a slug {name}", "/add/1", add=["FREE", slug])
        yield change(f"remove of a slug {name}", "/remove/0", remove=[slug])
        yield term(f"of a slug {name}", "/add/1/slug", slug=slug)
    for path in ("a%20b", "a%00", "%C3%A9", "%FF", "TAKEN%0A", "-a", "a" * 129, "a%5C"):
        for place in ("segments/{}", "segments/{}/users", "users/1000/segments/{}"):
            yield query(place.format(path), "/slug")
        yield Bad(f"delete: {path}", "DELETE", f"segments/{path}", pointers=("/slug",))
    for path in ("a/b", "a%2Fb"):
        yield Bad(f"slug {path}", "GET", f"segments/{path}", 404, "not-found")


def user_ids() -> Iterator[Bad]:
    for name, user_id in BAD_IDS.items():
        yield body(f"user id {name}", "POST", "users", {"id": user_id}, "/id")
        yield body(f"lookup of {name}", "POST", "lookup", {"user_ids": [1, user_id]}, "/user_ids/1")
    yield body("lookup of null", "POST", "lookup", {"user_ids": [None]}, "/user_ids/0")
    for path in (
        "0",
        "-1",
        str(2**63),
        "1.5",
        '"1000"',
        "abc",
        "+1",
        "01",
        "%EF%BC%91",
        "%201",
        "1%0A",
        "9" * 99,
        *("1e3", "1E3", "1000.0", "1000.", "1_000", "%D9%A3", "1%20", "-0", "0x10", "9007199254740993.0"),
        *("00", "1%09", "true", "1,000", "1e0"),
    ):
        for place in ("users/{}", "users/{}/segments", "users/{}/history", "users/{}/segments/TAKEN"):
            yield query(place.format(path), "/user_id")
        yield Bad(f"delete of user {path}", "DELETE", f"users/{path}", pointers=("/user_id",))
        yield body(f"change of user {path}", "POST", f"users/{path}/segments", {"add": ["FREE"]}, "/user_id")


def percentages() -> Iterator[Bad]:
    for percent in BAD_PERCENTAGES:
        yield segment(f"percent {percent!r}", "/percent", percent=percent)
        yield patch(f"percent {percent!r}", "/percent", percent=percent)
    for number in (b"1e400", b"-1e400"):
        content = b'{"slug": "NEW", "percent": ' + number + b"}"
        yield body(f"segment: percent {number!r}", "POST", "segments", content, "/percent")
    for number in (
        b"1e-400",
        b"10.0001000000000000001",
        b"99.99999999999999999999",
        b"1e-" + b"9" * 30,
        b"1E-5",
    ):
        content = b'{"slug": "NEW", "percent": ' + number + b"}"
        yield body(f"segment: percent {number!r}", "POST", "segments", content, "/percent")
        yield body(f"patch: percent {number!r}", "PATCH", "segments/TAKEN", content, "/percent")
    for constant in (b"NaN", b"Infinity", b"-Infinity"):
        content = b'{"slug": "NEW", "percent": ' + constant + b"}"
        yield body(f"percent {constant!r}", "POST", "segments", content, status=400, kind="malformed")


def texts() -> Iterator[Bad]:
    for name, text in UNTEXT.items():
        yield segment(f"description with {name}", "/description", description=text)
        yield patch(f"description with {name}", "/description", description=text)
        yield body(f"user name with {name}", "POST", "users", {"name": text}, "/name")
        yield change(f"reason with {name}", "/reason", add=["FREE"], reason=text)
    yield segment("description of 2,001", "/description", description="ä" * 2001)
    yield patch("description of 2,001", "/description", description="ä" * 2001)
    yield patch("description null", "/description", description=None)
    yield body("user name of 257", "POST", "users", {"name": "ä" * 257}, "/name")
    yield change("reason of 501", "/reason", add=["FREE"], reason="ä" * 501)
    yield change("reason a number", "/reason", add=["FREE"], reason=1)
    yield body("a key that is no text", "POST", "segments", {"slug": "NEW", "\ud800": 1}, "")


def salts() -> Iterator[Bad]:
    for salt in (
        str(2**63),
        str(-(2**63) - 1),
        "9" * 19,
        "x",
        "",
        "1.5",
        "+1",
        " 1",
        "1\n",
        "１",
        22,
        None,
        "9" * 99,
    ):
        yield segment(f"salt {salt!r}", "/salt", salt=salt)
    yield patch("salt", "/salt", salt="1")


def malformed() -> Iterator[Bad]:
    for method, path in (
        *(("POST", "segments"), ("PATCH", "segments/TAKEN"), ("POST", "users")),
        *(("POST", "users/1000/segments"), ("POST", "lookup")),
    ):
        for name, content in {
            "broken JSON": b'{"slug"',
            "no body": b"",
            "blanks alone": b"  ",
            "a word": b"hello",
            "invalid UTF-8": b'{"\xff": "\xff"}',
            "UTF-16": '{"slug": "NEW"}'.encode("utf-16"),
            "single quotes": b"{'slug': 'NEW'}",
        }.items():
            yield body(f"{name} to {path}", method, path, content, status=400, kind="malformed")
        for name, content in {"null": b"null", "a list": b"[]", "a string": b'"NEW"'}.items():
            yield body(f"{name} to {path}", method, path, content, "")
        yield body(f"unknown field to {path}", method, path, {"sulg": 1, "a/b~c": 1}, "/sulg")
        deep = b'{"slug": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        yield body(f"deep JSON to {path}", method, path, deep, "/slug")
        large = b'{"slug": "' + b"a" * 2**21 + b'"}'
        yield body(f"2 MiB to {path}", method, path, large, status=413, kind="body-too-large")
        yield Bad(
            f"2 MiB of text to {path}",
            method,
            path,
            415,
            "unsupported-media-type",
            (),
            b"{}",
            {"Content-Type": "text/plain"},
        )

    for path, content, pointers in (
        ("users/1000/segments", b'{"add": ["FREE"], "add": ["OTHER"]}', ["/add"]),
        ("users/1000/segments", b'{"add": ["FREE"], "\\u0061dd": ["FREE"]}', ["/add"]),
        (
            "users/1000/segments",
            b'{"add": [{"slug": "FREE", "ttl_seconds": 9, "slug": "FREE"}]}',
            ["/add/0/slug"],
        ),
        (
            "users/1000/segments",
            b'{"add": ["FREE"], "reason": "a", "reason": "b", "reason": "a", "add": ["FREE"]}',
            ["/reason", "/reason", "/add"],
        ),
        ("segments", b'{"slug": "NEW", "percent": 1, "percent": 1}', ["/percent"]),
        ("users", b'{"id": 7, "id": 8}', ["/id"]),
        ("lookup", b'{"user_ids": [1], "user_ids": [2]}', ["/user_ids"]),
        ("reports", b'{"month": "2020-01", "month": "2020-02"}', ["/month"]),
    ):
        yield body(f"equal keys to {path}: {content!r}", "POST", path, content, *pointers)

    two = b'{"slug": "NEW"} {}'
    yield body("two documents", "POST", "segments", two, status=400, kind="malformed")


def media_types() -> Iterator[Bad]:
    for media_type in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/problem+json",
        "application/json; charset=latin-1",
        "application/json; charset=utf-8; charset=latin-1",
        "application/json; charset=latin-1; version=1",
        "json",
        "",
    ):
        yield Bad(
            f"media type {media_type!r}",
            "POST",
            "segments",
            415,
            "unsupported-media-type",
            (),
            b'{"slug": "NEW"}',
            {"Content-Type": media_type},
        )
    for method, path in (("POST", "segments"), ("PATCH", "segments/TAKEN"), ("POST", "lookup")):
        yield Bad(
            f"{method} {path} without a media type",
            method,
            path,
            415,
            "unsupported-media-type",
            (),
            b'{"slug": "NEW"}',
        )
        for coding in ("gzip", "br", "identity, zstd", "x-nothing", "GZIP"):
            yield Bad(
                f"{method} {path} in {coding}",
                method,
                path,
                415,
                "unsupported-media-type",
                (),
                b'{"slug": "NEW"}',
                {**JSON_TYPE, "Content-Encoding": coding},
            )


def addresses() -> Iterator[Bad]:
    for method, path in (
        *(("PUT", "segments"), ("DELETE", "segments"), ("POST", "segments/TAKEN"), ("PUT", "segments/TAKEN")),
        *(
            ("POST", "segments/TAKEN/users"),
            ("PATCH", "users"),
            ("PATCH", "users/1000"),
            ("PUT", "users/1000"),
        ),
        *(("DELETE", "users/1000/segments"), ("PUT", "users/1000/segments"), ("GET", "lookup")),
        *(("DELETE", "users/1000/segments/TAKEN"), ("POST", "users/1000/history"), ("POST", "/livez")),
        *(("DELETE", "/readyz"), ("POST", "/openapi.json"), ("POST", "/docs")),
    ):
        yield Bad(f"{method} {path}", method, path, 405, "method-not-allowed")
    for path in (
        *("nothing", "/nothing", "/", "/openapi", "/openapi.json/x"),
        "/api",
        "/api/v1",
        "/api/v2/segments",
        "segments/TAKEN/nothing",
        "/docs/x",
        "/%00",
    ):
        yield Bad(f"no address {path}", "GET", path, 404, "not-found")


def pages() -> Iterator[Bad]:
    for path in ("segments", "users", "segments/TAKEN/users", "users/1000/history"):
        for limit in ("0", "1001", "x", "", "-1", "1.5", "%00", "9" * 30, "true", "1&limit=0", "1&limit=x"):
            yield query(f"{path}?limit={limit}", "/limit")
        for limit in (
            "1e1",
            "1.0",
            "%2B1",
            "01",
            "%201",
            "1%20",
            "1_0",
            "%D9%A3",
            "10.",
            "1e1&limit=1",
            "0x1",
        ):
            yield query(f"{path}?limit={limit}", "/limit")
        for cursor in (
            "",
            "x",
            "%00",
            "%FF",
            "AAAA",
            "null",
            "é",
            "a" * 5000,
            "{cut}",
            "{flipped}",
            "{last_flipped}",
        ):
            yield query(f"{path}?cursor={cursor}", "/cursor")
    yield query("users?cursor={segments}", "/cursor")
    yield query("segments?cursor={users}", "/cursor")
    yield query("segments/TAKEN/users?cursor={users}", "/cursor")
    yield query("segments/OTHER/users?cursor={members}", "/cursor")
    yield query("users/1001/history?cursor={history}", "/cursor")


def given_twice() -> Iterator[Bad]:
    yield query("segments?limit=1&limit=2", "/limit")
    yield query("users/1000/segments?detail=true&detail=false", "/detail")
    yield query("users/1000/segments?ids=string&ids=number", "/ids")
    yield query("users/1000/segments?at=2020-01-01T00:00:00Z&at=2020-01-01T00:00:00Z", "/at")
    yield query("users/1000/history?from=2020-01-01T00:00:00Z&from=2021-01-01T00:00:00Z", "/from")
    yield query("reports/x/file?signature=a&signature=b", "/signature")
    yield Bad("erase twice", "DELETE", "users/1000?erase=false&erase=true", pointers=("/erase",))


def terms() -> Iterator[Bad]:
    for seconds in BAD_SECONDS:
        yield term(f"ttl {seconds!r}", "/add/1/ttl_seconds", ttl_seconds=seconds)
    for moment in (*BAD_TIMES, *FAR_TIMES, "2020-01-01T00:00:00Z", 1767225600, True):
        yield term(f"until {moment!r}", "/add/1/until", until=moment)
    yield term("until beside ttl", "/add/1", until="2999-01-01T00:00:00Z", ttl_seconds=60)
    yield term("with an unknown field", "/add/1/ttl", ttl=60)
    yield change("term without a slug", "/add/0/slug", add=[{"ttl_seconds": 60}])
    yield change(
        "two terms at fault",
        "/add/0/ttl_seconds",
        "/add/1/until",
        add=[
            {"slug": "FREE", "ttl_seconds": 400_000_000_000},
            {"slug": "OTHER", "until": "2020-01-01T00:00:00Z"},
        ],
    )
    yield change("remove with a term", "/remove/0", remove=[{"slug": "FREE", "ttl_seconds": 60}])


def changes() -> Iterator[Bad]:
    yield change("nothing to do", "")
    yield change("nothing in the lists", "", add=[], remove=[])
    yield change("nothing but a reason", "", reason="because")
    yield change("twice in add", "/add/2", add=["FREE", "OTHER", {"slug": "FREE", "ttl_seconds": 60}])
    yield change("twice in remove", "/remove/1", remove=["FREE", "FREE"])
    yield change("in add and remove", "/remove/1", add=["FREE"], remove=["OTHER", "FREE"])
    yield change("10,000 slugs", "/add", add=[f"S{number}" for number in range(10_000)])
    yield change("1,001 slugs to remove", "/remove", remove=[f"S{number}" for number in range(1001)])
    yield change("1,001 slugs in all", "", add=[f"S{number}" for number in range(1000)], remove=["FREE"])
    yield change("add an object", "/add", add={})
    yield change("add null", "/add", add=None)
    yield body("lookup of 1,001", "POST", "lookup", {"user_ids": [*range(1, 1002)]}, "/user_ids")
    yield body("lookup of nobody in particular", "POST", "lookup", {}, "/user_ids")
    yield body("segment without a slug", "POST", "segments", {"percent": 10}, "/slug")


def moments() -> Iterator[Bad]:
    for path in ("users/1000/segments", "users/1000/segments/TAKEN"):
        for moment in (*BAD_TIMES, *FAR_TIMES, "2999-01-01T00:00:00Z", "2020-01-01T00:00:00+00:00", "%00"):
            yield query(f"{path}?at={moment}", "/at")  # a bare + in a URL is a blank
        yield query(f"{path}?at=2020-01-01T00:00:00Z&at=x", "/at")
    for name in ("from", "to"):
        for moment in BAD_TIMES:
            yield query(f"users/1000/history?{name}={moment}", f"/{name}")
    for begin, end in (("2020-01-02", "2020-01-01"), ("2020-01-01", "2020-01-01")):
        yield query(f"users/1000/history?from={begin}T00:00:00Z&to={end}T00:00:00Z", "/to")
    for detail in ("x", "", "2", "true&detail=x", "1", "0", "True", "TRUE", "yes", "on", "t", "%20true"):
        yield query(f"users/1000/segments?detail={detail}", "/detail")


def conflicts() -> Iterator[Bad]:
    for slug in ("TAKEN", "taken", "Taken"):
        content = {"slug": slug}
        yield body(f"POST {slug}", "POST", "segments", content, status=409, kind="segment-exists")
        yield body(f"PATCH to {slug}", "PATCH", "segments/FREE", content, status=409, kind="segment-exists")
    yield body("registered", "POST", "users", {"id": 1000}, status=409, kind="user-exists")


def nowhere() -> Iterator[Bad]:
    for method, path in (
        *(("GET", "segments/NOWHERE"), ("DELETE", "segments/NOWHERE"), ("GET", "segments/NOWHERE/users")),
        *(("GET", "users/1000/segments/NOWHERE"), ("GET", "segments/taken"), ("DELETE", "segments/taken")),
        ("GET", "users/1000/segments/TAKEN?at=2020-01-01T00:00:00Z"),
    ):
        yield Bad(f"{method} {path}", method, path, 404, "segment-not-found")
    for slug in ("NOWHERE", "taken"):
        content = {"description": "x"}
        yield body(
            f"PATCH {slug}", "PATCH", f"segments/{slug}", content, status=404, kind="segment-not-found"
        )
    for change in ({"add": ["FREE", "NOWHERE"]}, {"remove": ["NOWHERE"]}, {"add": ["free"]}):
        yield body(
            f"change {change}", "POST", "users/1000/segments", change, status=404, kind="segment-not-found"
        )
    for method in ("GET", "DELETE"):
        yield Bad(f"{method} of an unknown user", method, "users/999", 404, "user-not-found")


BAD: Final = [
    *(row for rows in (slugs, user_ids, percentages, texts, salts, malformed, media_types) for row in rows()),
    *(
        row
        for rows in (addresses, pages, given_twice, terms, changes, moments, conflicts, nowhere)
        for row in rows()
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(postgres_url: str, template_database: str) -> AsyncIterator[str]:
    with new_database(postgres_url, template_database) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    async with served(url, tmp_path_factory.mktemp("data")) as api:
        await api.create("TAKEN", percent=10, salt="22")
        await api.create("OTHER")
        await api.create("FREE")
        await api.add(1000, "TAKEN", "OTHER")
        await api.add(1001, "TAKEN", "OTHER")
        yield api


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cursors(client: Api) -> dict[str, str]:
    """Good cursors of each list, and what becomes of one of them."""
    paths = {"members": "segments/TAKEN/users", "history": "users/1000/history"}
    good = {
        name: (await client.get(paths.get(name, name), params={"limit": 1})).json()["next_cursor"]
        for name in ("segments", "users", "members", "history")
    }
    cursor = good["segments"]
    return good | {
        "cut": cursor[:-1],
        "flipped": ("B" if cursor[0] == "A" else "A") + cursor[1:],
        "last_flipped": cursor[:-1] + ("B" if cursor[-1] == "A" else "A"),
    }


async def send(client: Api, bad: Bad, cursors: dict[str, str]) -> httpx.Response:
    path = bad.path
    for name, cursor in cursors.items():
        path = path.replace(f"{{{name}}}", cursor)
    return await client.request(bad.method, path, content=bad.content, headers=bad.headers)


@pytest.fixture(scope="module")
def stored(url: str) -> Iterator[Callable[[], list[tuple[str, str]]]]:
    """All that is stored now, table by table."""
    rows = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {}, row::text FROM {} AS row").format(table, sql.Identifier(table))
        for table in TABLES
    )
    with psycopg.connect(url, autocommit=True) as connection:
        yield lambda: sorted(connection.execute(rows).fetchall())


def short(name: str) -> str:
    return name if len(name) <= 90 else f"{name[:30]}…({len(name)})…{name[-20:]}"


@pytest.mark.parametrize("bad", [pytest.param(bad, id=short(bad.name)) for bad in BAD])
async def test_a_bad_request_is_a_problem_and_changes_nothing(
    client: Api, stored: Callable[[], list[tuple[str, str]]], cursors: dict[str, str], bad: Bad
) -> None:
    before = stored()

    answer = await send(client, bad, cursors)

    assert answer.status_code == bad.status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == f"/problems/{bad.kind}"
    assert problem["status"] == bad.status
    assert problem["title"]
    assert problem["detail"]
    if bad.kind == "validation":
        assert [error["pointer"] for error in problem["errors"]] == [*bad.pointers]
        assert all(error["detail"] for error in problem["errors"])
    assert not [leak for leak in LEAKS if leak in answer.text]
    assert stored() == before


async def test_the_refusal_of_a_wrong_method_names_the_right_ones(client: Api) -> None:
    answer = await client.delete("lookup")

    assert {"POST", "OPTIONS"} == {method.strip() for method in answer.headers["Allow"].split(",")}


async def test_every_unknown_slug_of_a_change_is_named(client: Api) -> None:
    change = {"add": ["FREE", "Z", {"slug": "B", "ttl_seconds": 5}], "remove": ["TAKEN", "A"]}

    answer = await client.post("users/1000/segments", json=change)

    assert answer.json()["type"] == "/problems/segment-not-found"
    assert sorted(answer.json()["segments"]) == ["A", "B", "Z"]
    assert await client.segments(1000) == ["OTHER", "TAKEN"]


async def test_the_refusal_of_a_body_without_a_media_type_names_the_one_it_needs(client: Api) -> None:
    answer = await client.post("lookup", content=b'{"user_ids": []}')

    assert "Content-Type" not in answer.request.headers
    assert (answer.status_code, answer.headers["Accept"]) == (415, "application/json")
    assert "no Content-Type" in answer.json()["detail"]


async def test_a_change_without_a_body_needs_no_media_type(client: Api) -> None:
    missing = await client.post("segments")
    deleted = await client.delete("users/999")

    assert "Content-Type" not in missing.request.headers
    assert (missing.status_code, missing.json()["type"]) == (400, "/problems/malformed")
    assert deleted.status_code == 404


async def test_an_unknown_content_coding_is_named_with_the_ones_that_are_taken(client: Api) -> None:
    for coding in ("gzip", "snappy"):
        answer = await client.post(
            "lookup", content=b'{"user_ids": []}', headers={**JSON_TYPE, "Content-Encoding": coding}
        )

        assert (answer.status_code, answer.headers["Accept-Encoding"]) == (415, "identity")
        assert coding in answer.json()["detail"]


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
async def test_a_body_that_says_it_has_no_coding_is_taken(client: Api, coding: str) -> None:
    answer = await client.post(
        "lookup", content=b'{"user_ids": []}', headers={**JSON_TYPE, "Content-Encoding": coding}
    )

    assert answer.status_code == 200


async def test_a_byte_order_mark_before_a_body_is_skipped(client: Api) -> None:
    content = codecs.BOM_UTF8 + b'{"user_ids": []}'

    assert (await client.post("lookup", content=content, headers=JSON_TYPE)).status_code == 200
    twice = await client.post("lookup", content=codecs.BOM_UTF8 + content, headers=JSON_TYPE)
    assert twice.status_code == 400


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json; charset=utf-8",
        'APPLICATION/JSON;charset="UTF-8"',
        "application/json;",
        "application/json; charset=utf-8; version=1",
        "application/json;xcharset=latin-1",
    ],
)
async def test_json_is_known_by_every_spelling_of_its_media_type(client: Api, media_type: str) -> None:
    answer = await client.post("lookup", content=b'{"user_ids": []}', headers={"Content-Type": media_type})

    assert answer.status_code == 200


async def test_the_largest_requests_that_are_allowed_are_accepted(client: Api) -> None:
    assert (await client.post("lookup", json={"user_ids": [*range(5000, 6000)]})).status_code == 200
    assert (await client.get("segments?limit=1000")).status_code == 200
    slugs = [f"S{number}" for number in range(1000)]
    answer = await client.post("users/1000/segments", json={"add": slugs[:500], "remove": slugs[500:]})
    assert answer.json()["segments"] == sorted(slugs)  # unknown, but not too many


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        ({"slug": "a b"}, "a slug is 1 to 128 of A-Z a-z 0-9 _ . -, beginning with a letter or a digit"),
        ({"slug": ""}, "must not be empty"),
        ({"slug": "a" * 129}, "must have at most 128 characters"),
        ({"slug": 1}, "must be a string, not an integer"),
        ({"slug": "A", "percent": "10"}, "must be a number or null, not a string"),
        ({"slug": "A", "percent": 101}, "must be at most 100"),
        ({"slug": "A", "percent": -1}, "must be at least 0"),
        ({"slug": "A", "percent": 1.00001}, "a percentage has at most four decimals"),
        ({"slug": "A", "salt": "x"}, "a salt is a signed integer of 64 bits, written as a string of digits"),
        ({"slug": "A", "description": "\0"}, "a text must not contain the character NUL"),
        ({"slug": "A", "description": "\ud800"}, "half a surrogate pair is not text"),
        ({"slug": "A", "colour": "red"}, "there is no such field"),
        ({"percent": 10}, "this field is required"),
    ],
)
async def test_a_bad_value_is_explained_in_words(client: Api, content: object, detail: str) -> None:
    answer = await client.post("segments", content=json.dumps(content), headers=JSON_TYPE)

    [error] = answer.json()["errors"]
    assert error["detail"] == detail


async def test_a_bad_value_of_a_url_is_explained_in_words(client: Api) -> None:
    for path, detail in {
        "segments?limit=x": "must be an integer, in digits alone",
        "segments?limit=0": "must be at least 1",
        "segments?limit=1001": "must be at most 1000",
        "users/abc": "must be an integer, in digits alone",
        "users/1e3": "must be an integer, in digits alone",
        "users/1/segments?detail=x": "must be true or false",
        "users/1/segments?detail=1": "must be true or false",
        "users/1/segments?ids=String": "must be number or string",
        "segments?limit=1&limit=1": "must be given once",
    }.items():
        [error] = (await client.get(path)).json()["errors"]
        assert error["detail"] == detail


async def test_the_refusal_of_a_body_that_is_too_large_names_the_limit(client: Api) -> None:
    answer = await client.post("lookup", content=b" " * (LARGEST_BODY_BYTES + 1), headers=JSON_TYPE)

    assert answer.json()["detail"] == "A body has 1048576 bytes at most."


class Broken(Service):
    """A service with a mistake in it."""

    def __init__(self) -> None:
        """Needs nothing to fail."""

    async def check_ready(self) -> None:
        raise ZeroDivisionError("SELECT secret FROM nowhere")


async def test_a_mistake_of_ours_shows_nothing_of_itself(database_url: str) -> None:
    async with Database(database_url) as own, Api(await open_door(Broken(), own)) as api:
        answer = await api.get("/readyz", headers={"X-Request-Id": "one"})

    assert answer.status_code == 500
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json() == {
        "type": "/problems/internal",
        "title": "Internal error",
        "status": 500,
        "detail": "Something went wrong on our side; the log has the details.",
        "request_id": "one",
    }
