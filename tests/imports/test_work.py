"""The background work on an import: what may happen meanwhile, and that no row is lost or applied twice."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segmentd.domain.imports import ImportLimits, Status
from segmentd.imports.work import BATCH_S, ImportWork, next_rows
from segmentd.imports.work import LEAST_ROWS as LEAST
from segmentd.imports.work import MOST_ROWS as MOST
from segmentd.storage import import_work
from segmentd.storage.database import Database
from tests.support.client import Api, Json
from tests.support.clock import Clock
from tests.support.importing import Importing, counts
from tests.support.office import until
from tests.support.rows import Rows, rows_of
from tests.support.user_changes import START
from tests.support.world import World, inhabited

LATER = "2090-01-01T00:00:00.000000Z"


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    with rows_of(database_url) as rows:
        yield rows


@pytest.fixture
async def lists(api: Api, database: Database) -> Importing:
    """The segments A and B."""
    await api.create("A")
    await api.create("B")
    return Importing(api, database)


# The events before the segment C, and those of the batches up to the one with this user.
BEFORE_AND_IN_HAND: LiteralString = """
    SELECT count(*) FILTER (WHERE e.at < (SELECT created_at FROM segments WHERE slug = 'C')),
           count(*) FILTER (WHERE e.xid <= (SELECT xid FROM membership_events WHERE user_id = %s))
    FROM membership_events e
"""


def users(*numbers: int) -> str:
    return "".join(f"{number}\n" for number in numbers)


async def apply(lists: Importing, found: Json, rows: int) -> import_work.Batch:
    """One batch of an import of few users, who are one range."""
    return await import_work.apply_batch(lists.database, await lists.number(found), 1, rows)


async def check(lists: Importing, found: Json) -> None:
    await import_work.check(lists.database, await lists.number(found), 1000)


# Batches


async def test_an_import_is_applied_in_batches_in_the_order_of_users_with_its_progress(
    lists: Importing, rows: Rows
) -> None:
    begun = await lists.begin("3;A\n1;A\n2;A\n2;B\n9;A\n1;B\n")
    await check(lists, begun)
    seen = await lists.see(begun)
    assert (seen["status"], seen["users"], seen["applied_users"]) == ("applying", 4, 0)

    assert (await apply(lists, begun, 3)).users == 2  # all rows of user 2 are in it
    seen = await lists.see(begun)
    assert (seen["status"], seen["applied_users"], counts(seen)) == ("applying", 2, (4, 0, 0, 0))
    assert [await lists.members("A"), await lists.members("B")] == [[1, 2], [1, 2]]
    assert (await apply(lists, begun, 1)).users == 1
    assert (await apply(lists, begun, 1)).users == 1
    assert (await apply(lists, begun, 1)).status is Status.DONE
    assert await lists.members("A") == [1, 2, 3, 9]
    assert rows.column("SELECT count(DISTINCT xid) FROM membership_events") == [3]


async def test_a_batch_that_is_undone_is_applied_again_and_one_that_was_committed_is_not(
    lists: Importing, database_url: str
) -> None:
    begun = await lists.begin(users(*range(1, 7)), segment="A")
    await check(lists, begun)
    number = await lists.number(begun)
    async with await psycopg.AsyncConnection.connect(database_url) as crashing:
        await crashing.execute("SELECT apply_import_batch(%s, 1, 2)", [number])
        await crashing.rollback()
    assert (await lists.see(begun))["applied_users"] == 0
    assert await lists.members("A") == []
    await apply(lists, begun, 2)
    done = await lists.finish(begun)

    assert (done["applied_users"], counts(done)) == (6, (6, 0, 0, 0))
    assert [len(await lists.api.history(user)) for user in range(1, 7)] == [1] * 6


async def test_a_list_of_many_users_is_applied_over_two_connections_each_user_once(
    lists: Importing, rows: Rows, database_url: str
) -> None:
    begun = await lists.begin("".join(f"{n};A\n{n};B\n" for n in range(1, 601)))
    with closing(psycopg.connect(database_url)) as holder:
        holder.execute("INSERT INTO users (id, registered_at, last_at) VALUES (1, now(), now())")
        finishing = asyncio.create_task(lists.finish(begun))

        async def half_is_done() -> bool:
            return bool((await lists.see(begun))["applied_users"] == 299)

        await until(half_is_done)
        assert (await lists.see(begun))["status"] == "applying"
        assert min(await lists.members("A")) == 302
    done = await finishing

    assert (done["status"], done["applied_users"], counts(done)) == ("done", 600, (1200, 0, 0, 0))
    assert rows("SELECT count(*), count(DISTINCT (user_id, segment_id)) FROM membership_events") == [
        (1200, 1200)
    ]


async def test_an_import_whose_worker_died_after_the_last_batch_is_ended_by_the_next_one(
    lists: Importing, rows: Rows
) -> None:
    begun = await lists.begin(users(1), segment="A")
    await check(lists, begun)
    for _ in range(2):
        rows.run("SELECT apply_import_batch(%s, 1, 10)", await lists.number(begun))

    assert (await lists.see(begun))["status"] == "applying"
    assert (await lists.finish(begun))["status"] == "done"


def test_batches_become_as_large_as_their_time_allows() -> None:
    assert next_rows(LEAST, BATCH_S / 10) > LEAST
    assert next_rows(MOST, BATCH_S / 10) == MOST
    assert next_rows(MOST, 2 * BATCH_S) == MOST // 2
    assert next_rows(LEAST, 100) == LEAST


async def test_the_work_gives_way_after_its_turn_and_goes_on_in_the_next_one(lists: Importing) -> None:
    begun = await lists.begin(users(*range(1, LEAST + 2)), segment="A")
    number = await lists.number(begun)
    hasty = ImportWork(lists.database, turn_s=1e-9)

    assert not await hasty.advance(number)
    assert (await lists.see(begun))["applied_users"] == LEAST
    assert not await hasty.advance(number)
    assert await hasty.advance(number)
    assert (await lists.see(begun))["applied_users"] == LEAST + 1


async def test_each_batch_waits_until_the_replica_has_kept_up_and_for_its_turn(lists: Importing) -> None:
    begun = await lists.begin(users(*range(1, 2 * LEAST)), segment="A")
    kept_up, turn = asyncio.Event(), asyncio.Lock()
    applied: list[int] = []

    async def pace() -> None:
        applied.append((await lists.see(begun))["applied_users"])
        await kept_up.wait()

    lists.work = ImportWork(lists.database, pace=pace, turn=lambda: turn)
    finishing = asyncio.create_task(lists.finish(begun))
    await until(lambda: asyncio.sleep(0, applied))
    assert (applied, (await lists.see(begun))["applied_users"]) == ([0], 0)
    async with turn:
        kept_up.set()
        await asyncio.sleep(0)
        assert (applied, (await lists.see(begun))["applied_users"]) == ([0], 0)

    assert (await finishing)["status"] == "done"
    assert len(applied) > 2
    assert applied == sorted({*applied})


# Meanwhile


async def test_who_joins_after_the_check_stays_when_a_list_replaces_the_members(lists: Importing) -> None:
    await lists.api.add(1, "A")
    begun = await lists.begin(users(2), segment="A", operation="replace")
    await check(lists, begun)
    await lists.api.add(3, "A")
    await lists.finish(begun)

    assert await lists.members("A") == [2, 3]


async def test_a_segment_that_is_created_meanwhile_waits_for_the_batch_in_hand_alone(
    lists: Importing, rows: Rows, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmentd.imports.work.MOST_ROWS", LEAST)
    begun = await lists.begin(users(*range(1, 4 * LEAST)), segment="A")  # one range
    with closing(psycopg.connect(database_url)) as holder:
        held = 2 * LEAST  # the last user of the second batch
        holder.execute("INSERT INTO users (id, registered_at, last_at) VALUES (%s, now(), now())", [held])
        finishing = asyncio.create_task(lists.finish(begun))
        await until(lambda: has_locks(rows, "transactionid", 1))
        creating = asyncio.create_task(lists.api.create("C"))
        await until(lambda: has_locks(rows, "advisory", 1))
    assert (await finishing)["status"] == "done"
    await creating

    [(before, in_hand)] = rows(BEFORE_AND_IN_HAND, held)
    assert held == before == in_hand


async def has_locks(rows: Rows, kind: str, waiting: int) -> bool:
    """Whether so many transactions of this test wait for a lock of this kind."""
    return rows.column(
        "SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l USING (pid)"
        " WHERE a.datname = current_database() AND l.locktype = %s AND NOT l.granted",
        kind,
    ) == [waiting]


async def test_an_import_of_a_renamed_segment_goes_on(lists: Importing) -> None:
    begun = await lists.begin(users(1, 2), segment="A")
    await check(lists, begun)
    await apply(lists, begun, 1)
    await lists.api.change_segment("A", slug="C")
    await lists.api.create("A")
    done = await lists.finish(begun)

    assert (done["status"], done["segment"]) == ("done", "C")
    assert [await lists.members("C"), await lists.members("A")] == [[1, 2], []]


@pytest.mark.parametrize("moment", ["before the check", "between two batches"])
async def test_an_import_whose_segment_is_deleted_fails_and_says_how_far_it_came(
    lists: Importing, moment: str
) -> None:
    begun = await lists.begin(users(1, 2), segment="A")
    applied = moment == "between two batches"
    if applied:
        await check(lists, begun)
        await apply(lists, begun, 1)
    await lists.api.delete("segments/A")
    failed = await lists.finish(begun)

    assert failed["status"] == "failed"
    assert failed["detail"] == "The segment A was deleted meanwhile. " + (
        "1 of 2 users were changed before that." if applied else "Nothing was changed."
    )
    assert failed["applied_users"] == applied


@pytest.mark.parametrize("skip_invalid", ["true", "false"])
async def test_a_row_whose_segment_is_deleted_before_its_turn_is_a_bad_row(
    lists: Importing, skip_invalid: str
) -> None:
    begun = await lists.begin("1;A\n2;B\n3;A\n", skip_invalid=skip_invalid)
    await check(lists, begun)
    await apply(lists, begun, 1)
    await lists.api.delete("segments/B")
    ended = await lists.finish(begun)

    if skip_invalid == "true":
        assert (ended["status"], counts(ended), ended["invalid_rows"]) == ("done", (2, 0, 0, 0), 1)
        assert ended["errors"] == [
            {"line": 2, "detail": "the segment was deleted before the row was applied", "text": "2;B"}
        ]
    else:
        assert (ended["status"], counts(ended)) == ("failed", (1, 0, 0, 0))
        assert ended["detail"] == (
            "Line 2: the segment was deleted before the row was applied."
            " 1 of 3 users were changed before that."
        )


async def test_a_row_whose_term_ends_before_its_turn_is_a_bad_row_and_the_others_go_on(
    lists: Importing, clock: Clock
) -> None:
    soon = clock.now() + timedelta(minutes=5)
    begun = await lists.begin(f"user_id;until;segment\n1;{soon.isoformat()};A\n1;;B\n2;{LATER};A\n")
    await check(lists, begun)
    clock.advance(seconds=360)
    done = await lists.finish(begun)

    assert (done["status"], done["invalid_rows"], counts(done)) == ("done", 1, (2, 0, 0, 0))
    [bad] = done["errors"]
    assert (bad["line"], bad["detail"]) == (2, "the term ended before the row was applied")
    assert await lists.members("B") == [1]


async def test_a_segment_that_gets_a_percentage_is_not_replaced_any_further(lists: Importing) -> None:
    await lists.api.add(1, "A")
    begun = await lists.begin(users(2), segment="A", operation="replace")
    await check(lists, begun)
    await lists.api.change_segment("A", percent=10)
    failed = await lists.finish(begun)

    assert failed["status"] == "failed"
    assert failed["detail"] == (
        "The segment A has a percentage by now, so its members cannot be replaced."
        " 0 of 2 users were changed before that."
    )


async def test_a_canceled_import_stops_after_the_batch_in_hand(lists: Importing, rows: Rows) -> None:
    begun = await lists.begin(users(1, 2, 3), segment="A", reason="x")
    await check(lists, begun)
    await apply(lists, begun, 1)
    answer = await lists.api.delete(f"imports/{begun['id']}", headers={"X-On-Behalf-Of": "ann"})

    assert answer.status_code == 200
    assert await lists.finish(begun) == answer.json()
    assert (answer.json()["status"], answer.json()["applied_users"]) == ("canceled", 1)
    assert await lists.members("A") == [1]
    [entry] = (await lists.api.get("audit", params={"limit": "1"})).json()["entries"]
    assert (entry["operation"], entry["on_behalf_of"], entry["after"]["status"]) == (
        "import-ended",
        "ann",
        "canceled",
    )
    assert tables_of_imports(rows) == []


async def test_a_check_whose_import_is_canceled_ends_at_once(
    lists: Importing, rows: Rows, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmentd.imports.work.ASK_EVERY_S", 0.01)
    begun = await lists.begin(users(1), segment="A")
    with psycopg.connect(database_url) as holder:
        holder.execute("LOCK TABLE segments IN ACCESS EXCLUSIVE MODE")  # as if there were many rows
        working = asyncio.create_task(lists.work.advance(await lists.number(begun)))
        await until(lambda: waits(rows))
        rows.run("SELECT end_import(%s, 'canceled', NULL)", await lists.number(begun))
        assert await working

    assert (await lists.see(begun))["status"] == "canceled"
    assert tables_of_imports(rows) == []


async def waits(rows: Rows) -> bool:
    return rows.column(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'relation'"
    ) == [1]


def tables_of_imports(rows: Rows) -> list[str]:
    return rows.column("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^import_.*[0-9]$'")


# Bounds, and what is left behind


async def test_too_many_bad_rows_fail_an_import_that_skips_them(lists: Importing) -> None:
    lists.work = ImportWork(lists.database, limits=ImportLimits(most_bad_rows=3))
    failed = await lists.bring("1;A\n" + "2;NONE\n" * 4, skip_invalid="true")

    assert (failed["status"], failed["detail"]) == (
        "failed",
        "More than 3 rows are bad; is this the right file?",
    )
    assert len(await lists.errors(failed)) == 3


async def test_an_import_whose_receiving_process_is_gone_fails(
    lists: Importing, rows: Rows, clock: Clock
) -> None:
    begun = await lists.begin(users(1), segment="A")
    rows.run("UPDATE imports SET status = 'receiving'")
    assert await import_work.fail_silent(lists.database) == 0
    clock.advance(seconds=61)
    assert await import_work.fail_silent(lists.database) == 1

    failed = await lists.see(begun)
    assert (failed["status"], failed["detail"]) == (
        "failed",
        "The process that received the body has ended; send the body again.",
    )
    assert tables_of_imports(rows) == []


async def test_old_imports_are_removed_with_their_bad_rows(
    lists: Importing, rows: Rows, clock: Clock
) -> None:
    old = await lists.bring("1;NONE\n")
    under_way = await lists.begin(users(1), segment="A")
    clock.advance(days=29)
    await import_work.purge(lists.database)
    assert (await lists.see(old))["errors"] != []
    new = await lists.bring(users(2), segment="A")
    clock.advance(days=2)
    await import_work.purge(lists.database)

    assert [each["id"] for each in (await lists.api.get("imports")).json()["imports"]] == [
        new["id"],
        under_way["id"],
    ]
    assert rows("SELECT * FROM import_errors") == []


async def test_the_tables_of_a_final_import_are_dropped_if_its_worker_died(
    lists: Importing, rows: Rows, clock: Clock
) -> None:
    begun = await lists.begin(users(1), segment="A")
    await check(lists, begun)
    while not (await apply(lists, begun, 1)).status.final:
        pass
    assert len(tables_of_imports(rows)) == 2
    clock.advance(seconds=120)
    await import_work.purge(lists.database)

    assert tables_of_imports(rows) == []


# The same as the single call

SEGMENTS = {"PLAIN": None, "HALF": 50, "NOBODY": 0}
decisions = st.dictionaries(
    st.tuples(st.integers(1, 4), st.sampled_from([*SEGMENTS])),
    st.sampled_from(["add", "remove", f"until {LATER}", "ttl 3600"]),
    max_size=8,
)


def as_rows(wanted: dict[tuple[int, str], str]) -> str:
    lines = ["user_id;segment;operation;until;ttl_seconds"]
    for (user, slug), wish in wanted.items():
        kind, _, value = wish.partition(" ")
        until, ttl = (value if kind == name else "" for name in ("until", "ttl"))
        lines.append(f"{user};{slug};{'remove' if kind == 'remove' else 'add'};{until};{ttl}")
    return "\n".join(lines)


def as_changes(wanted: dict[tuple[int, str], str]) -> dict[int, Json]:
    changes: dict[int, Json] = {}
    for (user, slug), wish in wanted.items():
        kind, _, value = wish.partition(" ")
        change = changes.setdefault(user, {"add": [], "remove": []})
        if kind == "remove":
            change["remove"].append(slug)
        elif kind == "add":
            change["add"].append(slug)
        elif kind == "ttl":
            change["add"].append({"slug": slug, "ttl_seconds": int(value)})
        else:
            change["add"].append({"slug": slug, "until": value})
    return changes


async def outcome_of_single_calls(world: World, wanted: dict[tuple[int, str], str]) -> tuple[int, ...]:
    total = [0, 0, 0, 0]
    for user, change in sorted(as_changes(wanted).items()):
        answer = await world.api.change(user, **change)
        total = [
            sum(pair)
            for pair in zip(
                total,
                (len(answer[name]) for name in ("added", "removed", "updated", "unchanged")),
                strict=True,
            )
        ]
    return tuple(total)


STATE: LiteralString = """
    SELECT m.user_id, s.slug, m.included, m.until - m.since, m.until
    FROM memberships m JOIN segments s ON s.id = m.segment_id WHERE m.ended_at IS NULL ORDER BY 1, 2
"""


def test_an_import_does_what_its_dry_run_says_and_what_the_single_calls_do(
    database_url: str, tmp_path: Path
) -> None:
    with inhabited(database_url, tmp_path) as world, rows_of(database_url) as rows:
        lists = Importing(world.api, world.database)

        @given(decisions, decisions)
        @settings(
            max_examples=10,
            derandomize=True,
            database=None,
            suppress_health_check=[*HealthCheck],
            deadline=None,
        )
        def agree(before: dict[tuple[int, str], str], wanted: dict[tuple[int, str], str]) -> None:
            found = []
            for way in ("single", "import"):
                world.begin(START)
                for slug, percent in SEGMENTS.items():
                    world.run(world.api.create(slug, percent=percent, salt="22"))
                world.run(outcome_of_single_calls(world, before))
                # Some terms have ended, and no job has run.
                world.set_clock(START + timedelta(hours=2))
                if way == "single" or not wanted:
                    found.append((world.run(outcome_of_single_calls(world, wanted)), rows(STATE)))
                else:
                    dry = world.run(lists.bring(as_rows(wanted), dry_run="true"))
                    done = world.run(lists.bring(as_rows(wanted)))
                    assert counts(dry) == counts(done)
                    found.append((counts(done), rows(STATE)))
            assert found[0] == found[1]

        agree()
