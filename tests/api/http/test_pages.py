import pytest

from segmentd.storage import members
from tests.support.client import Api, Json
from tests.support.clock import Clock


async def page(api: Api, path: str, **query: Json) -> Json:
    answer = await api.get(path, params={name: value for name, value in query.items() if value is not None})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 7, 1000])
async def test_every_list_is_walked_once_and_in_order_whatever_the_limit(api: Api, limit: int) -> None:
    slugs = [f"S{number}" for number in range(6)]
    for slug in slugs:
        await api.create(slug)
    for user_id in range(1, 7):
        await api.add(user_id, "S0")
    await api.add(1, *slugs[1:])

    assert [segment["slug"] for segment in await api.walk("segments", "segments", limit)] == slugs
    assert [user["id"] for user in await api.walk("users", "users", limit)] == [*range(1, 7)]
    assert await api.walk("segments/S0/users", "user_ids", limit) == [*range(1, 7)]
    # Five of these events have one and the same time.
    assert [event["segment"] for event in await api.walk("users/1/history", "events", limit)] == slugs


async def test_a_page_has_one_hundred_rows_unless_asked_otherwise(api: Api) -> None:
    for user_id in range(1, 103):
        await api.post("users", json={"id": user_id})

    first = await page(api, "users")

    assert [user["id"] for user in first["users"]] == [*range(1, 101)]
    assert [user["id"] for user in (await page(api, "users", cursor=first["next_cursor"]))["users"]] == [
        101,
        102,
    ]


async def test_empty_lists_are_one_page(api: Api) -> None:
    await api.create("A")
    for path, key in (("users", "users"), ("segments/A/users", "user_ids"), ("users/1/history", "events")):
        answer = await page(api, path)
        assert (answer[key], answer["next_cursor"]) == ([], None)


async def test_segments_that_come_and_go_disturb_no_page(api: Api) -> None:
    for slug in ("B", "D", "F", "H"):
        await api.create(slug)
    first = await page(api, "segments", limit=2)

    await api.delete("segments/D")  # where the page ended
    await api.create("A")  # before it
    await api.create("E")  # after it
    await api.change_segment("H", slug="G")

    rest = await page(api, "segments", limit=10, cursor=first["next_cursor"])
    assert [segment["slug"] for segment in first["segments"] + rest["segments"]] == ["B", "D", "E", "F", "G"]
    assert rest["next_cursor"] is None


async def test_users_that_come_and_go_disturb_no_page(api: Api) -> None:
    for user_id in (20, 40, 60, 80):
        await api.post("users", json={"id": user_id})
    first = await page(api, "users", limit=2)

    await api.delete("users/40")
    await api.delete("users/80")
    for user_id in (10, 50):
        await api.post("users", json={"id": user_id})

    rest = await page(api, "users", limit=10, cursor=first["next_cursor"])
    assert [user["id"] for user in first["users"] + rest["users"]] == [20, 40, 50, 60]


@pytest.mark.parametrize("percent", [None, 0, 100])
async def test_members_that_come_and_go_disturb_no_page(api: Api, percent: int | None) -> None:
    await api.create("A", percent=percent)
    for user_id in (20, 40, 60, 80):
        await api.add(user_id, "A")
    first = await page(api, "segments/A/users", limit=2)

    await api.remove(40, "A")
    await api.remove(60, "A")
    for user_id in (10, 50):
        await api.add(user_id, "A")

    rest = await page(api, "segments/A/users", limit=10, cursor=first["next_cursor"])
    assert first["user_ids"] + rest["user_ids"] == [20, 40, 50, 80]


async def test_a_walk_through_the_members_goes_on_when_the_percentage_begins_or_ends(api: Api) -> None:
    await api.create("A")
    for user_id in (20, 40, 60):
        await api.add(user_id, "A")
    await api.post("users", json={"id": 50})

    first = await page(api, "segments/A/users", limit=1)
    await api.change_segment("A", percent=100)
    second = await page(api, "segments/A/users", limit=2, cursor=first["next_cursor"])
    await api.change_segment("A", percent=None)
    third = await page(api, "segments/A/users", limit=2, cursor=second["next_cursor"])

    assert [first["user_ids"], second["user_ids"], third["user_ids"]] == [[20], [40, 50], [60]]


async def test_new_events_disturb_no_page_of_the_history(api: Api) -> None:
    await api.create("A")
    await api.create("B")
    await api.add(1, "A", "B")
    await api.remove(1, "A")
    first = await page(api, "users/1/history", limit=2)

    await api.remove(1, "B")
    await api.add(1, "A")

    rest = await page(api, "users/1/history", limit=10, cursor=first["next_cursor"])
    answered = [(event["segment"], event["operation"]) for event in first["events"] + rest["events"]]
    assert answered == [("A", "add"), ("B", "add"), ("A", "remove"), ("B", "remove"), ("A", "add")]


async def test_a_history_is_walked_through_what_is_due_and_not_yet_written(api: Api, clock: Clock) -> None:
    for slug in ("A", "B", "C"):
        await api.create(slug)
    await api.add(1, *({"slug": slug, "ttl_seconds": 60} for slug in ("A", "B", "C")))
    clock.advance(seconds=60)

    events = await api.walk("users/1/history", "events", 2)

    assert [(event["segment"], event["operation"]) for event in events] == [
        (slug, operation) for operation in ("add", "remove") for slug in ("A", "B", "C")
    ]


async def test_a_walk_over_few_members_among_many_users_may_have_short_and_empty_pages(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "MOST_SCANNED", 3)
    await api.create("PINS", percent=0)
    await api.create("BUCKETS", percent=10, salt="22")  # 1000 is in, 1002 and 1004 are not
    for user_id in (1, 2, 3, 4, 5, 6, 1000, 1002, 1004):
        await api.post("users", json={"id": user_id})
        await api.remove(user_id, "PINS")
    await api.add(1000, "PINS")

    for slug in ("PINS", "BUCKETS"):
        pages: list[list[int]] = []
        cursor = None
        while len(pages) < 9:
            answer = await page(api, f"segments/{slug}/users", limit=5, cursor=cursor)
            pages.append(answer["user_ids"])
            if (cursor := answer["next_cursor"]) is None:
                break
        walked = [user_id for user_ids in pages for user_id in user_ids]
        assert walked == [
            user_id for user_id in (1, 2, 3, 4, 5, 6, 1000, 1002, 1004) if slug in await api.segments(user_id)
        ]
        assert 1000 in walked
        assert 3 <= len(pages) <= 4


async def test_a_segment_deleted_between_two_pages_ends_the_walk_with_a_404(api: Api) -> None:
    await api.create("A", percent=100)
    for user_id in (1, 2):
        await api.post("users", json={"id": user_id})
    first = await page(api, "segments/A/users", limit=1)
    await api.delete("segments/A")

    answer = await api.get("segments/A/users", params={"cursor": first["next_cursor"]})

    assert answer.status_code == 404


async def test_cursors_need_no_escaping_in_a_url(api: Api) -> None:
    for number in range(40):
        await api.create(f"S{number:02}")
    cursor = None
    for _ in range(39):
        answer = await page(api, "segments", limit=1, cursor=cursor)
        cursor = answer["next_cursor"]
        assert cursor.replace("-", "").replace("_", "").isalnum()
