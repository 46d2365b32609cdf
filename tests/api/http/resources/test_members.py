"""Who was in a segment at an instant; how many are in it, and whom another percentage would move."""

import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from segmentd.domain.instants import rfc3339
from segmentd.storage import members as storage
from segmentd.storage.members import FEW
from tests.support.client import Api, Json
from tests.support.clock import Clock
from tests.support.office import problem
from tests.support.world import MICROSECOND


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


# How many


async def counts(api: Api, slug: str, **query: str) -> Json:
    answer = await api.get(f"segments/{slug}/counts", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def preview(api: Api, slug: str, percent: float | None, **query: str) -> Json:
    answer = await api.post(f"segments/{slug}/preview", json={"percent": percent}, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_counts_are_of_the_users_whom_the_service_knows(api: Api, clock: Clock) -> None:
    await api.create("A", percent=10, salt="22")  # covers 1000 and none of the others
    for user_id in (1000, 1001, 1002, 1003, 1004, 1005, 1007):
        await api.post("users", json={"id": user_id})
    await api.add(1001, "A")
    await api.add(1002, {"slug": "A", "ttl_seconds": 60})
    await api.add(1003, {"slug": "A", "ttl_seconds": 10})
    await api.add(1007, "A")
    await api.remove(1004, "A")
    await api.remove(1000, "A")
    await api.delete("users/1005")
    clock.advance(seconds=10)  # one term ended, and nobody has written it down

    answered = await counts(api, "A")

    assert answered == {
        "slug": "A",
        "at": answered["at"],
        "registered": 6,
        "members": 3,
        "explicit": 3,
        "excluded": 2,
        "covered": 1,
    }
    assert answered["members"] == len(await members(api, "A"))
    assert len(answered["at"]) == len("2026-11-20T10:15:30.123456Z")


async def test_a_segment_that_nobody_is_in_counts_nobody(api: Api) -> None:
    await api.create("A")
    answered = await counts(api, "A")
    assert [answered[name] for name in ("registered", "members", "explicit", "excluded", "covered")] == [
        0
    ] * 5


async def test_counts_of_the_past_are_those_of_that_time(api: Api, clock: Clock) -> None:
    await api.create("A", percent=50, salt="22")
    for user_id in range(1, 9):
        await api.post("users", json={"id": user_id})
    await api.add(1, "A")
    await api.remove(2, "A")
    await api.add(3, {"slug": "A", "ttl_seconds": 60})
    then = instant(clock)
    before = await counts(api, "A")

    clock.advance(seconds=60)
    await api.remove(1, "A")
    await api.delete("users/2")
    await api.change_segment("A", percent=None)
    await api.delete("segments/A")

    assert await counts(api, "A", at=then) == before | {"at": then}


@pytest.mark.parametrize("call", ["counts", "preview", "users"])
async def test_a_segment_that_does_not_live_is_not_found(api: Api, call: str) -> None:
    await api.create("A")
    await api.delete("segments/A")
    for slug in ("A", "B"):
        path = f"segments/{slug}/{call}"
        answer = await (api.post(path, json={"percent": 1}) if call == "preview" else api.get(path))
        assert problem(answer) == (404, "segment-not-found")
        assert answer.json()["segments"] == [slug]


async def test_counts_of_a_time_in_the_future_are_refused(api: Api, clock: Clock) -> None:
    await api.create("A")
    answer = await api.get("segments/A/counts", params={"at": rfc3339(clock.now() + timedelta(minutes=1))})
    assert problem(answer) == (422, "validation")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/percent"),
        ({"percent": 101}, "/percent"),
        ({"percent": -1}, "/percent"),
        ({"percent": 10.00001}, "/percent"),
        ({"percent": "10"}, "/percent"),
        ({"percent": 10, "slug": "B"}, "/slug"),
    ],
)
async def test_a_preview_refuses_what_a_change_refuses(api: Api, body: Json, pointer: str) -> None:
    await api.create("A")
    answer = await api.post("segments/A/preview", json=body)
    assert problem(answer) == (422, "validation")
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


async def test_a_preview_changes_nothing(api: Api) -> None:
    segment = await api.create("A", percent=10)
    await api.post("users", json={"id": 1})

    await preview(api, "A", 100)

    assert (await api.get("segments/A")).json() == segment
    assert await members(api, "A") == await members(api, "A")
    entries = (await api.get("audit")).json()["entries"]
    assert [entry["operation"] for entry in entries] == ["segment-created"]


async def test_ids_of_a_sample_are_strings_where_strings_are_asked_for(api: Api) -> None:
    await api.create("A")
    await api.post("users", json={"id": 2**63 - 1})
    assert (await preview(api, "A", 100, ids="string"))["sample_enter"] == [str(2**63 - 1)]
    assert (await preview(api, "A", 100))["sample_enter"] == [2**63 - 1]


@dataclass
class Crowd:
    """Users of one segment: pinned for good, pinned with a term, excluded, and deleted."""

    api: Api
    clock: Clock
    chance: random.Random
    living: set[int] = field(default_factory=set)
    excluded: set[int] = field(default_factory=set)
    pinned: dict[int, datetime | None] = field(default_factory=dict)

    async def stir(self, changes: int, *, has_percentage: bool) -> None:
        """Changes some users, and lets some terms end."""
        for _ in range(changes):
            user = self.chance.randint(1, 90)
            match self.chance.choice(["register", "pin", "pin for a while", "exclude", "delete"]):
                case "register":
                    await self.api.post("users", json={"id": user})
                    self.living.add(user)
                case "delete":
                    await self.api.delete(f"users/{user}")
                    self._forget(user)
                    self.living.discard(user)
                case "exclude":
                    await self.api.remove(user, "A")
                    was_excluded = user in self.excluded
                    self._forget(user)
                    self.living.add(user)
                    # Without a percentage there is nothing to be excluded from; an earlier exclusion stays.
                    if has_percentage or was_excluded:
                        self.excluded.add(user)
                case kind:
                    until = (
                        None
                        if kind == "pin"
                        else self.clock.now() + timedelta(hours=self.chance.choice([1, 9]))
                    )
                    term = {} if until is None else {"until": rfc3339(until)}
                    await self.api.add(user, {"slug": "A", **term})
                    self._forget(user)
                    self.living.add(user)
                    self.pinned[user] = until
        self.clock.advance(seconds=3600)

    def _forget(self, user: int) -> None:
        self.excluded.discard(user)
        self.pinned.pop(user, None)

    def pins(self) -> set[int]:
        """Those whose terms have not ended."""
        now = self.clock.now()
        return {user for user, until in self.pinned.items() if until is None or until > now}


@pytest.mark.parametrize("few", [0, FEW])
async def test_one_whose_bucket_is_the_threshold_is_just_outside(
    api: Api, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(storage, "FEW", few)
    below, at_threshold, percent = 951, 949, 23.4999  # under the salt 1
    await api.create("A", salt="1")
    for user_id in (below, at_threshold):
        await api.post("users", json={"id": user_id})

    foreseen = await preview(api, "A", percent)
    await api.change_segment("A", percent=percent)

    explained = await api.explain(at_threshold, "A")
    assert (explained["member"], explained["bucket"]) == (False, explained["threshold"])
    assert (foreseen["enter"], foreseen["sample_enter"]) == (1, [below])
    assert (await counts(api, "A"))["members"] == 1


async def test_a_term_that_ends_now_counts_no_more(api: Api, clock: Clock) -> None:
    await api.create("A")
    clock.stop()
    clock.advance(seconds=1)
    await api.add(1, {"slug": "A", "ttl_seconds": 60})
    clock.advance(seconds=60)

    assert (await counts(api, "A"))["members"] == 0


@pytest.mark.parametrize(("seed", "few"), [(1, 0), (2, FEW)])
async def test_a_preview_of_a_percentage_is_what_the_change_then_does(
    api: Api, clock: Clock, monkeypatch: pytest.MonkeyPatch, seed: int, few: int
) -> None:
    monkeypatch.setattr(storage, "FEW", few)
    crowd = Crowd(api, clock, random.Random(seed))
    await api.create("A", salt=str(seed))
    percent: float | None = None
    remembered: list[Json] = []
    moves: Counter[str] = Counter()
    for wanted in (
        None,
        0,
        60,
        *(crowd.chance.choice([None, 0, 0.5, 20, 45.25, 70, 100]) for _ in range(5)),
        100,
    ):
        await crowd.stir(15, has_percentage=percent is not None)
        before = {*await members(api, "A")}
        counted = await counts(api, "A")
        foreseen = await preview(api, "A", wanted)
        remembered.append(counted)
        clock.advance(seconds=1)

        await api.change_segment("A", percent=wanted)

        after = {*await members(api, "A")}
        assert foreseen == {
            "percent_before": percent,
            "percent_after": wanted,
            "registered": len(crowd.living),
            "enter": len(after - before),
            "leave": len(before - after),
            "stay": len(before & after),
            "pinned": len(crowd.pins()),
            "excluded": len(crowd.excluded),
            "sample_enter": sorted(after - before)[:20],
            "sample_leave": sorted(before - after)[:20],
        }
        assert (counted["registered"], counted["members"]) == (len(crowd.living), len(before))
        assert (counted["explicit"], counted["excluded"]) == (len(crowd.pins()), len(crowd.excluded))
        moves["enter"] += foreseen["enter"]
        moves["leave"] += foreseen["leave"]
        percent = wanted
    assert min(moves["enter"], moves["leave"]) > 5
    for counted in remembered:
        assert await counts(api, "A", at=counted["at"]) == counted
