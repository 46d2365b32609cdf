"""Ids as strings, for languages whose numbers end at 2^53."""

from collections.abc import Iterator
from typing import Final

import pytest

from segmentd.domain.identifiers import INT64_MAX
from tests.support.client import Api, Json

LARGE: Final = 2**53 + 1


def ids_in(answer: Json) -> Iterator[Json]:
    """Every value that is the id of a user, however deep."""
    if isinstance(answer, dict):
        for name, value in answer.items():
            if name in {"id", "user_id"}:
                yield value
            elif name == "user_ids":
                yield from value
            else:
                yield from ids_in(value)
    elif isinstance(answer, list):
        for item in answer:
            yield from ids_in(item)


@pytest.fixture
async def peopled(api: Api) -> Api:
    """A service that knows a large id."""
    await api.create("A")
    await api.add(LARGE, "A")
    return api


READS: Final = (
    "users",
    f"users/{LARGE}",
    f"users/{LARGE}/segments",
    f"users/{LARGE}/segments?detail=true",
    f"users/{LARGE}/segments/A",
    f"users/{LARGE}/history",
    "segments/A/users",
    "users/9007199254740994",
)


@pytest.mark.parametrize("path", READS)
async def test_every_answer_has_its_ids_as_they_are_asked_for(peopled: Api, path: str) -> None:
    plain = (await peopled.get(path)).json()
    mark = "&" if "?" in path else "?"

    assert {type(user_id) for user_id in ids_in(plain)} == {int}
    assert (await peopled.get(f"{path}{mark}ids=number")).json().keys() == plain.keys()
    written = (await peopled.get(f"{path}{mark}ids=string")).json()
    assert written.keys() == plain.keys()
    assert [*ids_in(written)] == [str(user_id) for user_id in ids_in(plain)]


async def test_bodies_take_ids_as_strings_where_that_is_asked_for(peopled: Api) -> None:
    lookup = await peopled.post("lookup?ids=string", json={"user_ids": [str(LARGE), 7, str(INT64_MAX)]})
    registered = await peopled.post("users?ids=string", json={"id": str(INT64_MAX)})
    again = await peopled.post("users?ids=string", json={"id": INT64_MAX})
    given = await peopled.post("users?ids=string", json={})
    changed = await peopled.post(f"users/{LARGE}/segments?ids=string", json={"remove": ["A"]})
    report = await peopled.post("reports?ids=string", json={"month": "2026-11", "user_id": str(LARGE)})
    unknown = await peopled.post("reports?ids=string", json={"month": "2026-11", "user_id": "5"})

    assert lookup.json()["users"] == [
        {"user_id": str(LARGE), "segments": ["A"]},
        {"user_id": "7", "segments": []},
        {"user_id": str(INT64_MAX), "segments": []},
    ]
    assert (registered.status_code, registered.json()["id"]) == (201, str(INT64_MAX))
    assert (again.status_code, again.json()["user_id"]) == (409, str(INT64_MAX))
    assert isinstance(given.json()["id"], str)
    assert given.headers["Location"] == f"/api/v1/users/{given.json()['id']}"
    assert (changed.json()["user_id"], changed.json()["removed"]) == (str(LARGE), ["A"])
    assert report.status_code == 202
    assert (unknown.status_code, unknown.json()["user_id"]) == (404, "5")


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        *((f"lookup{query}", {"user_ids": [1, "2"]}, "/user_ids/1") for query in ("", "?ids=number")),
        ("users", {"id": "1"}, "/id"),
        ("reports", {"month": "2026-11", "user_id": "1"}, "/user_id"),
        *(
            ("lookup?ids=string", {"user_ids": [user_id]}, "/user_ids/0")
            for user_id in (
                "0",
                "01",
                "-1",
                "+1",
                "1e3",
                "1.0",
                " 1",
                "1 ",
                "1\n",
                "",
                "1_0",
                "٣",
                "9" * 19,
                "9" * 99,
            )
        ),
        *(("users?ids=string", {"id": user_id}, "/id") for user_id in (str(2**63), "x", 2**63, 1.5, 0, True)),
        *(("users?ids=" + ids, {"id": 1}, "/ids") for ids in ("", "text", "String", "1", "string%20")),
    ],
)
async def test_an_id_that_is_none_is_refused(api: Api, path: str, body: Json, pointer: str) -> None:
    answer = await api.post(path, json=body)

    assert answer.status_code == 422, answer.text
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]
    assert (await api.get("users")).json()["users"] == []


async def test_the_document_warns_of_large_ids(api: Api) -> None:
    document = (await api.get("/openapi.json")).json()

    for path, method in (
        *(("/api/v1/users", "get"), ("/api/v1/users", "post"), ("/api/v1/users/{user_id}", "get")),
        *(("/api/v1/lookup", "post"), ("/api/v1/segments/{slug}/users", "get"), ("/api/v1/reports", "post")),
        *(
            (f"/api/v1/users/{{user_id}}/{rest}", "get")
            for rest in ("segments", "segments/{slug}", "history")
        ),
        ("/api/v1/users/{user_id}/segments", "post"),
    ):
        parameters = document["paths"][path][method]["parameters"]
        [ids] = [parameter for parameter in parameters if parameter["name"] == "ids"]
        assert "2^53" in ids["description"]
    assert "2^53" in str(document["components"]["schemas"]["UserBody"])
