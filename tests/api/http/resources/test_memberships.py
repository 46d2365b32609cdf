import asyncio
from datetime import datetime, timedelta

import psycopg

from tests.support.client import Api
from tests.support.clock import Clock


async def test_a_change_adds_and_removes_in_one_request(api: Api) -> None:
    await api.create("A")
    await api.create("B")
    await api.create("C")
    await api.add(1000, "A", "B")

    changed = await api.change(1000, add=["C"], remove=["A"])

    assert changed == {
        "user_id": 1000,
        "segments": ["B", "C"],
        "added": ["C"],
        "removed": ["A"],
        "updated": [],
        "unchanged": [],
    }
    assert await api.segments(1000) == ["B", "C"]


async def test_a_renewed_term_is_not_cut_short_by_the_earlier_one(api: Api, clock: Clock) -> None:
    await api.create("DISCOUNT")
    await api.add(1000, {"slug": "DISCOUNT", "ttl_seconds": 60})
    await api.add(1000, {"slug": "DISCOUNT", "ttl_seconds": 600})

    clock.advance(seconds=61)

    assert await api.segments(1000) == ["DISCOUNT"]
    [event] = await api.history(1000)
    assert (event["segment"], event["operation"]) == ("DISCOUNT", "add")


async def test_an_addition_is_answered_by_what_it_did(api: Api, clock: Clock) -> None:
    await api.create("NEW")
    await api.create("HELD")
    await api.create("TERM")
    await api.create("COVERED", percent=100)
    await api.create("EXCLUDED", percent=100)
    await api.change(1, add=["HELD", {"slug": "TERM", "ttl_seconds": 60}], remove=["EXCLUDED"])
    clock.advance(seconds=1)

    changed = await api.add(1, "NEW", "HELD", "TERM", "COVERED", "EXCLUDED")

    assert changed == {
        "user_id": 1,
        "segments": ["COVERED", "EXCLUDED", "HELD", "NEW", "TERM"],
        "added": ["EXCLUDED", "NEW"],
        "removed": [],
        "updated": ["COVERED", "TERM"],
        "unchanged": ["HELD"],
    }


async def test_a_removal_is_answered_by_what_it_did(api: Api) -> None:
    await api.create("NEVER")
    await api.create("HELD")
    await api.create("COVERED", percent=100)
    await api.create("NOT_COVERED", percent=0)
    await api.create("EXCLUDED", percent=100)
    await api.create("PINNED", percent=0)
    await api.change(1, add=["HELD", "PINNED"], remove=["EXCLUDED"])

    changed = await api.remove(1, "NEVER", "HELD", "COVERED", "NOT_COVERED", "EXCLUDED", "PINNED")

    assert changed == {
        "user_id": 1,
        "segments": [],
        "added": [],
        "removed": ["COVERED", "HELD", "PINNED"],
        "updated": ["NOT_COVERED"],
        "unchanged": ["EXCLUDED", "NEVER"],
    }


async def test_a_change_sent_again_changes_nothing(api: Api) -> None:
    await api.create("A")
    await api.create("B")
    await api.create("C", percent=100)
    change = {"add": ["A", {"slug": "B", "until": "2999-01-01T00:00:00Z"}], "remove": ["C"]}
    first = await api.change(1, **change)
    history = await api.history(1)

    again = await api.change(1, **change)

    assert (first["added"], first["removed"]) == (["A", "B"], ["C"])
    assert again["unchanged"] == ["A", "B", "C"]
    assert again["added"] == again["removed"] == again["updated"] == []
    assert await api.history(1) == history


async def test_what_a_change_answers_is_what_reads_then_say(api: Api) -> None:
    await api.create("A")
    await api.create("Z", percent=100)

    changed = await api.add(1, "A")

    assert changed["segments"] == ["A", "Z"] == await api.segments(1)


async def test_all_of_a_change_has_one_time_actor_and_reason(api: Api) -> None:
    await api.create("A")
    await api.create("B")
    await api.add(1, "B")

    await api.change(1, add=["A"], remove=["B"], reason="support ticket 4711 — “done”")

    added, removed = (await api.history(1))[1:]
    assert (added["segment"], removed["segment"]) == ("A", "B")
    for name, value in {
        "at": added["at"],
        "actor": "anonymous",
        "reason": "support ticket 4711 — “done”",
    }.items():
        assert added[name] == removed[name] == value


async def test_an_addition_without_a_term_is_for_good_and_ends_an_earlier_term(
    api: Api, clock: Clock
) -> None:
    await api.create("A")
    await api.add(1, {"slug": "A", "ttl_seconds": 60})

    assert (await api.add(1, "A"))["updated"] == ["A"]
    clock.advance(days=400)

    assert await api.segments(1) == ["A"]
    assert (await api.explain(1, "A"))["until"] is None
    assert len(await api.history(1)) == 1


async def test_a_renewed_term_may_be_shorter_too(api: Api, clock: Clock) -> None:
    await api.create("A")
    await api.add(1, {"slug": "A", "ttl_seconds": 600})
    await api.add(1, {"slug": "A", "ttl_seconds": 60})

    clock.advance(seconds=61)

    assert await api.segments(1) == []
    assert len(await api.history(1)) == 2


async def test_a_term_is_in_force_until_its_very_instant_and_no_longer(api: Api, clock: Clock) -> None:
    await api.create("A")
    until = clock.now() + timedelta(hours=1)
    await api.add(1, {"slug": "A", "until": until.isoformat()})
    clock.advance(seconds=3601)

    before = (until - timedelta(microseconds=1)).isoformat()
    assert await api.segments(1, at=before) == ["A"]
    assert await api.segments(1, at=until.isoformat()) == []
    assert (await api.explain(1, "A", at=before))["because"] == "explicit"
    explained = await api.explain(1, "A", at=until.isoformat())
    assert (explained["because"], explained["member"]) == ("expired", False)
    assert datetime.fromisoformat(explained["since"]) == until


async def test_the_end_of_a_term_is_in_the_history_with_exactly_its_time(api: Api, clock: Clock) -> None:
    await api.create("A")
    until = "2999-01-01T01:00:00.123456+01:00"
    await api.add(1, {"slug": "A", "until": until})
    await api.add(1, {"slug": "A", "ttl_seconds": 60})
    [added] = await api.history(1)
    clock.advance(days=40)

    ended = (await api.history(1))[-1]

    assert ended == {
        "segment": "A",
        "operation": "remove",
        "at": ended["until"],
        "source": "explicit",
        "cause": "expiry",
        "actor": "segmentd",
        "reason": None,
        "until": ended["until"],
        "on_behalf_of": None,
    }
    assert added["until"] == "2999-01-01T00:00:00.123456Z"
    await api.add(1, "A")  # writes down what was due
    assert (await api.history(1))[:2] == [added, ended]


async def test_a_ttl_counts_from_the_change(api: Api) -> None:
    await api.create("A")
    await api.add(1, {"slug": "A", "ttl_seconds": 172_800})

    [membership] = await api.segments(1, detail="true")

    since, until = (datetime.fromisoformat(membership[name]) for name in ("since", "until"))
    assert until - since == timedelta(days=2)


async def test_an_expired_membership_can_be_added_again(api: Api, clock: Clock) -> None:
    await api.create("A")
    await api.add(1, {"slug": "A", "ttl_seconds": 60})
    clock.advance(seconds=60)

    assert (await api.add(1, "A"))["added"] == ["A"]
    assert [event["operation"] for event in await api.history(1)] == ["add", "remove", "add"]


async def test_removing_what_has_expired_already_changes_nothing(api: Api, clock: Clock) -> None:
    await api.create("A")
    await api.add(1, {"slug": "A", "ttl_seconds": 60})
    clock.advance(seconds=60)

    assert (await api.remove(1, "A"))["unchanged"] == ["A"]
    assert (await api.explain(1, "A"))["because"] == "expired"


async def test_the_latest_possible_term_is_the_last_microsecond_of_the_year_9999(api: Api) -> None:
    await api.create("A")
    until = "9999-12-31T23:59:59.999999Z"

    await api.add(1, {"slug": "A", "until": until})

    assert (await api.explain(1, "A"))["until"] == until
    answer = await api.post(
        "users/1/segments", json={"add": [{"slug": "A", "until": None, "ttl_seconds": None}]}
    )
    assert answer.json()["updated"] == ["A"]


async def test_one_bad_segment_and_nothing_is_changed(api: Api, clock: Clock) -> None:
    await api.create("A")
    await api.create("B")
    await api.add(1, "A")
    past = (clock.now() - timedelta(microseconds=1)).isoformat()

    for change in ({"add": ["B", "NOWHERE"]}, {"add": [{"slug": "B", "until": past}], "remove": ["A"]}):
        assert (await api.post("users/1/segments", json=change)).status_code in {404, 422}

    assert await api.segments(1) == ["A"]
    assert len(await api.history(1)) == 1


async def test_details_tell_the_source_since_when_and_until_when(api: Api) -> None:
    await api.create("COVERED", percent=100)
    await api.create("PINNED", percent=100)
    await api.create("TERM")
    until = "2999-01-01T00:00:00.000000Z"
    await api.add(1, "PINNED", {"slug": "TERM", "until": until})
    registered_at = (await api.get("users/1")).json()["registered_at"]
    at = (await api.history(1))[-1]["at"]

    expected = [
        {"slug": "COVERED", "source": "rollout", "since": registered_at, "until": None},
        {"slug": "PINNED", "source": "explicit", "since": registered_at, "until": None},
        {"slug": "TERM", "source": "explicit", "since": at, "until": until},
    ]
    assert await api.segments(1, detail="true") == expected
    assert await api.segments(1, detail="true", at=at) == expected
    assert await api.segments(1, detail="false", at=at) == ["COVERED", "PINNED", "TERM"]


async def test_a_term_that_ends_at_the_instant_of_a_change_has_ended_before_it(
    api: Api, clock: Clock
) -> None:
    await api.create("A")
    clock.stop()
    clock.advance(seconds=1)
    await api.add(1, {"slug": "A", "ttl_seconds": 60})
    clock.advance(seconds=60)

    assert (await api.add(1, "A"))["added"] == ["A"]

    ended, again = (await api.history(1))[1:]
    assert [(each["operation"], each["cause"]) for each in (ended, again)] == [
        ("remove", "expiry"),
        ("add", "request"),
    ]
    assert ended["at"] < again["at"]


async def test_a_term_has_to_end_after_the_instant_of_its_change(api: Api, clock: Clock) -> None:
    await api.create("A")
    clock.stop()
    clock.advance(seconds=1)

    for until, status in ((clock.now(), 422), (clock.now() + timedelta.resolution, 200)):
        term = {"slug": "A", "until": until.isoformat()}
        assert (await api.post("users/1/segments", json={"add": [term]})).status_code == status


async def test_a_change_is_in_force_from_its_very_instant_on_also_in_the_past(api: Api) -> None:
    await api.create("A")
    await api.add(1, "A")
    await api.remove(1, "A")
    added, removed = [datetime.fromisoformat(event["at"]) for event in await api.history(1)]
    await api.add(1, "A")  # so that the instants are before the user's latest change

    for instant, segments in ((added, ["A"]), (removed - timedelta.resolution, ["A"]), (removed, [])):
        assert await api.segments(1, at=instant.isoformat()) == segments
        assert (await api.explain(1, "A", at=instant.isoformat()))["member"] is bool(segments)


async def test_every_past_instant_is_answered_as_it_was_then(api: Api, clock: Clock) -> None:
    await api.create("A", percent=0)
    await api.create("B")
    seen = []
    for step in (
        api.add(1, "A"),
        api.change(1, add=[{"slug": "B", "ttl_seconds": 90}], remove=["A"]),
        api.change_segment("A", percent=100),
        api.add(1, "A"),
        api.change_segment("A", percent=None),
        api.remove(1, "A"),
    ):
        await step
        seen.append((clock.now().isoformat(), await api.segments(1), await api.explain(1, "A")))
        clock.advance(seconds=30)

    assert [segments for _, segments, _ in seen] == [["A"], ["B"], ["B"], ["A", "B"], ["A"], []]
    for at, segments, explained in seen:
        assert await api.segments(1, at=at) == segments
        assert await api.explain(1, "A", at=at) == explained


async def test_an_explanation_has_the_numbers_of_the_percentage(api: Api) -> None:
    await api.create("A", percent=10, salt="22")

    explained = await api.explain(1000, "A")

    assert explained == {
        "user_id": 1000,
        "slug": "A",
        "member": True,
        "because": "rollout",
        "since": explained["since"],
        "until": None,
        "percent": 10,
        "bucket": explained["bucket"],
        "threshold": 429496729,
        "salt": "22",
    }
    assert explained["since"] == (await api.get("segments/A")).json()["created_at"]
    assert 0 <= explained["bucket"] < explained["threshold"]
    outside = await api.explain(1002, "A")
    assert (outside["member"], outside["because"]) == (False, "not-in-rollout")
    assert outside["threshold"] <= outside["bucket"] < 2**32


async def test_explicit_is_the_reason_of_a_pin(api: Api) -> None:
    await api.create("A")
    await api.add(1, {"slug": "A", "until": "2999-01-01T00:00:00Z"})
    [event] = await api.history(1)

    assert await api.explain(1, "A") == {
        "user_id": 1,
        "slug": "A",
        "member": True,
        "because": "explicit",
        "since": event["at"],
        "until": "2999-01-01T00:00:00.000000Z",
        **dict.fromkeys(("percent", "bucket", "threshold", "salt")),
    }


async def test_excluded_is_the_reason_of_an_exclusion_whatever_the_percentage(api: Api) -> None:
    await api.create("A", percent=100)
    await api.remove(1, "A")
    removed = (await api.history(1))[-1]

    for percent in (100, 0, None):
        await api.change_segment("A", percent=percent)
        explained = await api.explain(1, "A")
        assert (explained["member"], explained["because"]) == (False, "excluded")
        assert (explained["since"], explained["percent"]) == (removed["at"], percent)


async def test_expired_is_the_reason_after_a_term(api: Api, clock: Clock) -> None:
    await api.create("A", percent=0)
    await api.add(1, {"slug": "A", "ttl_seconds": 60})
    until = (await api.explain(1, "A"))["until"]
    clock.advance(seconds=60)

    explained = await api.explain(1, "A")

    assert (explained["member"], explained["because"], explained["since"]) == (False, "expired", until)
    assert (explained["until"], explained["percent"]) == (None, 0)


async def test_removed_is_the_reason_after_a_removal_by_request(api: Api) -> None:
    await api.create("A")
    await api.add(1, "A")
    await api.remove(1, "A")

    explained = await api.explain(1, "A")

    assert (explained["member"], explained["because"]) == (False, "removed")
    assert explained["since"] == (await api.history(1))[-1]["at"]


async def test_not_in_rollout_is_the_reason_when_the_percentage_let_someone_go(api: Api) -> None:
    await api.create("A", percent=100)
    await api.post("users", json={"id": 1})
    await api.change_segment("A", percent=0)
    removed = (await api.history(1))[-1]

    shrunk = await api.explain(1, "A")
    await api.change_segment("A", percent=None)
    ended = await api.explain(1, "A")

    assert shrunk["because"] == ended["because"] == "not-in-rollout"
    assert shrunk["since"] == ended["since"] == removed["at"]
    assert (shrunk["percent"], shrunk["threshold"]) == (0, 0)
    assert ended["percent"] is ended["bucket"] is ended["threshold"] is ended["salt"] is None


async def test_never_added_is_the_reason_where_nothing_ever_happened(api: Api) -> None:
    await api.create("A")
    await api.create("B")
    await api.add(1, "B")

    for user_id in (1, 2):
        explained = await api.explain(user_id, "A")
        assert (explained["member"], explained["because"], explained["since"]) == (False, "never-added", None)


async def test_neither_a_pin_nor_a_percentage_that_still_covers_moves_since(api: Api, clock: Clock) -> None:
    await api.create("A", percent=50, salt="22")
    await api.post("users", json={"id": 1000})
    since = (await api.explain(1000, "A"))["since"]

    for change in (
        api.change_segment("A", percent=60),
        api.add(1000, "A"),
        api.change_segment("A", percent=0),
        api.add(1000, {"slug": "A", "ttl_seconds": 600}),
    ):
        clock.advance(seconds=1)
        await change
        assert (await api.explain(1000, "A"))["since"] == since
    assert len(await api.history(1000)) == 1


async def test_an_explanation_of_the_time_before_the_segment_finds_no_segment(api: Api, clock: Clock) -> None:
    before = clock.now().isoformat()
    await api.create("A")

    answer = await api.get("users/1/segments/A", params={"at": before})

    assert answer.json()["type"] == "/problems/segment-not-found"


async def test_additions_and_removals_alternate_whatever_happens(api: Api, clock: Clock) -> None:
    await api.create("A", percent=0)
    for step in (
        lambda: api.add(1, {"slug": "A", "ttl_seconds": 10}),
        lambda: api.change_segment("A", percent=100),
        lambda: api.remove(1, "A"),
        lambda: api.change_segment("A", percent=None),
        lambda: api.add(1, "A"),
        lambda: api.change_segment("A", percent=50),
        lambda: api.add(1, {"slug": "A", "ttl_seconds": 10}),
        lambda: api.change_segment("A", percent=0),
        lambda: api.add(1, {"slug": "A", "ttl_seconds": 1000}),
        lambda: api.delete("segments/A"),
    ):
        await step()
        clock.advance(seconds=20)

    events = await api.history(1)

    assert [event["operation"] for event in events] == ["add", "remove"] * (len(events) // 2)
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    assert [event["cause"] for event in events][-1] == "segment-deleted"


async def test_a_period_of_history_begins_with_from_and_ends_before_to(api: Api) -> None:
    await api.create("A")
    await api.add(1, "A")
    await api.remove(1, "A")
    await api.add(1, "A")
    events = await api.history(1)
    first, second, third = (event["at"] for event in events)

    assert await api.history(1, **{"from": second}) == events[1:]
    assert await api.history(1, to=second) == events[:1]
    assert await api.history(1, **{"from": first, "to": third}) == events[:2]
    assert await api.history(1, to="2999-01-01T00:00:00+03:00") == events


async def test_an_id_that_was_never_registered_has_an_empty_history(api: Api) -> None:
    answer = await api.get("users/999/history")

    assert answer.status_code == 200
    assert answer.json() == {"user_id": 999, "events": [], "next_cursor": None}


async def test_an_unknown_user_is_no_error(api: Api) -> None:
    await api.create("A")
    await api.create("B", percent=100)

    assert (await api.get("users/9223372036854775807/segments")).json() == {
        "user_id": 9223372036854775807,
        "segments": ["B"],
    }


async def test_a_lookup_answers_in_the_order_asked_repetitions_included(api: Api) -> None:
    await api.create("A")
    await api.create("B", percent=100)
    await api.add(3, "A")

    answer = await api.post("lookup", json={"user_ids": [3, 1, 3, 2]})

    assert answer.json() == {
        "users": [
            {"user_id": 3, "segments": ["A", "B"]},
            {"user_id": 1, "segments": ["B"]},
            {"user_id": 3, "segments": ["A", "B"]},
            {"user_id": 2, "segments": ["B"]},
        ]
    }


async def test_the_hot_reads_tell_their_age(api: Api) -> None:
    for answer in (await api.get("users/1/segments"), await api.post("lookup", json={"user_ids": [1]})):
        assert 0 <= int(answer.headers["Age"]) <= 60


async def test_segments_are_sorted_bytewise_everywhere(api: Api) -> None:
    slugs = ["b", "A", "a.b", "B1", "a-b", "9", "a_b"]
    for slug in slugs:
        await api.create(slug)

    changed = await api.add(1, *slugs)

    assert changed["added"] == changed["segments"] == await api.segments(1) == sorted(slugs)
    assert [membership["slug"] for membership in await api.segments(1, detail="true")] == sorted(slugs)
    assert [event["segment"] for event in await api.history(1)] == sorted(slugs)
    assert (await api.remove(1, *slugs))["removed"] == sorted(slugs)


async def test_a_change_of_one_thousand_segments_is_one_request(api: Api, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("SELECT create_segment('S' || n, '', NULL, n) FROM generate_series(1, 1000) AS n")
    slugs = [f"S{number}" for number in range(1, 1001)]

    assert (await api.add(1, *slugs))["added"] == sorted(slugs)
    assert (await api.remove(1, *slugs))["removed"] == sorted(slugs)


async def test_changes_of_one_user_at_once_lose_nothing(api: Api) -> None:
    slugs = [f"S{number}" for number in range(10)]
    for slug in slugs:
        await api.create(slug)

    await asyncio.gather(*(api.add(1, slug) for slug in slugs))

    assert await api.segments(1) == slugs
    assert len({event["at"] for event in await api.history(1)}) == len(slugs)


async def test_at_the_very_end_of_a_term_the_percentage_is_the_source(api: Api, clock: Clock) -> None:
    await api.create("A", percent=100)
    await api.add(1, {"slug": "A", "ttl_seconds": 60})
    [pinned] = await api.segments(1, detail="true")
    clock.advance(seconds=61)

    assert pinned["source"] == "explicit"
    assert await api.segments(1, detail="true", at=pinned["until"]) == [
        {"slug": "A", "source": "rollout", "since": pinned["since"], "until": None}
    ]
    assert (await api.explain(1, "A", at=pinned["until"]))["because"] == "rollout"


async def test_a_slug_means_the_living_segment_also_in_the_past(api: Api, clock: Clock) -> None:
    await api.create("A")
    await api.create("B")
    await api.add(1, "B")
    both = clock.now().isoformat()
    await api.delete("segments/A")
    await api.change_segment("B", slug="A")

    assert (await api.explain(1, "A", at=both))["because"] == "explicit"
    assert await api.segments(1, at=both) == ["A"]
