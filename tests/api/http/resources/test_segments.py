import asyncio
from datetime import datetime

import psycopg
import pytest

from tests.support.client import Api, Json
from tests.support.clock import Clock


async def test_a_new_segment_is_answered_in_full_and_found_at_its_location(api: Api, clock: Clock) -> None:
    before = clock.now()

    answer = await api.post(
        "segments",
        json={"slug": "AVITO_VOICE_MESSAGES", "description": "Voice 🎙", "percent": 10, "salt": "22"},
    )

    assert answer.status_code == 201
    assert answer.headers["Location"] == "/api/v1/segments/AVITO_VOICE_MESSAGES"
    segment = answer.json()
    created_at = segment["created_at"]
    assert segment == {
        "slug": "AVITO_VOICE_MESSAGES",
        "description": "Voice 🎙",
        "percent": 10,
        "salt": "22",
        "created_at": created_at,
    }
    assert before <= datetime.fromisoformat(created_at) <= clock.now()
    assert len(created_at) == len("2026-11-20T10:15:30.123456Z")
    assert created_at.endswith("Z")
    assert (await api.get(answer.headers["Location"])).json() == segment


async def test_a_segment_needs_nothing_but_a_slug(api: Api) -> None:
    segment = await api.create("A")

    assert (segment["description"], segment["percent"]) == ("", None)
    assert -(2**63) <= int(segment["salt"]) < 2**63


@pytest.mark.parametrize("slug", ["0", "a" * 128, "A.b-c_D", "1.", "TAKEN.."])
async def test_every_slug_that_the_rules_allow_is_a_segment(api: Api, slug: str) -> None:
    assert (await api.create(slug))["slug"] == slug
    assert (await api.add(1, slug))["segments"] == [slug]
    assert (await api.explain(1, slug))["because"] == "explicit"
    assert (await api.delete(f"segments/{slug}")).status_code == 204


@pytest.mark.parametrize("salt", ["0", "-1", str(2**63 - 1), str(-(2**63))])
async def test_a_given_salt_is_kept_to_the_last_digit(api: Api, salt: str) -> None:
    assert (await api.create("A", salt=salt))["salt"] == salt


async def test_salts_are_random_unless_given(api: Api) -> None:
    salts = [int((await api.create(f"S{number}"))["salt"]) for number in range(20)]

    assert len({*salts}) == 20
    assert min(salts) < 0 < max(salts)


async def test_texts_may_be_as_long_as_the_contract_says_in_characters(api: Api) -> None:
    description = "🎙" * 2000

    assert (await api.create("A", description=description))["description"] == description
    assert (await api.post("users", json={"id": 1, "name": "🎙" * 256})).status_code == 201
    assert (await api.change(1, add=["A"], reason="🎙" * 500))["added"] == ["A"]


@pytest.mark.parametrize(
    ("given", "answered"),
    [
        ("10", "10"),
        ("10.00000", "10"),
        ("12.50", "12.5"),
        ("1e1", "10"),
        ("0", "0"),
        ("-0.0", "0"),
        ("100", "100"),
        ("0.0001", "0.0001"),
        ("33.3333", "33.3333"),
        ("99.9999", "99.9999"),
    ],
)
async def test_a_percentage_is_answered_in_its_shortest_form(api: Api, given: str, answered: str) -> None:
    answer = await api.post(
        "segments",
        content=f'{{"slug": "A", "percent": {given}}}',
        headers={"Content-Type": "application/json"},
    )

    assert f'"percent":{answered},' in answer.text
    assert f'"percent":{answered},' in (await api.get("segments/A")).text
    assert f'"percent":{answered},' in (await api.get("segments")).text
    assert f'"percent":{answered},' in (await api.get("users/1/segments/A")).text


async def test_segments_are_listed_bytewise_by_slug(api: Api) -> None:
    slugs = ["b", "A", "a.b", "B1", "a-b", "9", "a_b", "Ab", "c"]
    made = {slug: await api.create(slug) for slug in slugs}

    assert await api.walk("segments", "segments", 4) == [made[slug] for slug in sorted(slugs)]


async def test_a_slug_must_match_exactly_and_no_other_may_differ_only_in_case(api: Api) -> None:
    await api.create("Voice")

    answer = await api.post("segments", json={"slug": "VOICE"})

    assert answer.json()["type"] == "/problems/segment-exists"
    for path in ("segments/VOICE", "segments/VOICE/users", "users/1/segments/VOICE"):
        assert (await api.get(path)).json()["type"] == "/problems/segment-not-found"
    assert (await api.post("users/1/segments", json={"add": ["VOICE"]})).json()["segments"] == ["VOICE"]


async def test_a_segment_may_change_the_case_of_its_own_slug(api: Api) -> None:
    await api.create("voice")

    assert (await api.change_segment("voice", slug="Voice"))["slug"] == "Voice"
    assert (await api.get("segments/voice")).status_code == 404


async def test_a_patch_changes_what_it_names_and_nothing_else(api: Api) -> None:
    segment = await api.create("A", description="old", percent=10)

    assert await api.change_segment("A") == segment
    assert await api.change_segment("A", description="") == segment | {"description": ""}
    assert await api.change_segment("A", percent=20) == segment | {"description": "", "percent": 20}
    assert await api.change_segment("A", slug="A") == segment | {"description": "", "percent": 20}
    renamed = await api.change_segment("A", slug="B", description="new", percent=None)
    assert renamed == segment | {"slug": "B", "description": "new", "percent": None}
    assert (await api.get("segments/B")).json() == renamed
    assert (await api.get("segments/A")).status_code == 404


async def test_a_patch_that_is_refused_changes_nothing_of_the_rest(api: Api) -> None:
    segment = await api.create("A", percent=10)
    await api.create("B")

    answer = await api.patch("segments/A", json={"slug": "b", "percent": 20, "description": "x"})

    assert answer.json()["type"] == "/problems/segment-exists"
    assert (await api.get("segments/A")).json() == segment


async def test_a_rename_keeps_the_members_and_shows_in_the_past_too(api: Api) -> None:
    await api.create("OLD", percent=10, salt="22")
    await api.add(5, {"slug": "OLD", "until": "2999-01-01T00:00:00Z"})
    await api.add(1000, "OLD")
    await api.remove(1000, "OLD")
    await api.post("users", json={"id": 1001})
    before = await api.history(1000)

    await api.change_segment("OLD", slug="NEW")

    assert await api.segments(5) == ["NEW"]
    assert await api.segments(1000) == []
    assert [{**event, "segment": "OLD"} for event in await api.history(1000)] == before
    assert {event["segment"] for event in await api.history(1000)} == {"NEW"}
    at = before[-2]["at"]
    assert await api.segments(1000, at=at) == ["NEW"]
    assert (await api.explain(5, "NEW"))["until"] == "2999-01-01T00:00:00.000000Z"
    assert (await api.get("users/5/segments/OLD")).status_code == 404


async def test_a_slug_given_up_by_a_rename_is_free(api: Api) -> None:
    await api.create("A")
    await api.add(1, "A")
    await api.change_segment("A", slug="B")

    await api.create("A")

    assert await api.segments(1) == ["B"]
    assert await api.walk("segments/A/users", "user_ids", 10) == []


async def test_deleting_a_segment_ends_every_membership_at_once(api: Api) -> None:
    await api.create("A", percent=100)
    await api.create("STAYS")
    await api.add(1, "A", "STAYS")
    await api.post("users", json={"id": 2})

    answer = await api.delete("segments/A")

    assert (answer.status_code, answer.content) == (204, b"")
    assert await api.segments(1) == ["STAYS"]
    assert await api.segments(1, detail="true") == [
        membership for membership in await api.segments(1, detail="true") if membership["slug"] == "STAYS"
    ]
    assert await api.segments(2) == await api.segments(3) == []
    assert (await api.post("lookup", json={"user_ids": [1, 2]})).json()["users"] == [
        {"user_id": 1, "segments": ["STAYS"]},
        {"user_id": 2, "segments": []},
    ]
    assert [segment["slug"] for segment in await api.walk("segments", "segments", 9)] == ["STAYS"]
    for method, path in (
        *(("GET", "segments/A"), ("DELETE", "segments/A"), ("GET", "segments/A/users")),
        ("GET", "users/1/segments/A"),
    ):
        answer = await api.request(method, path)
        assert answer.json()["type"] == "/problems/segment-not-found"
        assert answer.json()["segments"] == ["A"]
    answer = await api.post("users/1/segments", json={"remove": ["A"]})
    assert answer.json()["type"] == "/problems/segment-not-found"


async def test_the_deletion_of_a_segment_is_one_instant_in_every_history(api: Api, clock: Clock) -> None:
    await api.create("A", percent=10, salt="22")
    await api.post("users", json={"id": 1000})
    await api.add(5, "A")
    await api.add(6, {"slug": "A", "ttl_seconds": 60})
    await api.add(7, {"slug": "A", "ttl_seconds": 60})
    await api.remove(7, "A")
    clock.advance(seconds=59)
    before = clock.now()

    await api.delete("segments/A")

    after = clock.now()
    clock.advance(seconds=60)
    last = [(await api.history(user_id))[-1] for user_id in (1000, 5, 6)]
    assert {event["cause"] for event in last} == {"segment-deleted"}
    assert [event["source"] for event in last] == ["rollout", "explicit", "explicit"]
    assert len({event["at"] for event in last}) == 1
    assert before <= datetime.fromisoformat(last[0]["at"]) <= after
    assert [event["cause"] for event in await api.history(7)] == ["request", "request"]
    await api.create("B")
    await api.add(5, "B")  # settles what was due
    assert (await api.history(5))[:-1] == [(await api.history(5))[0], last[1]]


async def test_a_new_segment_under_a_deleted_slug_has_nothing_of_the_old_one(api: Api) -> None:
    old = await api.create("A", description="old", percent=100)
    await api.add(1, "A")
    await api.remove(2, "A")
    await api.delete("segments/A")
    history = await api.history(1)

    new = await api.create("A")

    assert (new["description"], new["percent"]) == ("", None)
    assert new["salt"] != old["salt"]
    assert new["created_at"] > old["created_at"]
    assert await api.segments(1) == []
    assert await api.walk("segments/A/users", "user_ids", 9) == []
    for user_id in (1, 2):
        explained = await api.explain(user_id, "A")
        assert (explained["because"], explained["since"]) == ("never-added", None)
    assert await api.history(1) == history
    await api.change_segment("A", percent=100)
    assert await api.segments(2) == ["A"]  # the exclusion was one from the old segment


async def test_the_past_of_a_deleted_segment_can_still_be_asked(api: Api, clock: Clock) -> None:
    await api.create("A")
    await api.add(1, "A")
    before = clock.now().isoformat()
    await api.delete("segments/A")
    await api.create("A", percent=100)

    assert await api.segments(1, at=before) == ["A"]
    assert (await api.explain(1, "A", at=before))["because"] == "explicit"
    assert (await api.explain(1, "A"))["because"] == "rollout"


async def test_of_many_who_make_one_segment_at_once_one_succeeds(api: Api) -> None:
    slugs = ["Voice", "VOICE", "voice"] * 3

    answers = await asyncio.gather(*(api.post("segments", json={"slug": slug}) for slug in slugs))

    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 8


async def test_the_users_of_a_segment_are_those_who_are_in_now_by_id(api: Api, clock: Clock) -> None:
    await api.create("A")
    await api.add(30, "A")
    await api.add(4, "A")
    await api.add(100, {"slug": "A", "ttl_seconds": 60})
    await api.add(5, "A")
    await api.remove(5, "A")
    await api.add(6, "A")
    await api.delete("users/6")

    assert await api.walk("segments/A/users", "user_ids", 2) == [4, 30, 100]
    clock.advance(seconds=60)
    assert await api.walk("segments/A/users", "user_ids", 2) == [4, 30]


async def test_the_users_of_a_percentage_are_the_known_ones_with_pins_and_without_the_excluded(
    api: Api,
) -> None:
    await api.create("A", percent=10, salt="22")  # 1000 is in, 1002 and 1004 are not
    for user_id in (1000, 1002, 1004):
        await api.post("users", json={"id": user_id})
    assert await _users(api) == [1000]

    await api.add(1004, "A")
    assert await _users(api) == [1000, 1004]
    await api.remove(1000, "A")
    assert await _users(api) == [1004]
    await api.change_segment("A", percent=100)
    assert await _users(api) == [1002, 1004]
    await api.change_segment("A", percent=0)
    assert await _users(api) == [1004]
    await api.change_segment("A", percent=None)
    assert await _users(api) == [1004]


async def _users(api: Api) -> Json:
    return await api.walk("segments/A/users", "user_ids", 1)


async def test_a_refused_segment_uses_up_no_id(api: Api, database_url: str) -> None:
    await api.create("A")
    await api.create("B")
    for _ in range(5):
        assert (await api.post("segments", json={"slug": "a"})).status_code == 409
        assert (await api.patch("segments/B", json={"slug": "A"})).status_code == 409
    await api.create("C")

    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT max(id) FROM segments").fetchone() == (3,)
