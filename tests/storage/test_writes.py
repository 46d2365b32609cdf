"""What a write leaves in the tables, where no answer shows it."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest

from segmentd.storage.database import Database
from segmentd.storage.upkeep import settle_deleted_segments, settle_due_terms
from tests.support.client import Api
from tests.support.clock import Clock
from tests.support.node import node
from tests.support.postgres import execute
from tests.support.rows import Rows

MICROSECOND = timedelta(microseconds=1)


def versions(rows: Rows, user_id: int) -> int:
    [version] = rows.column("SELECT version FROM users WHERE id = %s", user_id)
    assert isinstance(version, int)
    return version


# Time


async def test_the_times_of_a_user_grow_whatever_the_clock_does(api: Api, clock: Clock, rows: Rows) -> None:
    for slug in ("A", "B"):
        await api.create(slug)
    for hours in (0, -1, -5, 0, 3, -3):
        clock.advance(seconds=hours * 3600)
        await api.add(1000, "A", "B")
        await api.remove(1000, "A")
        await api.delete("users/1000")

    # The order of the transactions, not of their times.
    times = rows.column(
        "SELECT DISTINCT ON (xid) at FROM membership_events WHERE user_id = 1000 ORDER BY xid"
    )
    assert len(times) == 18
    assert times == sorted(set(times))
    lives = [
        time for life in rows("SELECT registered_at, ended_at FROM registrations ORDER BY 1") for time in life
    ]
    assert lives == sorted(set(lives))
    assert rows.column("SELECT last_at FROM users WHERE id = 1000") == [times[-1]]


@pytest.mark.parametrize("known", [True, False])
async def test_a_change_is_later_than_the_newest_segment_when_the_clock_went_back(
    api: Api, clock: Clock, rows: Rows, *, known: bool
) -> None:
    if known:
        await api.post("users", json={"id": 1000})
    clock.advance(days=1)
    await api.create("A")
    clock.advance(days=-1)

    await api.add(1000, "A")

    [(created, added)] = rows("SELECT s.created_at, e.at FROM segments s, membership_events e")
    [registered] = rows.column("SELECT registered_at FROM registrations")
    assert created < added
    assert (registered < created) is known


async def test_percentages_follow_each_other_when_the_clock_goes_back(
    api: Api, clock: Clock, rows: Rows
) -> None:
    await api.create("A", percent=10)
    for percent in (20, None, 30):
        clock.advance(days=-1)
        await api.change_segment("A", percent=percent)
    clock.advance(days=-1)
    await api.delete("segments/A")

    times = [
        time for version in rows("SELECT started_at, ended_at FROM rollouts ORDER BY 1") for time in version
    ]
    assert len(times) == 6
    assert times == sorted(times)
    assert rows.column("SELECT deleted_at > created_at FROM segments") == [True]


@pytest.mark.parametrize("back", [0.000001, 0.5, 86_400])
@pytest.mark.parametrize("wish", ["a pin", "an exclusion"])
async def test_a_percentage_is_dated_after_a_decision_before_it_though_the_clock_stepped_back(
    api: Api, clock: Clock, wish: str, back: float
) -> None:
    await api.create("A", percent=100 if wish == "a pin" else 0)
    await (api.add if wish == "a pin" else api.remove)(1000, "A")
    clock.advance(seconds=-back)
    await api.change_segment("A", percent=0 if wish == "a pin" else 100)

    held = ["A"] if wish == "a pin" else []
    assert await api.segments(1000) == held
    assert [answered["slug"] for answered in await api.segments(1000, detail="true")] == held
    assert (await api.get("segments/A/users")).json()["user_ids"] == ([1000] if held else [])
    assert (await api.explain(1000, "A"))["because"] == ("explicit" if held else "excluded")
    assert [event["operation"] for event in await api.history(1000)] == (["add"] if held else [])


async def test_a_change_of_segments_is_later_than_registrations_and_deletions(
    api: Api, clock: Clock, rows: Rows
) -> None:
    for user_id in (1000, 1001):
        await api.post("users", json={"id": user_id})
    clock.advance(days=1)
    await api.delete("users/1000")
    clock.advance(days=-2)
    await api.create("A", percent=100)
    clock.advance(days=-1)
    await api.post("users", json={"id": 1002})

    dated = "SELECT (SELECT max(ended_at) FROM registrations) < created_at FROM segments"
    assert rows.column(dated) == [True]
    assert rows.column("SELECT s.created_at < u.last_at FROM segments s, users u WHERE u.id = 1002") == [True]
    assert [event["cause"] for event in await api.history(1001)] == ["rollout"]
    assert [event["cause"] for event in await api.history(1002)] == ["rollout"]


async def test_entries_of_the_audit_log_stand_in_the_order_of_their_times(
    api: Api, clock: Clock, rows: Rows
) -> None:
    await api.create("A")
    clock.advance(seconds=-60)
    await api.change_segment("A", percent=10)
    await api.add(1000, "A")
    await api.delete("users/1000?erase=true")

    times = rows.column("SELECT at FROM audit_log ORDER BY id")
    assert len(times) == 3
    assert times == sorted(set(times))


async def test_every_table_has_a_primary_key_so_that_an_erasure_passes_logical_replication(
    api: Api, rows: Rows, database_url: str
) -> None:
    without = rows.column("""
        SELECT c.relname FROM pg_class c
        WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace
          AND c.relname NOT LIKE 'procrastinate%%'
          AND NOT EXISTS (SELECT FROM pg_constraint p WHERE p.conrelid = c.oid AND p.contype = 'p')
    """)
    assert without == []
    await api.create("A")
    await api.add(1000, "A")
    execute(database_url, "CREATE PUBLICATION everything FOR ALL TABLES")

    assert (await api.delete("users/1000?erase=true")).status_code == 204

    assert rows.column("SELECT count(*) FROM membership_events") == [0]


@pytest.mark.parametrize("settled_by", ["a write", "the job"])
async def test_a_segment_deleted_after_the_clock_went_back_can_be_settled(
    api: Api, clock: Clock, database: Database, rows: Rows, settled_by: str
) -> None:
    await api.create("A")
    await api.create("B")
    clock.advance(days=1)
    await api.add(1000, "A")
    clock.advance(days=-1)
    await api.delete("segments/A")
    assert await api.segments(1000) == []
    clock.advance(days=2)

    answered = await api.history(1000)
    if settled_by == "a write":
        await api.add(1000, "B")
    else:
        await settle_deleted_segments(database)

    assert [(event["operation"], event["cause"]) for event in answered] == [
        ("add", "request"),
        ("remove", "segment-deleted"),
    ]
    assert (await api.history(1000))[:2] == answered
    assert rows.column("SELECT ended_at > since FROM memberships WHERE segment_id = 1") == [True]


# Registration


async def test_the_first_change_registers_the_user_a_microsecond_before(api: Api, rows: Rows) -> None:
    await api.create("A")
    await api.add(1000, "A")

    [(at, registered, life)] = rows(
        "SELECT e.at, u.registered_at, l.registered_at FROM users u"
        " JOIN registrations l ON l.user_id = u.id JOIN membership_events e ON e.user_id = u.id"
    )
    assert registered == life == at - MICROSECOND


async def test_a_user_who_comes_back_begins_a_new_life_a_microsecond_before_the_change(
    api: Api, rows: Rows
) -> None:
    await api.create("A")
    await api.add(1000, "A")
    await api.delete("users/1000")
    await api.add(1000, "A")

    [(_, first_end), (second_start, second_end)] = rows(
        "SELECT registered_at, ended_at FROM registrations ORDER BY registered_at"
    )
    [latest] = rows.column("SELECT max(at) FROM membership_events")
    assert first_end < second_start == latest - MICROSECOND
    assert second_end is None


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"add": ["A", "UNKNOWN"]}, 404),
        ({"remove": ["UNKNOWN"]}, 404),
        ({"add": [{"slug": "A", "until": "2001-01-01T00:00:00Z"}]}, 422),
        ({"add": ["A", {"slug": "B", "ttl_seconds": 2**62}]}, 422),
        ({"add": ["A"], "remove": ["A"]}, 422),
        ({"add": ["A"], "reason": "x" * 501}, 422),
        ({}, 422),
    ],
)
async def test_a_refused_change_leaves_no_trace(
    api: Api, rows: Rows, change: dict[str, object], status: int
) -> None:
    await api.create("A", percent=50)
    await api.create("B")

    answer = await api.post("users/1000/segments", json=change)

    assert answer.status_code == status
    traces = rows(
        "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM registrations),"
        " (SELECT count(*) FROM memberships), (SELECT count(*) FROM membership_events)"
    )
    assert traces == [(0, 0, 0, 0)]


@pytest.mark.parametrize(
    "bad", [{"remove": ["UNKNOWN"]}, {"add": [{"slug": "A", "until": "2001-01-01T00:00:00Z"}]}]
)
async def test_a_refused_change_of_a_deleted_user_begins_no_life(
    api: Api, rows: Rows, bad: dict[str, object]
) -> None:
    await api.create("A")
    await api.add(1000, "A")
    await api.delete("users/1000")
    before = rows("SELECT * FROM users, registrations")

    answer = await api.post("users/1000/segments", json=bad)

    assert answer.status_code in {404, 422}
    assert rows("SELECT * FROM users, registrations") == before
    assert (await api.get("users/1000")).status_code == 404
    assert (await api.add(1000, "A"))["added"] == ["A"]


async def test_a_refused_change_of_a_known_user_leaves_everything_as_it_was(api: Api, rows: Rows) -> None:
    await api.create("A")
    await api.add(1000, "A")
    before = rows("SELECT * FROM users, memberships")

    answer = await api.post("users/1000/segments", json={"remove": ["A"], "add": ["UNKNOWN"]})

    assert answer.status_code == 404
    assert rows("SELECT * FROM users, memberships") == before


# Events


async def test_only_what_changes_the_answer_is_written_as_effective(api: Api, rows: Rows) -> None:
    await api.create("ALL", percent=100)
    await api.create("NONE", percent=0)
    await api.create("PLAIN")
    await api.add(1000, "ALL")  # pins a user who is in
    await api.remove(1000, "NONE")  # excludes a user who is out
    await api.add(1000, "PLAIN")
    await api.add(1000, {"slug": "PLAIN", "ttl_seconds": 60})  # a new term
    await api.remove(1000, "ALL")
    await api.add(1000, "PLAIN", {"slug": "NONE", "ttl_seconds": 60})
    await api.delete("users/1000")

    events = rows(
        "SELECT s.slug, e.operation, e.effective, e.cause FROM membership_events e"
        " JOIN segments s ON s.id = e.segment_id ORDER BY e.at, s.slug"
    )
    assert events == [
        ("ALL", "add", False, "request"),
        ("NONE", "remove", False, "request"),
        ("PLAIN", "add", True, "request"),
        ("PLAIN", "add", False, "request"),
        ("ALL", "remove", True, "request"),
        ("NONE", "add", True, "request"),
        ("PLAIN", "add", False, "request"),
        ("ALL", "remove", False, "user-deleted"),
        ("NONE", "remove", True, "user-deleted"),
        ("PLAIN", "remove", True, "user-deleted"),
    ]


async def test_what_holds_already_is_written_nowhere(api: Api, rows: Rows) -> None:
    await api.create("A")
    await api.create("B")
    await api.add(1000, "A")
    before = rows("SELECT * FROM memberships"), rows("SELECT * FROM membership_events")

    await api.add(1000, "A")
    await api.remove(1000, "B")

    assert (rows("SELECT * FROM memberships"), rows("SELECT * FROM membership_events")) == before


async def test_an_event_names_the_transaction_that_wrote_it(api: Api, rows: Rows) -> None:
    await api.create("A")
    await api.create("B")
    await api.add(1000, "A", "B")
    await api.remove(1000, "A")

    xids = rows.column("SELECT xid::text::bigint FROM membership_events ORDER BY at")
    assert xids[0] == xids[1] < xids[2]
    [own] = rows.column("SELECT pg_current_xact_id()::text::bigint")
    assert xids[2] < own


async def test_another_default_isolation_of_the_database_changes_nothing(
    database_url: str, api: Api, tmp_path: Path, rows: Rows
) -> None:
    name = urlsplit(database_url).path.removeprefix("/")
    execute(database_url, "ALTER DATABASE {} SET default_transaction_isolation = 'serializable'", name)
    async with node(database_url, tmp_path / "another") as another:
        await another.create("A")
        await asyncio.gather(*(client.add(1000, "A") for client in (api, another) * 10))

    assert rows.column("SELECT operation FROM membership_events") == ["add"]


# Settling


@pytest.mark.parametrize("settled_by", ["a write", "the job", "a deletion", "all at once"])
async def test_a_term_is_settled_once_and_with_exactly_its_end(
    api: Api, clock: Clock, database: Database, rows: Rows, settled_by: str
) -> None:
    await api.create("A")
    await api.create("B")
    await api.add(1000, {"slug": "A", "ttl_seconds": 60}, {"slug": "B", "ttl_seconds": 90})
    clock.advance(seconds=100)
    answered = await api.history(1000)

    if settled_by == "a write":
        await asyncio.gather(api.remove(1000, "A"), api.remove(1000, "B"))
    if settled_by == "the job":
        assert await settle_due_terms(database) == 1
    if settled_by == "a deletion":
        await api.delete("users/1000")
    if settled_by == "all at once":
        works = [*(api.remove(1000, "A") for _ in range(4)), *(settle_due_terms(database) for _ in range(4))]
        await asyncio.gather(*works)
    assert await settle_due_terms(database) == 0

    settled = rows(
        "SELECT e.at = m.until AND e.until = m.until AND m.ended_at = m.until, e.effective, e.cause, e.actor"
        " FROM membership_events e JOIN memberships m USING (user_id, segment_id)"
        " WHERE e.operation = 'remove'"
    )
    assert settled == [(True, True, "expiry", "segmentd")] * 2
    assert await api.history(1000) == answered


@pytest.mark.parametrize("settled_by", ["a write", "the job", "all at once"])
async def test_a_deleted_segment_is_settled_once_and_with_exactly_its_end(
    api: Api, database: Database, rows: Rows, settled_by: str
) -> None:
    await api.create("A")
    await api.create("B")
    for user_id in (1, 2, 3):
        await api.add(user_id, "A")
    await api.delete("segments/A")
    answered = [await api.history(user_id) for user_id in (1, 2, 3)]

    if settled_by == "a write":
        for user_id in (1, 2, 3):
            await api.remove(user_id, "B")
    if settled_by == "the job":
        assert await settle_deleted_segments(database, batch_users=2) == 3
    if settled_by == "all at once":
        works = [*(api.remove(user, "B") for user in (1, 2, 3)), settle_deleted_segments(database)]
        await asyncio.gather(*works)
    assert await settle_deleted_segments(database) == 0

    settled = rows(
        "SELECT e.at = s.deleted_at AND m.ended_at = s.deleted_at, e.effective, e.cause"
        " FROM membership_events e JOIN memberships m USING (user_id, segment_id)"
        " JOIN segments s ON s.id = m.segment_id WHERE e.operation = 'remove'"
    )
    assert settled == [(True, True, "segment-deleted")] * 3
    assert [await api.history(user_id) for user_id in (1, 2, 3)] == answered


async def test_the_end_of_a_term_is_judged_by_the_percentage_of_that_instant(
    api: Api, clock: Clock, database: Database, rows: Rows
) -> None:
    await api.create("A", percent=100)
    await api.add(1000, {"slug": "A", "ttl_seconds": 60})
    clock.advance(seconds=100)
    await api.change_segment("A", percent=0)

    await settle_due_terms(database)

    assert rows("SELECT operation, effective, cause FROM membership_events ORDER BY at") == [
        ("add", False, "request"),
        ("remove", False, "expiry"),
    ]
    assert [(event["operation"], event["cause"]) for event in await api.history(1000)] == [
        ("add", "rollout"),
        ("remove", "rollout"),
    ]


async def test_a_renewed_term_is_never_cut_short_by_a_job_that_was_about_to_end_it(
    api: Api, clock: Clock, database: Database, rows: Rows
) -> None:
    await api.create("A")
    for user_id in range(1, 9):
        await api.add(user_id, {"slug": "A", "ttl_seconds": 60})
    clock.advance(seconds=61)

    renewals = [api.add(user_id, {"slug": "A", "ttl_seconds": 600}) for user_id in range(1, 9)]
    await asyncio.gather(*renewals, *(settle_due_terms(database, batch_users=2) for _ in range(3)))
    await settle_due_terms(database)

    assert rows.column("SELECT count(*) FROM memberships WHERE ended_at IS NULL") == [8]
    for user_id in range(1, 9):
        assert [event["operation"] for event in await api.history(user_id)] == ["add", "remove", "add"]


# Versions


async def test_every_write_to_a_user_raises_the_version(
    api: Api, clock: Clock, database: Database, rows: Rows
) -> None:
    await api.create("A")
    await api.post("users", json={"id": 1000})
    seen = [versions(rows, 1000)]
    for write in (
        api.add(1000, {"slug": "A", "ttl_seconds": 60}),
        api.remove(1000, "A"),
        api.add(1000, {"slug": "A", "ttl_seconds": 60}),
    ):
        await write
        seen.append(versions(rows, 1000))
    clock.advance(seconds=61)
    await settle_due_terms(database)
    seen.append(versions(rows, 1000))

    assert seen == sorted(set(seen))


async def test_the_version_goes_on_through_a_deletion(api: Api, rows: Rows) -> None:
    await api.create("A")
    await api.add(1000, "A")
    seen = [versions(rows, 1000)]
    await api.delete("users/1000")
    seen.append(versions(rows, 1000))
    await api.post("users", json={"id": 1000})
    seen.append(versions(rows, 1000))
    await api.add(1000, "A")
    seen.append(versions(rows, 1000))

    assert seen == sorted(set(seen))
    assert rows.column("SELECT count(*) FROM users") == [1]


@pytest.mark.parametrize(
    "change", [{"description": "other"}, {"slug": "B"}, {"percent": 20}, {"percent": None}]
)
async def test_every_change_of_a_segment_raises_the_version_of_the_catalog(
    api: Api, rows: Rows, change: dict[str, object]
) -> None:
    await api.create("A", percent=10)
    before = rows.column("SELECT version FROM catalog")

    await api.patch("segments/A", json=change)

    assert rows.column("SELECT version FROM catalog") > before


# Constraints

KNOWN_USER: LiteralString = (
    "INSERT INTO users (id, registered_at, last_at) VALUES (1, '2026-01-01Z', '2026-01-01Z')"
)
MEMBERSHIP: LiteralString = (
    "INSERT INTO memberships (user_id, segment_id, included, since, until, ended_at) VALUES "
)


@pytest.mark.parametrize(
    "row",
    [
        "(1, 1, false, '2026-01-01Z', '2026-02-01Z', NULL)",
        "(1, 1, true, '2026-01-01Z', '2026-01-01Z', NULL)",
        "(1, 1, true, '2026-01-02Z', NULL, '2026-01-01Z')",
        "(1, 1, true, '2026-01-01Z', '2026-02-01Z', '2026-03-01Z')",
        "(1, 1, true, '2026-01-01Z', NULL, NULL), (1, 1, false, '2026-02-01Z', NULL, NULL)",
    ],
    ids=[
        "exclusion with a term",
        "empty term",
        "ends before it begins",
        "outlives its term",
        "two open",
    ],
)
def test_the_tables_refuse_a_membership_that_cannot_be(rows: Rows, row: LiteralString) -> None:
    rows.run(KNOWN_USER)
    with pytest.raises(psycopg.IntegrityError):
        rows.run(MEMBERSHIP + row)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO users (id, registered_at, last_at) VALUES (0, now(), now())",
        "INSERT INTO segments (slug, salt, created_at) VALUES ('-a', 1, now())",
        "INSERT INTO segments (slug, salt, created_at) VALUES ('a\n', 1, now())",
        "INSERT INTO segments (slug, salt, created_at) VALUES ('a', 1, now()), ('A', 1, now())",
        "INSERT INTO registrations VALUES (1, '2026-01-01Z'), (1, '2026-01-02Z')",
        "INSERT INTO catalog (only_row, version, last_at) VALUES (false, 1, now())",
        "INSERT INTO rollouts (segment_id, percent, started_at) VALUES (1, 100.0001, now())",
        "INSERT INTO catalog (version, last_at) VALUES (1, now())",
    ],
)
def test_the_tables_refuse_what_the_contract_forbids(rows: Rows, statement: LiteralString) -> None:
    rows.run(KNOWN_USER)
    rows.run("INSERT INTO segments (slug, salt, created_at) VALUES ('known', 1, now())")
    with pytest.raises(psycopg.IntegrityError):
        rows.run(statement)


def test_two_versions_of_a_percentage_cannot_hold_at_once(rows: Rows) -> None:
    rows.run("INSERT INTO segments (slug, salt, created_at) VALUES ('A', 1, '2026-01-01Z')")
    rows.run("INSERT INTO rollouts (segment_id, percent, started_at) VALUES (1, 10, '2026-01-01Z')")
    with pytest.raises(psycopg.IntegrityError):
        rows.run("INSERT INTO rollouts (segment_id, percent, started_at) VALUES (1, 20, '2026-01-02Z')")
