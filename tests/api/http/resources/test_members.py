"""Who was in a segment at an instant."""

from datetime import timedelta

import pytest

from segmentd.domain.instants import rfc3339
from tests.support.client import Api
from tests.support.clock import Clock
from tests.support.doing import MICROSECOND
from tests.support.office import problem


async def members(api: Api, slug: str, at: str | None = None) -> list[int]:
    """All pages together."""
    return await api.walk(f"segments/{slug}/users", "user_ids", limit=2, **({} if at is None else {"at": at}))


def instant(clock: Clock) -> str:
    """Now; what follows is later."""
    at = rfc3339(clock.now())
    clock.advance(seconds=1)
    return at


@pytest.mark.parametrize("percent", [None, 0, 50, 100])
async def test_the_members_at_an_instant_are_those_who_were_in_then_whatever_happened_since(
    api: Api, clock: Clock, percent: int | None
) -> None:
    await api.create("A", percent=percent, salt="22")
    for user_id in range(1, 9):
        await api.post("users", json={"id": user_id})
    await api.add(1, "A")
    await api.add(2, {"slug": "A", "ttl_seconds": 60})
    await api.remove(3, "A")
    then = instant(clock)
    expected = await members(api, "A")

    clock.advance(seconds=60)  # the term of 2 ends
    await api.remove(1, "A")
    await api.add(3, "A")
    await api.add(4, "A")
    await api.delete("users/5")
    await api.post("users", json={"id": 9})
    await api.change_segment("A", percent=None if percent else 100)
    await api.change_segment("A", slug="B")

    assert await members(api, "B", then) == expected
    assert expected == [user for user in range(1, 9) if "B" in await api.segments(user, at=then)]
    assert {1, 2} <= {*expected}
    assert 3 not in expected


async def test_users_are_listed_within_their_lives_alone(api: Api, clock: Clock) -> None:
    await api.create("A", percent=100)
    before = instant(clock)
    await api.post("users", json={"id": 1})
    within = instant(clock)
    await api.delete("users/1")
    between = instant(clock)
    await api.add(1, "A")
    again = instant(clock)

    assert [await members(api, "A", at) for at in (before, within, between, again)] == [[], [1], [], [1]]
    assert await api.segments(1, at=between) == ["A"]  # as for every unknown id


async def test_a_term_ends_in_the_past_at_its_very_instant(api: Api, clock: Clock) -> None:
    await api.create("A")
    until = clock.now() + timedelta(seconds=60)
    await api.add(1, {"slug": "A", "until": rfc3339(until)})
    clock.advance(seconds=90)

    for settled in (False, True):
        assert await members(api, "A", rfc3339(until - MICROSECOND)) == [1]
        assert await members(api, "A", rfc3339(until)) == []
        if not settled:
            await api.add(1, "A")  # which writes down first that the term ended
    assert await members(api, "A") == [1]


async def test_a_deleted_segment_has_its_members_in_the_past_until_another_takes_the_slug_there(
    api: Api, clock: Clock
) -> None:
    await api.create("A")
    await api.add(1, "A")
    lived = instant(clock)
    await api.delete("segments/A")
    gone = instant(clock)
    await api.create("A")
    await api.add(2, "A")

    assert await members(api, "A", lived) == [1]
    assert await members(api, "A", instant(clock)) == [2]
    answer = await api.get("segments/A/users", params={"at": gone})
    assert problem(answer) == (404, "segment-not-found")


async def test_a_time_in_the_future_or_without_an_offset_is_refused(api: Api, clock: Clock) -> None:
    await api.create("A")
    ahead = rfc3339(clock.now() + timedelta(minutes=1))

    for at in (ahead, "2026-11-20T10:15:30"):
        answer = await api.get("segments/A/users", params={"at": at})
        assert problem(answer) == (422, "validation")
        assert [fault["pointer"] for fault in answer.json()["errors"]] == ["/at"]


async def test_a_cursor_continues_only_the_list_of_its_own_instant(api: Api, clock: Clock) -> None:
    await api.create("A", percent=100)
    for user_id in (1, 2, 3):
        await api.post("users", json={"id": user_id})
    one, other = instant(clock), instant(clock)
    first = (await api.get("segments/A/users", params={"at": one, "limit": 1})).json()
    cursor = first["next_cursor"]

    # The same instant, however it is written.
    same = one.replace("Z", "+00:00")
    assert (await api.get("segments/A/users", params={"at": same, "cursor": cursor})).json()["user_ids"] == [
        2,
        3,
    ]
    for query in ({"at": other}, {}):
        answer = await api.get("segments/A/users", params={**query, "cursor": cursor})
        assert [fault["pointer"] for fault in answer.json()["errors"]] == ["/cursor"]


async def test_changes_between_two_pages_disturb_no_list_of_the_past(api: Api, clock: Clock) -> None:
    await api.create("A", percent=50, salt="22")
    for user_id in (20, 40, 60, 80):
        await api.add(user_id, "A")
    at = instant(clock)
    first = (await api.get("segments/A/users", params={"at": at, "limit": 2})).json()

    await api.remove(40, "A")
    await api.delete("users/60")
    await api.remove(80, "A")
    await api.add(50, "A")
    await api.change_segment("A", percent=None)

    query = {"at": at, "cursor": first["next_cursor"]}
    rest = (await api.get("segments/A/users", params=query)).json()
    assert first["user_ids"] + rest["user_ids"] == [20, 40, 60, 80]
    assert rest["next_cursor"] is None
