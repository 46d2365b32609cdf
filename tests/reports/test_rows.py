"""What is in a report."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Final

import numpy as np
import pytest

from segmentd.domain.bucketing import buckets, threshold
from segmentd.domain.instants import rfc3339
from segmentd.storage import upkeep
from segmentd.storage.database import Database
from tests.support.client import Api, Json
from tests.support.clock import Clock
from tests.support.office import Office

HALF: Final = threshold(Decimal(50))
TENTH: Final = threshold(Decimal(10))


async def histories(api: Api, *user_ids: int) -> list[str]:
    """The rows that a report should have, by the histories of the users."""
    return [
        f"{user_id};{event['segment']};{event['operation']};{event['at']}"
        for user_id in user_ids
        for event in await api.history(user_id, limit="1000")
    ]


async def test_a_row_is_a_user_a_segment_what_happened_and_when(office: Office) -> None:
    await office.api.create("AVITO_VOICE_MESSAGES")
    await office.api.add(1000, "AVITO_VOICE_MESSAGES")
    await office.api.remove(1000, "AVITO_VOICE_MESSAGES")
    added, removed = await office.api.history(1000)

    content = (await office.file(await office.make())).content

    assert content.decode() == (
        f"1000;AVITO_VOICE_MESSAGES;add;{added['at']}\n1000;AVITO_VOICE_MESSAGES;remove;{removed['at']}\n"
    )


async def test_rows_are_ordered_by_user_then_time_then_segment_bytewise(office: Office) -> None:
    for slug in ("a", "B", "C", "9"):
        await office.api.create(slug)
    await office.api.add(2**63 - 1, "a")
    await office.api.add(9, "C")
    await office.api.add(10, "a", "B", "9")
    await office.api.add(9, "a")

    rows = [row.split(";")[:2] for row in await office.rows()]

    assert rows == [["9", "C"], ["9", "a"], ["10", "9"], ["10", "B"], ["10", "a"], [str(2**63 - 1), "a"]]


async def test_the_header_stands_first_where_it_was_asked_for(office: Office, clock: Clock) -> None:
    await office.api.create("A")
    await office.api.add(1000, "A")
    period = this_year(clock)
    plain = await office.make(**period)
    headed = await office.make(**period, header=True)
    assert (await office.file(headed)).text == (
        "user_id;segment;operation;time\n" + (await office.file(plain)).text
    )
    assert headed["rows"] == plain["rows"] == 1


def this_year(clock: Clock) -> Json:
    """A period with all that a test does in it."""
    now = clock.now()
    return {"from": rfc3339(now - timedelta(days=300)), "to": rfc3339(now + timedelta(days=300))}


async def test_a_period_has_its_first_instant_and_not_its_last(office: Office) -> None:
    await office.api.create("A")
    for _ in range(2):
        await office.api.add(1000, "A")
        await office.api.remove(1000, "A")
    times = [event["at"] for event in await office.api.history(1000)]

    rows = await office.rows(**{"from": times[1], "to": times[3]})

    assert rows == (await histories(office.api, 1000))[1:3]


async def test_a_month_is_its_period_in_utc(office: Office, clock: Clock) -> None:
    await office.api.create("A")
    now = clock.now()
    first = datetime(now.year + 1, 1, 1, tzinfo=UTC)
    february = datetime(now.year + 1, 2, 1, tzinfo=UTC)
    # The terms end at both borders of January.
    until = [first - timedelta(microseconds=1), first, february - timedelta(microseconds=1), february]
    for user_id, end in enumerate(until, 1):
        await office.api.add(user_id, {"slug": "A", "until": rfc3339(end)})
    clock.advance(days=500)

    rows = await office.rows(month=f"{first:%Y-%m}")

    assert rows == [f"2;A;remove;{rfc3339(until[1])}", f"3;A;remove;{rfc3339(until[2])}"]
    assert rows == await office.rows(**{"from": rfc3339(first), "to": rfc3339(february)})
    moscow = f"{first + timedelta(hours=3):%Y-%m-%dT%H:%M:%S}+03:00"
    assert rows == await office.rows(**{"from": moscow, "to": rfc3339(february)})


async def test_a_report_may_be_about_one_user_or_one_segment_or_both(office: Office) -> None:
    for slug in ("A", "B"):
        await office.api.create(slug, percent=50, salt="7")
        for user_id in (1, 2, 3):
            await office.api.add(user_id, slug)
            await office.api.remove(user_id, slug)
    everything = {"from": "2000-01-01T00:00:00Z", "to": "9000-01-01T00:00:00Z"}
    rows = await office.rows(**everything)

    about_user = [row for row in rows if row.startswith("2;")]
    about_segment = [row for row in rows if ";A;" in row]
    assert len(about_user) >= 4
    assert len(about_segment) >= 6
    assert await office.rows(**everything, user_id=2) == about_user
    assert await office.rows(**everything, segment="A") == about_segment
    both = [row for row in about_user if row in about_segment]
    assert await office.rows(**everything, user_id=2, segment="A") == both


async def test_a_segment_that_took_the_slug_of_a_deleted_one_has_a_report_of_its_own(office: Office) -> None:
    await office.api.create("A")
    await office.api.add(1, "A")
    await office.api.delete("segments/A")
    await office.api.create("A")
    await office.api.add(2, "A")

    about_living = await office.rows(
        **{"from": "2000-01-01T00:00:00Z", "to": "9000-01-01T00:00:00Z"}, segment="A"
    )

    assert about_living == await histories(office.api, 2)
    assert await office.rows() == await histories(office.api, 1, 2)


async def test_what_is_due_and_not_yet_written_is_in(office: Office, clock: Clock) -> None:
    await office.api.create("TERM")
    await office.api.create("DELETED")
    until = rfc3339(clock.now() + timedelta(days=2))
    await office.api.add(1, {"slug": "TERM", "until": until}, "DELETED")
    await office.api.delete("segments/DELETED")
    deletion = (await office.api.history(1))[-1]

    assert [row for row in await office.rows() if "remove" in row] == [f"1;DELETED;remove;{deletion['at']}"]

    clock.advance(days=3)
    assert [row for row in await office.rows() if "remove" in row] == [
        f"1;DELETED;remove;{deletion['at']}",
        f"1;TERM;remove;{until}",
    ]
    assert await office.rows() == await histories(office.api, 1)


async def test_a_closed_period_gives_the_same_bytes_again_whatever_comes_after_it(
    office: Office, database: Database, clock: Clock
) -> None:
    await office.api.create("A")
    await office.api.create("B", percent=50)
    await office.api.create("C")
    for user_id in range(1, 20):
        await office.api.add(user_id, {"slug": "A", "ttl_seconds": 60 * user_id}, "C")
    await office.api.delete("segments/C")
    clock.advance(days=1)
    period = {"from": rfc3339(clock.now() - timedelta(days=2)), "to": rfc3339(clock.now())}
    first = await office.make(**period)

    clock.advance(days=1)
    for user_id in range(5, 25):
        await office.api.add(user_id, "A", "B")
    await upkeep.settle_due_terms(database)
    await upkeep.settle_deleted_segments(database)
    await office.api.change_segment("B", percent=80)
    await office.api.delete("segments/A")
    await office.api.delete("users/1")
    second = await office.make(**period)

    assert first["rows"] > 19 * 4
    assert (second["sha256"], second["rows"]) == (first["sha256"], first["rows"])
    assert (await office.file(second)).content == (await office.file(first)).content
    assert second["as_of"] > first["as_of"] >= period["to"]


@pytest.mark.parametrize("back", [0.5, 3600])
async def test_a_closed_period_gives_the_same_bytes_though_the_clock_stepped_back(
    office: Office, clock: Clock, back: float
) -> None:
    await office.api.create("A")
    await office.api.create("B", percent=50)
    await office.api.add(1, {"slug": "A", "ttl_seconds": 60}, "B")
    clock.advance(days=1)
    await office.make()
    period = {"from": rfc3339(clock.now() - timedelta(days=2)), "to": rfc3339(clock.now())}
    first = await office.make(**period)

    clock.advance(seconds=-back)
    await office.api.add(2, "A")
    await office.api.add(1, "A")
    await office.api.post("users", json={"id": 3})
    await office.api.change_segment("B", percent=100)
    await office.api.delete("segments/A")
    second = await office.make(**period)

    assert first["rows"] > 0
    assert (await office.file(second)).content == (await office.file(first)).content
    assert second["as_of"] > first["as_of"] >= period["to"]


async def test_segments_that_came_to_have_one_slug_keep_one_order_at_one_instant(office: Office) -> None:
    await office.api.create("OLD")
    await office.api.create("NEW")
    for user_id in range(1, 30):
        first, second = ("OLD", "NEW") if user_id % 2 else ("NEW", "OLD")
        await office.api.add(user_id, first)
        await office.api.change(user_id, add=[second], remove=[first])
    await office.api.delete("segments/OLD")
    await office.api.change_segment("NEW", slug="OLD")

    rows = await office.rows()

    assert rows == await histories(office.api, *range(1, 30))
    at_one_instant = [one for one, next_one in pairwise(rows) if one[-27:] == next_one[-27:]]
    assert len(at_one_instant) == 29


async def test_a_renamed_segment_has_its_present_slug_in_the_past_too(office: Office) -> None:
    await office.api.create("OLD")
    await office.api.add(1, "OLD")
    before = await office.rows()
    await office.api.change_segment("OLD", slug="NEW")
    assert await office.rows() == [row.replace("OLD", "NEW") for row in before]


async def test_users_of_a_percentage_get_in_and_out_with_it_unless_decided_otherwise(
    office: Office, clock: Clock
) -> None:
    for user_id in range(1, 41):
        await office.api.post("users", json={"id": user_id})
    segment = await office.api.create("HALF", percent=50)
    bucket = dict(zip(
        range(1, 81), buckets(np.arange(1, 81), np.full(80, int(segment["salt"]))).tolist(), strict=True
    ))  # fmt: skip
    order = sorted(bucket, key=lambda user_id: bucket[user_id])
    inside = [user_id for user_id in order if user_id <= 40 and bucket[user_id] < HALF]
    excluded, pinned = inside[0], inside[-1]
    await office.api.remove(excluded, "HALF")
    await office.api.add(pinned, "HALF")
    for user_id in range(41, 81):
        await office.api.post("users", json={"id": user_id})
    registered = {user["id"]: user["registered_at"] for user in await office.api.walk("users", "users", 100)}
    clock.advance(days=1)
    await office.api.change_segment("HALF", percent=10)
    taken_out = [user_id for user_id in inside if bucket[user_id] >= TENTH and user_id != pinned]
    shrunk = (await office.api.history(taken_out[-1]))[-1]["at"]

    expected = []
    for user_id in range(1, 81):
        if bucket[user_id] >= HALF:
            continue
        expected.append((user_id, max(segment["created_at"], registered[user_id]), "add"))
        if user_id == excluded:
            expected.append((user_id, (await office.api.history(user_id))[1]["at"], "remove"))
        elif user_id != pinned and bucket[user_id] >= TENTH:
            expected.append((user_id, shrunk, "remove"))
    rows = await office.rows()
    assert rows == [f"{user_id};HALF;{operation};{at}" for user_id, at, operation in sorted(expected)]
    assert rows == await histories(office.api, *range(1, 81))
    assert registered[41] > segment["created_at"] > registered[40]


async def test_a_period_without_the_start_of_a_percentage_has_no_rows_of_it(
    office: Office, clock: Clock
) -> None:
    await office.api.post("users", json={"id": 1})
    await office.api.create("ALL", percent=100)
    clock.advance(days=1)
    period = {"from": rfc3339(clock.now()), "to": rfc3339(clock.now() + timedelta(days=1))}
    assert await office.rows(**period) == []
    assert len(await office.rows()) == 1


async def test_a_report_is_the_union_of_the_histories_of_all_users(office: Office, clock: Clock) -> None:
    await office.api.create("A")
    await office.api.create("B", percent=40)
    await office.api.create("C", percent=100)
    for user_id in range(1, 13):
        await office.api.add(user_id, "A", {"slug": "B", "ttl_seconds": 100 * user_id})
        if user_id % 2:
            await office.api.remove(user_id, "A", "C")
        clock.advance(seconds=100)
    for user_id in (3, 4):
        await office.api.delete(f"users/{user_id}")
    await office.api.add(3, "A")
    await office.api.change_segment("B", percent=70)
    await office.api.change_segment("C", percent=None)
    await office.api.delete("segments/A")
    clock.advance(seconds=500)

    rows = await office.rows()

    assert rows == await histories(office.api, *range(1, 13))
    assert {row.split(";")[1] for row in rows} == {"A", "B", "C"}
