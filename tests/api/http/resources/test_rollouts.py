"""Percentages: who is in, who stays in, and what exclusions and pins do to them."""

from decimal import Decimal

import numpy as np
import pytest

from segmentd.domain.bucketing import buckets, threshold
from tests.support.client import Api, Json
from tests.support.clock import Clock

USERS = range(1, 61)


def covered(percent: str, salt: int) -> list[int]:
    """The users whom a percentage covers."""
    hashes = buckets(np.array(USERS, np.int64), np.full(len(USERS), salt, np.int64))
    return [
        user_id for user_id, bucket in zip(USERS, hashes, strict=True) if bucket < threshold(Decimal(percent))
    ]


async def members(api: Api, slug: str) -> list[int]:
    """Who is in, as the hot read says it."""
    users = (await api.post("lookup", json={"user_ids": [*USERS]})).json()["users"]
    return [user["user_id"] for user in users if slug in user["segments"]]


def answered(events: list[Json]) -> list[tuple[str, str, str]]:
    """What happened, in short."""
    return [(event["operation"], event["source"], event["cause"]) for event in events]


async def test_the_example_of_the_assignment_holds(api: Api) -> None:
    await api.create("AVITO_VOICE_MESSAGES", percent=10, salt="22")

    assert await api.segments(1000) == ["AVITO_VOICE_MESSAGES"]
    assert await api.segments(1002) == await api.segments(1004) == []


@pytest.mark.parametrize("percent", ["0", "0.0001", "12.5", "50", "99.9999", "100"])
async def test_a_percentage_covers_whom_the_buckets_say_known_or_not(api: Api, percent: str) -> None:
    await api.create("A", percent=float(percent), salt="-7")
    for user_id in USERS[::3]:
        await api.post("users", json={"id": user_id})

    assert await members(api, "A") == covered(percent, -7)


async def test_one_salt_is_one_cohort_and_another_salt_another(api: Api) -> None:
    await api.create("A", percent=50, salt="22")
    await api.create("B", percent=50, salt="22")
    await api.create("C", percent=50, salt="23")

    assert await members(api, "A") == await members(api, "B") == covered("50", 22)
    assert await members(api, "C") == covered("50", 23) != covered("50", 22)


async def test_a_growing_percentage_keeps_everybody_and_a_shrinking_one_those_below_it(api: Api) -> None:
    await api.create("A", percent=10, salt="5")
    for percent in (10, 40, 80, 30, 5, 100, 0):
        await api.change_segment("A", percent=percent)

        assert await members(api, "A") == covered(str(percent), 5)
    for smaller, larger in ((5, 10), (10, 30), (30, 40), (40, 80), (80, 100)):
        assert {*covered(str(smaller), 5)} < {*covered(str(larger), 5)}


async def test_the_end_of_a_percentage_takes_out_all_but_the_pinned(api: Api) -> None:
    await api.create("A", percent=100)
    await api.add(7, "A")

    assert (await api.change_segment("A", percent=None))["percent"] is None

    assert await members(api, "A") == [7]


async def test_the_same_percentage_again_changes_nothing(api: Api, clock: Clock) -> None:
    await api.create("A", percent=12.5, salt="22")
    await api.post("users", json={"id": 1000})
    explained = await api.explain(1000, "A")
    clock.advance(seconds=60)

    await api.change_segment("A", percent=12.5)

    assert await api.explain(1000, "A") == explained
    assert answered(await api.history(1000)) == [("add", "rollout", "rollout")]


async def test_removing_someone_whom_the_percentage_covers_excludes_them(api: Api) -> None:
    await api.create("A", percent=100)

    changed = await api.remove(1, "A")

    assert (changed["removed"], changed["segments"]) == (["A"], [])
    assert await api.segments(1) == []
    assert (await api.explain(1, "A"))["because"] == "excluded"


@pytest.mark.parametrize("percent", [0, 0.0001])
async def test_removing_someone_whom_the_percentage_does_not_cover_excludes_them_from_the_next(
    api: Api, percent: float
) -> None:
    await api.create("A", percent=percent, salt="22")

    changed = await api.remove(1000, "A")

    assert (changed["updated"], changed["removed"]) == (["A"], [])
    await api.change_segment("A", percent=100)
    assert await api.segments(1000) == []
    assert (await api.explain(1000, "A"))["because"] == "excluded"
    assert await api.history(1000) == []


async def test_an_exclusion_outlives_the_end_of_the_percentage_and_a_new_one(api: Api) -> None:
    await api.create("A", percent=50)
    await api.remove(1, "A")

    await api.change_segment("A", percent=None)
    assert (await api.explain(1, "A"))["because"] == "excluded"
    assert (await api.remove(1, "A"))["unchanged"] == ["A"]
    await api.change_segment("A", percent=100)

    assert await api.segments(1) == []
    assert (await api.add(1, "A"))["added"] == ["A"]
    assert (await api.explain(1, "A"))["because"] == "explicit"


async def test_without_a_percentage_there_is_nothing_to_be_excluded_from(api: Api) -> None:
    await api.create("A")
    await api.add(1, "A")

    assert (await api.remove(1, "A"))["removed"] == ["A"]
    assert (await api.remove(2, "A"))["unchanged"] == ["A"]

    await api.change_segment("A", percent=100)
    assert await api.segments(1) == await api.segments(2) == ["A"]


async def test_an_exclusion_said_twice_is_the_same_exclusion(api: Api) -> None:
    await api.create("A", percent=100)
    await api.remove(1, "A")

    assert (await api.remove(1, "A"))["unchanged"] == ["A"]
    assert answered(await api.history(1))[1:] == [("remove", "explicit", "request")]


async def test_a_pin_holds_while_the_percentage_shrinks_and_ends(api: Api) -> None:
    await api.create("A", percent=100)
    assert (await api.add(1, "A"))["updated"] == ["A"]

    for percent in (50, 0, None, 100, None):
        await api.change_segment("A", percent=percent)
        assert await api.segments(1) == ["A"]
    assert answered(await api.history(1)) == [("add", "rollout", "rollout")]


async def test_when_a_term_ends_the_percentage_decides_again(api: Api, clock: Clock) -> None:
    await api.create("COVERS", percent=100)
    await api.create("COVERS_NOT", percent=0)
    await api.add(1, {"slug": "COVERS", "ttl_seconds": 60}, {"slug": "COVERS_NOT", "ttl_seconds": 60})
    since = (await api.explain(1, "COVERS"))["since"]

    clock.advance(seconds=60)

    assert await api.segments(1) == ["COVERS"]
    explained = await api.explain(1, "COVERS")
    assert (explained["because"], explained["since"], explained["until"]) == ("rollout", since, None)
    assert (await api.explain(1, "COVERS_NOT"))["because"] == "expired"
    assert [event["cause"] for event in await api.history(1) if event["segment"] == "COVERS"] == ["rollout"]


async def test_the_percentage_that_holds_at_the_end_of_a_term_decides(api: Api, clock: Clock) -> None:
    await api.create("A", percent=100)
    await api.create("B", percent=0)
    await api.add(1, {"slug": "A", "ttl_seconds": 60}, {"slug": "B", "ttl_seconds": 60})

    await api.change_segment("A", percent=0)
    await api.change_segment("B", percent=100)
    clock.advance(seconds=60)

    assert await api.segments(1) == ["B"]
    assert answered([event for event in await api.history(1) if event["segment"] == "A"]) == [
        ("add", "rollout", "rollout"),
        ("remove", "explicit", "expiry"),
    ]
    assert answered([event for event in await api.history(1) if event["segment"] == "B"]) == [
        ("add", "explicit", "request")
    ]


async def test_an_expired_pin_does_not_bring_back_an_earlier_exclusion(api: Api, clock: Clock) -> None:
    await api.create("A", percent=100)
    await api.remove(1, "A")
    await api.add(1, {"slug": "A", "ttl_seconds": 60})

    clock.advance(seconds=61)

    assert await api.segments(1) == ["A"]
    assert (await api.explain(1, "A"))["because"] == "rollout"


async def test_an_exclusion_takes_the_place_of_a_pin_with_its_term(api: Api, clock: Clock) -> None:
    await api.create("A", percent=100)
    await api.add(1, {"slug": "A", "ttl_seconds": 60})

    assert (await api.remove(1, "A"))["removed"] == ["A"]
    clock.advance(seconds=61)

    assert await api.segments(1) == []
    assert (await api.explain(1, "A"))["because"] == "excluded"


async def test_the_history_of_a_percentage_has_each_time_that_the_answer_changed(api: Api) -> None:
    await api.create("A", percent=0)
    await api.post("users", json={"id": 1})
    for percent in (100, 100, 0, None, 0, 100, None):
        await api.change_segment("A", percent=percent)

    events = await api.history(1)

    assert answered(events) == [("add", "rollout", "rollout"), ("remove", "rollout", "rollout")] * 2
    assert {(event["actor"], event["reason"], event["until"]) for event in events} == {
        ("segmentd", None, None)
    }
    assert [event["at"] for event in events] == sorted({event["at"] for event in events})


async def test_a_user_who_comes_under_a_percentage_is_in_from_their_registration_on(api: Api) -> None:
    await api.create("A", percent=100)
    registered_at = (await api.post("users", json={"id": 1})).json()["registered_at"]

    [event] = await api.history(1)
    assert (event["operation"], event["at"], event["source"]) == ("add", registered_at, "rollout")
    assert await api.segments(1, detail="true") == [
        {"slug": "A", "source": "rollout", "since": registered_at, "until": None}
    ]


async def test_a_first_request_that_removes_from_a_percentage_has_the_addition_before_it(api: Api) -> None:
    await api.create("A", percent=100)

    await api.remove(1, "A")

    events = await api.history(1)
    assert answered(events) == [("add", "rollout", "rollout"), ("remove", "explicit", "request")]
    assert events[0]["at"] < events[1]["at"]


async def test_an_unknown_user_has_the_percentages_of_each_time_and_no_history(
    api: Api, clock: Clock
) -> None:
    await api.create("A", percent=100)
    first = clock.now().isoformat()
    await api.change_segment("A", percent=0)
    second = clock.now().isoformat()

    assert await api.segments(1, at=first) == ["A"]
    assert await api.segments(1, at=second) == await api.segments(1) == []
    assert (await api.explain(1, "A", at=first))["because"] == "rollout"
    explained = await api.explain(1, "A")
    assert (explained["because"], explained["member"]) == ("not-in-rollout", False)
    assert await api.history(1) == []


async def test_before_the_registration_a_user_is_unknown(api: Api, clock: Clock) -> None:
    await api.create("A", percent=100)
    await api.create("B")
    before = clock.now().isoformat()
    clock.advance(seconds=60)
    await api.change(1, add=["B"], remove=["A"])

    assert await api.segments(1, at=before) == ["A"]
    assert await api.segments(1) == ["B"]
