"""GET /changes: pages of the feed, and waiting for what comes."""

import asyncio
from typing import Final

import pytest

from tests.support.client import Api, Json

KEYS: Final = {
    "membership": {
        *("position", "kind", "user_id", "segment", "operation", "at", "cause", "actor", "on_behalf_of"),
        *("reason", "until"),
    },
    "segment": {
        *("position", "kind", "segment", "operation", "at", "actor", "percent_before", "percent_after"),
        "slug_before",
    },
}


async def follow(api: Api, after: str = "begin", **query: str) -> Json:
    answer = await api.get("changes", params={"after": after, **query})
    assert answer.status_code == 200, answer.text
    return answer.json()


def bare(page: Json) -> list[Json]:
    """Its changes without their positions, which name the window that they were read in."""
    return [{**change, "position": ""} for change in page["changes"]]


async def test_the_feed_says_what_happened_in_its_order(api: Api) -> None:
    await api.create("A", percent=10)
    await api.change(7, add=[{"slug": "A", "until": "2040-01-01T00:00:00Z"}], reason="ticket")
    await api.change_segment("A", slug="B", percent=12.5)
    await api.remove(7, "B")
    await api.delete("segments/B")

    page = await follow(api)

    told = [
        (each["kind"], each["operation"], each["segment"], each.get("user_id")) for each in page["changes"]
    ]
    assert told == [
        ("segment", "created", "A", None),
        ("membership", "add", "A", 7),
        ("segment", "renamed", "B", None),
        ("segment", "percent", "B", None),
        ("membership", "remove", "B", 7),
        ("segment", "deleted", "B", None),
    ]
    for each in page["changes"]:
        assert each.keys() == KEYS[each["kind"]]
    created, added, renamed, percent, _, deleted = page["changes"]
    assert (created["percent_before"], created["percent_after"], created["slug_before"]) == (None, 10, None)
    assert (added["until"], added["reason"], added["cause"], added["actor"]) == (
        *("2040-01-01T00:00:00.000000Z", "ticket", "request"),
        "anonymous",
    )
    assert (renamed["slug_before"], renamed["percent_after"]) == ("A", None)
    assert (percent["percent_before"], percent["percent_after"]) == (10, 12.5)
    assert (deleted["percent_before"], deleted["percent_after"]) == (12.5, None)
    assert (await follow(api, page["next"]))["changes"] == []
    # Each change's own position goes on after it.
    for place, each in enumerate(page["changes"], 1):
        assert bare(await follow(api, each["position"])) == bare(page)[place:]


async def test_pages_of_any_size_are_the_same_feed(api: Api) -> None:
    await api.create("A")
    for user_id in range(1, 8):
        await api.add(user_id, "A")
    whole = await follow(api)
    for limit in ("1", "3", "8"):
        page, came = await follow(api, limit=limit), []
        while page["changes"]:
            assert len(page["changes"]) <= int(limit)
            came += page["changes"]
            page = await follow(api, page["next"], limit=limit)
        assert bare({"changes": came}) == bare(whole)


async def test_changes_of_one_segment_or_user(api: Api) -> None:
    for slug in ("A", "B"):
        await api.create(slug)
    await api.add(1, "A", "B")
    await api.add(2, "A", "B")
    await api.change_segment("B", slug="C")

    of_a = (await follow(api, segment="A"))["changes"]
    of_c = (await follow(api, segment="C"))["changes"]
    of_user = (await follow(api, user_id="2"))["changes"]

    assert [(each["operation"], each.get("user_id")) for each in of_a] == [
        ("created", None),
        ("add", 1),
        ("add", 2),
    ]
    assert [(each["operation"], each["slug_before"]) for each in of_c] == [("renamed", "B")]
    assert [each["segment"] for each in of_user if each["kind"] == "membership"] == ["A", "B"]
    assert [each["operation"] for each in of_user if each["kind"] == "segment"] == ["created"] * 2 + [
        "renamed"
    ]
    first = await follow(api, segment="A", limit="1")
    assert (await follow(api, first["next"], segment="A"))["changes"][0]["user_id"] == 1


async def test_an_empty_answer_waits_until_there_is_something_that_is_wanted(api: Api) -> None:
    await api.create("A")
    now = (await follow(api, "now"))["next"]
    waiting = [asyncio.create_task(follow(api, now, wait="60", user_id="2")) for _ in range(3)]
    await asyncio.sleep(0)
    await api.add(1, "A")
    await api.add(2, "A")

    pages = await asyncio.wait_for(asyncio.gather(*waiting), 30)

    for page in pages:
        assert [each["user_id"] for each in page["changes"]] == [2]
    assert (await follow(api, pages[0]["next"]))["changes"] == []


async def test_a_request_that_does_not_wait_has_all_that_was_committed_before_it(api: Api) -> None:
    await api.create("A")
    after = (await follow(api, "now"))["next"]
    # One who waits, so that the others share what is found.
    waiting = asyncio.create_task(follow(api, after, wait="60", segment="B"))
    for user_id in range(1, 20):
        await api.add(user_id, "A")
        page = await follow(api, after)
        assert [each["user_id"] for each in page["changes"]] == [user_id]
        after = page["next"]
    await api.create("B")
    assert (await waiting)["changes"][0]["operation"] == "created"


@pytest.mark.parametrize(
    "query",
    [
        *({"after": "x"}, {"after": ""}, {"limit": "0"}, {"limit": "1001"}, {"wait": "61"}, {"wait": "-1"}),
        *({"segment": "a b"}, {"user_id": "0"}, {"wait": "1.5"}),
    ],
    ids=str,
)
async def test_bad_values_are_refused(api: Api, query: dict[str, str]) -> None:
    answer = await api.get("changes", params=query)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"/{next(iter(query))}"
