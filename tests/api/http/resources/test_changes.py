"""POST /changes: many users in one transaction."""

import asyncio
import random
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from segmentd.domain.memberships import MOST_SLUGS_TOGETHER, MOST_USERS
from tests.support.client import Api, Json
from tests.support.rows import Rows, rows_of

INT64_MAX: Final = 2**63 - 1
SLUGS: Final = ("A", "B", "SHARE")
TABLES: Final = ("users", "registrations", "memberships", "membership_events")


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    with rows_of(database_url) as rows:
        yield rows


@pytest.fixture
async def segmented(api: Api) -> Api:
    """Two segments, and one with half of all users; user 1 is in A."""
    await api.create("A")
    await api.create("B")
    await api.create("SHARE", percent=50, salt="22")
    await api.add(1, "A")
    return api


def contents(rows: Rows) -> Json:
    return {table: sorted(rows(f"SELECT t::text FROM {table} t")) for table in TABLES}  # noqa: S608 - a constant


async def changed(api: Api, *changes: Json, **more: Json) -> list[Json]:
    """What a successful request answers for each user."""
    answer = await api.post("changes", json={"changes": [*changes], **more})
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"changes"}
    found: list[Json] = answer.json()["changes"]
    return found


async def test_each_user_has_the_answer_of_the_single_call_in_the_order_asked(segmented: Api) -> None:
    answers = await changed(
        segmented,
        {"user_id": INT64_MAX, "add": ["B", {"slug": "A", "ttl_seconds": 60}]},
        {"user_id": 1, "add": ["B"], "remove": ["A"]},
        {"user_id": 2, "remove": ["A"]},
    )

    assert [answer["user_id"] for answer in answers] == [INT64_MAX, 1, 2]
    assert [answer["added"] for answer in answers] == [["A", "B"], ["B"], []]
    assert [answer["removed"] for answer in answers] == [[], ["A"], []]
    assert [answer["unchanged"] for answer in answers] == [[], [], ["A"]]
    for answer in answers:
        assert answer["segments"] == await segmented.segments(answer["user_id"])


async def test_the_changes_are_of_one_transaction_and_each_has_its_reason(segmented: Api, rows: Rows) -> None:
    body = {
        "changes": [{"user_id": 2, "add": ["A"]}, {"user_id": 3, "add": ["A"], "reason": "their own"}],
        "reason": "of all",
    }
    answer = await segmented.post("changes", json=body, headers={"X-On-Behalf-Of": "ann"})

    assert answer.status_code == 200
    assert rows("SELECT count(DISTINCT xid) FROM membership_events WHERE user_id IN (2, 3)") == [(1,)]
    for user, reason in ((2, "of all"), (3, "their own")):
        [event] = [each for each in await segmented.history(user) if each["segment"] == "A"]
        assert (event["operation"], event["cause"], event["reason"]) == ("add", "request", reason)
        assert (event["actor"], event["on_behalf_of"]) == ("anonymous", "ann")


GOOD: Final[Json] = {"user_id": 2, "add": ["A"]}
MANY: Final[Json] = [{"user_id": user, "add": ["A"]} for user in range(1, MOST_USERS + 2)]
LARGE: Final[Json] = [
    {"user_id": user, "remove": [f"S{number}" for number in range(1000)]}
    for user in range(1, MOST_SLUGS_TOGETHER // 1000 + 1)
]
PAST: Final = "2020-01-01T00:00:00Z"


def beside_a_good_one(**change: Json) -> Json:
    """A good change, and this one of another user."""
    return [GOOD, {"user_id": 3, **change}]


def adding(*items: Json) -> Json:
    return beside_a_good_one(add=[*items])


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ([GOOD, {"user_id": 2, "remove": ["B"]}], ["/changes/1/user_id"]),
        (beside_a_good_one(add=["A", "B"], remove=["A"]), ["/changes/1/remove/0"]),
        (beside_a_good_one(), ["/changes/1"]),
        ([*adding(), {"user_id": 4, "add": ["A", "A"]}], ["/changes/1", "/changes/2/add/1"]),
        (adding("B", {"slug": "A", "until": PAST}), ["/changes/1/add/1/until"]),
        (adding({"slug": "A", "until": PAST[:-1]}), ["/changes/1/add/0/until"]),
        (adding({"slug": "A", "ttl_seconds": 0}), ["/changes/1/add/0/ttl_seconds"]),
        (adding({"slug": "A", "ttl_seconds": 400_000_000_000}), ["/changes/1/add/0/ttl_seconds"]),
        (adding({"slug": "A", "ttl_seconds": 1, "until": "2090-01-01T00:00:00Z"}), ["/changes/1/add/0"]),
        (adding("a b"), ["/changes/1/add/0"]),
        ([GOOD, {"user_id": 0, "add": ["A"]}], ["/changes/1/user_id"]),
        ([GOOD, {"user_id": "3", "add": ["A"]}], ["/changes/1/user_id"]),
        ([GOOD, {"add": ["A"]}], ["/changes/1/user_id"]),
        (beside_a_good_one(add=["A"], more=1), ["/changes/1/more"]),
        (beside_a_good_one(add=["A"], reason="x" * 501), ["/changes/1/reason"]),
        ([], ["/changes"]),
        (MANY, ["/changes"]),
        ([*LARGE, {"user_id": 11, "add": ["A"]}], ["/changes"]),
    ],
)
async def test_one_bad_change_and_nothing_is_changed(
    segmented: Api, rows: Rows, changes: Json, found: list[str]
) -> None:
    before = contents(rows)

    answer = await segmented.post("changes", json={"changes": changes})

    assert answer.status_code == 422, answer.text
    assert [fault["pointer"] for fault in answer.json()["errors"]] == found
    assert contents(rows) == before


async def test_an_unknown_segment_anywhere_is_404_with_all_of_them(segmented: Api, rows: Rows) -> None:
    before = contents(rows)
    changes = [GOOD, {"user_id": 1, "add": ["NO", "A"]}, {"user_id": 3, "remove": ["NEITHER", "NO"]}]

    answer = await segmented.post("changes", json={"changes": changes})

    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/segment-not-found")
    assert answer.json()["segments"] == ["NEITHER", "NO"]
    assert contents(rows) == before


async def test_as_many_users_and_segments_as_there_may_be_are_changed(segmented: Api, rows: Rows) -> None:
    for number in range(8):
        await segmented.create(f"S{number}")
    slugs = [*(f"S{number}" for number in range(8)), "A", "B"]

    answers = await changed(
        segmented, *({"user_id": user, "add": slugs} for user in range(1, MOST_USERS + 1))
    )

    assert len(answers) == MOST_USERS
    assert sum(len(answer["added"]) for answer in answers) == MOST_SLUGS_TOGETHER - 1
    assert rows("SELECT count(*) FROM memberships WHERE ended_at IS NULL") == [(MOST_SLUGS_TOGETHER,)]


async def test_ids_may_be_strings_where_that_is_asked_for(segmented: Api) -> None:
    body = {"changes": [{"user_id": str(INT64_MAX), "add": ["A"]}, {"user_id": 7, "add": ["A"]}]}

    answer = await segmented.post("changes?ids=string", json=body)
    refused = await segmented.post("changes?ids=string", json={"changes": [{"user_id": "01", "add": ["A"]}]})

    assert [each["user_id"] for each in answer.json()["changes"]] == [str(INT64_MAX), "7"]
    assert [fault["pointer"] for fault in refused.json()["errors"]] == ["/changes/0/user_id"]


async def test_changes_at_once_of_the_same_users_in_any_order_all_succeed(segmented: Api, rows: Rows) -> None:
    chance = random.Random(1)
    users = range(1, 40)

    async def change(number: int) -> None:
        kind = "add" if number % 2 else "remove"
        some = chance.sample(users, 25)
        await changed(segmented, *({"user_id": user, kind: ["A", "SHARE"]} for user in some))

    async def change_one(number: int) -> None:
        await segmented.change(chance.choice(users), add=["B"] if number % 2 else ["A"])

    await asyncio.gather(*map(change, range(16)), *map(change_one, range(16)))

    assert (
        rows("SELECT count(*) FROM memberships GROUP BY user_id, segment_id, since HAVING count(*) > 1") == []
    )
    for user in users:
        history = [each["operation"] for each in await segmented.history(user) if each["segment"] == "A"]
        assert history == [("add", "remove")[place % 2] for place in range(len(history))]


# A wish is a slug to add, with or without a term, or one to remove.
WISHES: Final = st.lists(
    st.tuples(st.sampled_from(SLUGS), st.sampled_from(["add", "always", "remove"])),
    min_size=1,
    max_size=3,
    unique_by=lambda wish: wish[0],
)
REQUESTS: Final = st.lists(st.dictionaries(st.integers(1, 4), WISHES, min_size=1), min_size=1, max_size=4)


def change_of(wishes: list[tuple[str, str]]) -> dict[str, Json]:
    until = "2090-01-01T00:00:00.000000Z"
    return {
        "add": [
            slug if wish == "always" else {"slug": slug, "until": until}
            for slug, wish in wishes
            if wish != "remove"
        ],
        "remove": [slug for slug, wish in wishes if wish == "remove"],
    }


async def test_the_changes_together_do_what_as_many_single_calls_do(segmented: Api) -> None:
    users = iter(range(100, 10**9, 10))  # each example has users of its own

    async def seen(user: int) -> Json:
        detail = await segmented.segments(user, detail="true")
        events = await segmented.history(user)
        explained = [await segmented.explain(user, slug) for slug in SLUGS]
        return (
            [(each["slug"], each["source"], each["until"]) for each in detail],
            [(each["segment"], each["operation"], each["source"], each["cause"]) for each in events],
            [(each["member"], each["because"]) for each in explained],
        )

    async def prove(requests: list[dict[int, list[tuple[str, str]]]], alike: tuple[int, int]) -> None:
        together, apart = alike
        for request in requests:
            answers = await changed(
                segmented,
                *({"user_id": together + 10 * user, **change_of(wishes)} for user, wishes in request.items()),
            )
            for answer, (user, wishes) in zip(answers, request.items(), strict=True):
                single = await segmented.change(apart + 10 * user, **change_of(wishes))
                assert {**answer, "user_id": 0} == {**single, "user_id": 0}
        for user in {user for request in requests for user in request}:
            assert await seen(together + 10 * user) == await seen(apart + 10 * user)

    loop = asyncio.get_running_loop()

    @settings(
        max_examples=8,
        phases=[Phase.generate, Phase.shrink],
        derandomize=True,
        database=None,
        suppress_health_check=[*HealthCheck],
    )
    @given(requests=REQUESTS)
    def run(requests: list[dict[int, list[tuple[str, str]]]]) -> None:
        first = next(users) * 100
        work = prove(requests, (first, first + 1))
        asyncio.run_coroutine_threadsafe(work, loop).result(60)

    # The percentage treats the two alike: it covers nobody or everybody.
    for percent in (0, 100, None):
        await segmented.change_segment("SHARE", percent=percent)
        await asyncio.to_thread(run)
