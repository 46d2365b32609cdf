"""GET /segments/{slug}/export."""

import gzip
import json
from datetime import datetime
from typing import Final

import httpx
import pytest

from segmentd.config import Settings
from segmentd.domain.instants import read_instant
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.support.client import Api, Json
from tests.support.clock import Clock
from tests.support.door import open_door
from tests.support.importing import CSV, NDJSON, Importing

LARGE: Final = 2**63 - 1


@pytest.fixture
async def peopled(api: Api) -> Api:
    """A list of three users, one of them for an hour, and a percentage that covers those and one more."""
    await api.create("LIST")
    await api.create("SHARE", percent=100)
    await api.add(3, {"slug": "LIST", "until": "2099-01-01T00:00:00Z"})
    await api.add(LARGE, "LIST")
    await api.add(1, "LIST", "SHARE")
    await api.change(1, remove=["SHARE"])
    await api.change(2, add=["SHARE"])
    await api.change(3, remove=["SHARE"])
    return api


def lines(answer: httpx.Response) -> list[list[str]]:
    """The fields of each line of a CSV."""
    assert answer.status_code == 200, answer.text
    assert answer.text == "" or answer.text.endswith("\n")
    return [line.split(";") for line in answer.text.splitlines()]


async def test_the_members_are_lines_of_csv_by_user_id(peopled: Api) -> None:
    answer = await peopled.get("segments/LIST/export")

    since = {user: (await peopled.segments(user, detail="true"))[0]["since"] for user in (1, 3, LARGE)}
    assert lines(answer) == [
        ["1", "explicit", since[1], ""],
        ["3", "explicit", since[3], "2099-01-01T00:00:00.000000Z"],
        [str(LARGE), "explicit", since[LARGE], ""],
    ]
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert "Content-Length" not in answer.headers


async def test_members_by_percentage_are_exported_and_the_excluded_are_not(peopled: Api) -> None:
    found = lines(await peopled.get("segments/SHARE/export"))

    assert [line[:2] for line in found] == [["2", "explicit"], [str(LARGE), "rollout"]]


async def test_the_columns_have_names_where_that_is_asked_for(peopled: Api) -> None:
    header = ["user_id", "source", "since", "until"]
    plain = lines(await peopled.get("segments/LIST/export"))
    await peopled.create("EMPTY")

    assert lines(await peopled.get("segments/LIST/export?header=true")) == [header, *plain]
    assert lines(await peopled.get("segments/EMPTY/export?header=true")) == [header]
    assert lines(await peopled.get("segments/EMPTY/export?header=false")) == []


@pytest.mark.parametrize(("ids", "written"), [("number", int), ("string", str)])
async def test_ndjson_has_an_object_for_each_member(peopled: Api, ids: str, written: type) -> None:
    answer = await peopled.get(f"segments/LIST/export?format=ndjson&ids={ids}")

    members = [json.loads(line) for line in answer.text.splitlines()]
    plain = lines(await peopled.get("segments/LIST/export?format=csv"))
    assert members == [
        {"user_id": written(user), "source": source, "since": since, "until": until or None}
        for user, source, since, until in plain
    ]
    assert answer.headers["Content-Type"] == "application/x-ndjson"


@pytest.mark.parametrize("format_", ["csv", "ndjson"])
async def test_an_export_is_a_file_whose_name_has_its_instant(
    peopled: Api, clock: Clock, format_: str
) -> None:
    before = clock.now()
    answer = await peopled.get(f"segments/LIST/export?format={format_}")
    then = await peopled.get("segments/LIST/export", params={"format": format_, "at": before.isoformat()})

    assert before <= instant_in_name(answer, format_) <= clock.now()
    assert instant_in_name(then, format_) == before


def instant_in_name(answer: httpx.Response, format_: str) -> datetime:
    head, tail = 'attachment; filename="LIST-', f'.{format_}"'
    name = answer.headers["Content-Disposition"]
    assert name.startswith(head)
    assert name.endswith(tail)
    return read_instant(name.removeprefix(head).removesuffix(tail).replace(".", ":", 2))


async def test_an_export_of_the_past_has_who_was_in_then(peopled: Api, clock: Clock) -> None:
    now = await peopled.get("segments/LIST/export")
    shared = await peopled.get("segments/SHARE/export")
    then = {"at": clock.now().isoformat()}
    clock.advance(seconds=60)
    await peopled.change(1, remove=["LIST"])
    await peopled.delete("users/3")
    await peopled.add(4, "LIST")
    await peopled.change_segment("SHARE", percent=None)
    await peopled.delete("segments/LIST")

    assert (await peopled.get("segments/LIST/export", params=then)).text == now.text
    assert (await peopled.get("segments/SHARE/export", params=then)).text == shared.text
    assert (await peopled.get("segments/LIST/export")).status_code == 404
    assert [line[0] for line in lines(await peopled.get("segments/SHARE/export"))] == ["2"]


@pytest.mark.parametrize(
    ("path", "status", "pointer"),
    [
        ("NOWHERE/export", 404, None),
        ("NOWHERE/export?at=2020-01-01T00:00:00Z", 404, None),
        ("LIST/export?at=2020-01-01T00:00:00Z", 404, None),
        ("LIST/export?at=2999-01-01T00:00:00Z", 422, "/at"),
        ("NOWHERE/export?at=2999-01-01T00:00:00Z", 422, "/at"),
        ("LIST/export?at=now", 422, "/at"),
        ("LIST/export?format=xml", 422, "/format"),
        ("LIST/export?format=CSV", 422, "/format"),
        ("LIST/export?format=csv&format=csv", 422, "/format"),
        ("LIST/export?header=yes", 422, "/header"),
        ("LIST/export?format=ndjson&header=true", 422, "/header"),
        ("LIST/export?ids=text", 422, "/ids"),
        ("a b/export", 422, "/slug"),
    ],
)
async def test_a_bad_request_is_a_problem_and_no_file(
    peopled: Api, path: str, status: int, pointer: str | None
) -> None:
    answer = await peopled.get(f"segments/{path}")

    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "Content-Disposition" not in answer.headers
    if pointer:
        assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


async def test_an_export_is_compressed_for_those_who_take_gzip(peopled: Api) -> None:
    async def raw(accepted: str) -> tuple[httpx.Response, bytes]:
        request = peopled.build_request("GET", "segments/LIST/export", headers={"Accept-Encoding": accepted})
        answer = await peopled.send(request, stream=True)
        return answer, b"".join([piece async for piece in answer.aiter_raw()])

    plain, content = await raw("identity")
    packed, compressed = await raw("gzip")

    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"
    assert gzip.decompress(compressed) == content


@pytest.mark.parametrize(("format_", "media_type"), [("csv", CSV), ("ndjson", NDJSON)])
async def test_what_is_exported_and_imported_elsewhere_gives_the_same_explicit_members(
    peopled: Api, database: Database, format_: str, media_type: str
) -> None:
    await peopled.create("COPY")
    query = {"format": format_, **({"header": "true"} if format_ == "csv" else {})}
    exported = await peopled.get("segments/LIST/export", params=query)

    done = await Importing(peopled, database).bring(exported.content, media_type, segment="COPY")

    copy = lines(await peopled.get("segments/COPY/export"))
    original = lines(await peopled.get("segments/LIST/export"))
    assert (done["status"], done["added"], done["invalid_rows"]) == ("done", len(original), 0)
    assert [(user, source, until) for user, source, _, until in copy] == [
        (user, source, until) for user, source, _, until in original
    ]


async def test_a_head_has_the_headers_of_the_export(peopled: Api) -> None:
    answer = await peopled.head("segments/LIST/export")

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"


async def test_without_its_database_an_export_is_refused(database_url: str, tmp_path: Json) -> None:
    closed = Database(database_url)
    async with closed:
        door = await open_door(service(closed, Settings(data_dir=str(tmp_path))), closed)
    async with Api(door) as api:
        answer = await api.get("segments/LIST/export")

    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
