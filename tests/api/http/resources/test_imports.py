"""A caller brings a list: what it does, what is refused, and what is shown of it."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from segmentd.config import Settings
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.support.asgi import Request, ask
from tests.support.client import Api, Json
from tests.support.clock import Clock
from tests.support.door import open_door
from tests.support.importing import NDJSON, Importing, counts
from tests.support.office import problem
from tests.support.rows import Rows, rows_of

LATER = "2090-01-01T00:00:00.000000Z"


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    with rows_of(database_url) as rows:
        yield rows


@pytest.fixture
async def lists(api: Api, database: Database) -> Importing:
    """The segments A and B; C has a percentage."""
    await api.create("A")
    await api.create("B")
    await api.create("C", percent=50, salt="22")
    return Importing(api, database)


# What a list does


async def test_a_list_of_users_changes_the_segment_of_the_query(lists: Importing) -> None:
    await lists.api.add(2, "A")
    body = "1\n2\n\n3\n3\n"
    answer = await lists.send(body, segment="A", reason="spring", headers={"X-On-Behalf-Of": "ann"})

    assert answer.status_code == 202
    begun = answer.json()
    assert answer.headers["Location"] == f"/api/v1/imports/{begun['id']}"
    assert (begun["status"], begun["rows"], begun["users"], begun["finished_at"]) == (
        "checking",
        4,
        None,
        None,
    )
    done = await lists.finish(begun)
    assert done == begun | {
        "status": "done",
        "users": 3,
        "applied_users": 3,
        "added": 2,
        "unchanged": 1,
        "finished_at": done["finished_at"],
    }
    assert (done["reason"], done["detail"], done["errors"], done["sample"]) == ("spring", None, [], [])
    assert done["sha256"] == sha256(body.encode()).hexdigest()
    assert await lists.members("A") == [1, 2, 3]
    [event] = await lists.api.history(3)
    assert (event["actor"], event["on_behalf_of"], event["reason"]) == ("anonymous", "ann", "spring")


@pytest.mark.parametrize("coding", [None, "gzip", "x-gzip"])
@pytest.mark.parametrize("media_type", ["text/csv", "text/csv; charset=utf-8", "TEXT/CSV"])
async def test_a_body_may_be_compressed(lists: Importing, coding: str | None, media_type: str) -> None:
    body = b"1;A;add\n2;A;add"
    headers = {"Content-Encoding": coding} if coding else {}
    answer = await lists.send(gzip.compress(body) if coding else body, media_type, headers)

    assert answer.status_code == 202, answer.text
    done = await lists.finish(answer.json())
    assert (done["status"], counts(done)) == ("done", (2, 0, 0, 0))
    assert done["sha256"] == sha256(body).hexdigest()


async def test_each_row_may_say_everything_and_the_rows_of_a_user_are_one_change(lists: Importing) -> None:
    await lists.api.add(1, "B")
    done = await lists.bring(
        "note,until,segment,operation,ttl_seconds,user_id\n"
        f"x,{LATER},A,add,,1\n"
        "x,,B,remove,,1\n"
        '"a ""note"",\nof two lines",,B,add,3600,2\n'
        "x,,C,,,2\n"
        f"x,,A,,,3\nx,{LATER},B,,,3\n"
    )

    assert (done["status"], done["users"], counts(done)) == ("done", 3, (5, 1, 0, 0))
    [one] = await lists.api.segments(1, detail="true")
    assert (one["slug"], one["until"]) == ("A", LATER)
    in_b, in_a = (await lists.api.history(1))[::-1][:2]
    assert (in_b["operation"], in_a["operation"], in_a["at"]) == ("remove", "add", in_b["at"])
    assert await lists.api.segments(2) == ["B", "C"]
    assert [each["until"] for each in await lists.api.segments(3, detail="true") if each["slug"] != "C"] == [
        None,
        LATER,
    ]


async def test_objects_mean_the_same(lists: Importing) -> None:
    done = await lists.bring(
        '{"user_id": 1, "segment": "A", "operation": "add", "until": "' + LATER + '"}\n\n'
        '{"user_id": "2", "segment": "B", "ttl_seconds": 60, "source": "explicit", "since": null}\n'
        '{"user_id": 3}\n',
        NDJSON,
        segment="A",
    )

    assert (done["status"], done["rows"], counts(done)) == ("done", 3, (3, 0, 0, 0))
    assert await lists.members("A") == [1, 3]


async def test_what_a_row_leaves_out_comes_from_the_query(lists: Importing) -> None:
    await lists.api.add(2, "A")
    done = await lists.bring(
        f"user_id;operation;until\n1;add;{LATER}\n2;;\n3;add;\n", segment="A", operation="remove"
    )
    assert counts(done) == (2, 1, 0, 0)
    done = await lists.bring(
        f"user_id;segment;until\n4;;{LATER}\n5;;\n6;B;\n", segment="A", ttl_seconds="3600"
    )

    assert counts(done) == (3, 0, 0, 0)
    four, five = [(await lists.api.segments(user, detail="true"))[0] for user in (4, 5)]
    assert (four["slug"], four["until"], five["slug"]) == ("A", LATER, "A")
    assert five["since"] < five["until"] < LATER
    assert "B" in await lists.api.segments(6)


async def test_a_removal_from_a_segment_with_a_percentage_excludes_as_the_single_call_does(
    lists: Importing,
) -> None:
    done = await lists.bring("".join(f"{user}\n" for user in range(1, 21)), segment="C", operation="remove")

    assert done["removed"] + done["updated"] == 20
    assert done["removed"] > 0 < done["updated"]
    assert await lists.members("C") == []


async def test_replace_makes_the_members_exactly_these(lists: Importing) -> None:
    for user in (1, 2, 3):
        await lists.api.add(user, "A")
    await lists.api.add(4, {"slug": "A", "until": LATER})
    done = await lists.bring("2\n4\n5\n", segment="A", operation="replace", reason="nightly")

    assert (done["status"], done["rows"], done["users"], done["applied_users"]) == ("done", 3, 5, 5)
    assert counts(done) == (1, 2, 1, 1)
    assert await lists.members("A") == [2, 4, 5]
    assert (await lists.api.history(1))[-1]["reason"] == "nightly"
    again = await lists.bring("2\n4\n5\n", segment="A", operation="replace")
    assert counts(again) == (0, 0, 0, 3)


async def test_a_user_whose_row_is_bad_is_not_removed_by_a_list_that_replaces(lists: Importing) -> None:
    await lists.api.add(1, "A")
    await lists.api.add(2, "A")
    done = await lists.bring(
        "user_id;until\n1;2001-01-01T00:00:00Z\n3;\n", segment="A", operation="replace", skip_invalid="true"
    )

    assert (done["status"], done["invalid_rows"], counts(done)) == ("done", 1, (1, 1, 0, 0))
    assert await lists.members("A") == [1, 3]


async def test_a_dry_run_has_the_counts_of_the_import_and_changes_nothing(
    lists: Importing, rows: Rows
) -> None:
    await lists.api.add(1, "A")
    await lists.api.add(2, {"slug": "A", "ttl_seconds": 3600})
    before = rows("SELECT * FROM users ORDER BY id"), rows("SELECT * FROM membership_events ORDER BY user_id")
    body = "user_id;segment\n1;A\n2;A\n3;A\n3;B\n4;C\n"
    dry = await lists.bring(body, dry_run="true")

    assert (dry["status"], dry["dry_run"], dry["applied_users"]) == ("done", True, 4)
    assert {(each["user_id"], each["segment"], each["outcome"]) for each in dry["sample"]} >= {
        (2, "A", "updated"),
        (3, "A", "added"),
        (3, "B", "added"),
    }
    assert len(dry["sample"]) == sum(counts(dry)[:3])
    assert before == (
        rows("SELECT * FROM users ORDER BY id"),
        rows("SELECT * FROM membership_events ORDER BY user_id"),
    )
    wet = await lists.bring(body)
    assert counts(wet) == counts(dry)
    assert wet["sample"] == []


async def test_the_sample_of_a_dry_run_has_the_first_hundred_differences(lists: Importing) -> None:
    await lists.api.add(1, "A")
    body = "".join(f"{user}\n" for user in range(300, 0, -1))
    dry = await lists.bring(body, segment="A", dry_run="true", ids="string")

    assert [each["user_id"] for each in dry["sample"]] == [*range(2, 102)]
    [listed] = (await lists.api.get("imports", params={"ids": "string"})).json()["imports"]
    assert listed["sample"][0]["user_id"] == "2"


# What is refused at once


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"operation": "delete"}, "/operation"),
        ({"operation": "replace"}, "/segment"),
        ({"segment": "a b"}, "/segment"),
        ({"until": "2001-01-01T00:00:00Z"}, "/until"),
        ({"until": "tomorrow"}, "/until"),
        ({"until": LATER, "ttl_seconds": "60"}, "/until"),
        ({"ttl_seconds": "0"}, "/ttl_seconds"),
        ({"ttl_seconds": "999999999999"}, "/ttl_seconds"),
        ({"ttl_seconds": "1e3"}, "/ttl_seconds"),
        ({"operation": "remove", "ttl_seconds": "60"}, "/operation"),
        ({"reason": "x" * 501}, "/reason"),
        ({"dry_run": "yes"}, "/dry_run"),
        ({"skip_invalid": "1"}, "/skip_invalid"),
    ],
)
async def test_a_bad_query_is_refused(lists: Importing, query: dict[str, str], pointer: str) -> None:
    answer = await lists.send("1\n", **query)

    assert problem(answer) == (422, "validation")
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert (await lists.api.get("imports")).json()["imports"] == []


@pytest.mark.parametrize(
    ("query", "status", "kind"),
    [
        ({"segment": "NONE"}, 404, "segment-not-found"),
        ({"segment": "a"}, 404, "segment-not-found"),
        ({"segment": "C", "operation": "replace"}, 409, "segment-has-percentage"),
    ],
)
async def test_a_segment_that_does_not_fit_is_refused(
    lists: Importing, query: dict[str, str], status: int, kind: str
) -> None:
    assert problem(await lists.send("1\n", **query)) == (status, kind)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json"},
        {"Content-Type": "text/csv; charset=windows-1251"},
        {"Content-Encoding": "br"},
        {"Content-Encoding": "gzip, gzip"},
    ],
    ids=str,
)
async def test_a_body_of_another_kind_is_refused(lists: Importing, headers: dict[str, str]) -> None:
    answer = await lists.send("1\n", headers=headers, segment="A")

    assert problem(answer) == (415, "unsupported-media-type")
    assert ("Accept" if "Content-Type" in headers else "Accept-Encoding") in answer.headers


# Bad files


BAD_FILES: dict[str, tuple[bytes, int, str]] = {
    "no such segment": (b"1;A\n2;NONE\n", 2, "column 2 (segment): no living segment has the slug NONE"),
    "a slug in another case": (b"1;a\n", 1, "column 2 (segment): no living segment has the slug a"),
    "an id of 0": (b"1;A\n0;A\n", 2, "column 1 (user_id): must be an integer from 1 to 9223372036854775807"),
    "an id beyond 63 bits": (
        b"1;A\n9223372036854775808;A\n",
        2,
        "column 1 (user_id): must be an integer from",
    ),
    "an id in another spelling": (b"1;A\n+1;A\n", 2, "column 1 (user_id): must be an integer from"),
    "an id with a zero": (b"1;A\n01;A\n", 2, "column 1 (user_id): must be an integer from"),
    "digits of another script": ("1;A\n١;A\n".encode(), 2, "column 1 (user_id): must be an integer from"),
    "no id": (b"1;A\n;A\n", 2, "column 1 (user_id): the id of a user is missing"),
    "an operation that is none": (b"1;A;add\n1;A;drop\n", 2, "column 3 (operation): must be add or remove"),
    "a time that is none": (b"until;user_id\n;1\nsoon;1\n", 3, "column 1 (until): a time is written like"),
    "a day that is none": (
        b"until;user_id\n2090-02-29T00:00:00Z;1\n",
        2,
        "column 1 (until): a time is written like",
    ),
    "a term in the past": (
        b"until;user_id\n2001-01-01T00:00:00Z;1\n",
        2,
        "column 1 (until): the term must end",
    ),
    "a TTL that is none": (
        b"ttl_seconds;user_id\n0;1\n",
        2,
        "column 1 (ttl_seconds): must be an integer from 1",
    ),
    "a TTL beyond the calendar": (
        b"ttl_seconds;user_id\n1000000000000;1\n",
        2,
        "column 1 (ttl_seconds): the term must end before the year 10000",
    ),
    "two terms": (
        b"ttl_seconds;user_id;until\n60;1;2090-01-01T00:00:00Z\n",
        2,
        "column 3 (until): until and ttl_seconds exclude each other",
    ),
    "a removal with a term": (
        b"operation;user_id;ttl_seconds\nremove;1;60\n",
        2,
        "column 1 (operation): a removal has no term",
    ),
    "rows that contradict each other": (b"1;A;add\n2;A;add\n1;A;remove\n", 1, "contradicts line 3"),
    "two terms of one user": (b"user_id;ttl_seconds\n1;60\n1;61\n", 2, "contradicts line 3"),
    "with and without a term": (b"user_id;ttl_seconds\n1;60\n1;\n", 2, "contradicts line 3"),
    "too few columns": (b"1;A;add\n2;A\n", 2, "has 2 columns, and the first line has 3"),
    "too many columns": (b"1;A\n2;A;add\n", 2, "has 3 columns, and the first line has 2"),
    "a broken quote": (b'1;A\n2;"A\n3;A\n', 2, "column 2: the quote is not closed"),
    "another encoding": ("1;A\n2;Я\n".encode("windows-1251"), 2, "byte 3 of the line is not UTF-8"),
    "NUL": (b"1;A\n2\0;A\n", 2, "character 2 of the line is NUL"),
    "UTF-16": ("1;A".encode("utf-16"), 1, "byte 1: the file is UTF-16; save it as UTF-8"),
    "a long line": (b"1;A\n" + b"2" * 70_000, 2, "the line has more than 65536 bytes"),
    "a header with a doubled column": (
        b"user_id;segment;segment\n",
        1,
        "column 3 (segment): the header names it",
    ),
    "a header without users": (b"id;segment\n1;A\n", 1, "column 1: the first line is neither a row"),
    "a file without a header that is wide": (
        b"1;A;add;x;y\n",
        1,
        "column 5: a file without a header has at most",
    ),
}


async def test_a_bad_file_names_the_line_and_changes_nothing(lists: Importing, rows: Rows) -> None:
    for name, (body, line, detail) in BAD_FILES.items():
        failed = await lists.bring(body, segment="A")

        assert failed["status"] == "failed", name
        assert failed["detail"], name
        assert failed["errors"] == await lists.errors(failed), name
        first = failed["errors"][0]
        assert (first["line"], first["detail"][: len(detail)]) == (line, detail), name
    assert rows("SELECT * FROM users") == rows("SELECT * FROM membership_events") == []
    assert tables_of_imports(rows) == []


def tables_of_imports(rows: Rows) -> list[str]:
    return rows.column("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^import_.*[0-9]$'")


@pytest.mark.parametrize(
    ("spoilt", "line", "detail"),
    [
        (lambda body: body[:-9], 3, "the gzip data ends before its end"),
        (lambda body: body[:-8] + bytes(8), 1, "the gzip data is damaged"),
        (lambda _: gzip.compress(b"1;A\n" + b"2" * 2**23), 2, "the gzip data expands to more than 200 times"),
        (lambda _: b"1;A\n", 1, "the gzip data is damaged"),
    ],
    ids=["cut off", "damaged", "a bomb", "not gzip"],
)
async def test_bad_gzip_is_a_failed_import(
    lists: Importing, rows: Rows, spoilt: Callable[[bytes], bytes], line: int, detail: str
) -> None:
    answer = await lists.send(spoilt(gzip.compress(b"1;A\n2;A\n")), headers={"Content-Encoding": "gzip"})

    assert answer.status_code == 202
    failed = answer.json()
    shown = [(each["line"], each["detail"][: len(detail)]) for each in failed["errors"]]
    assert (failed["status"], shown) == ("failed", [(line, detail)])
    assert failed["detail"].startswith(f"Line {line}: {detail}")
    assert failed["sha256"] is None
    assert tables_of_imports(rows) == []


@pytest.mark.parametrize("body", ["", "\n\n", "user_id\n", "\ufeff"], ids=repr)
@pytest.mark.parametrize("operation", ["add", "replace"])
async def test_a_file_without_rows_fails(lists: Importing, body: str, operation: str) -> None:
    await lists.api.add(1, "A")
    failed = await lists.bring(body, segment="A", operation=operation, skip_invalid="true")

    assert (failed["status"], failed["detail"]) == ("failed", "The file has no rows.")
    assert await lists.members("A") == [1]


async def test_a_list_that_replaces_names_one_segment_and_removes_nobody_by_name(lists: Importing) -> None:
    failed = await lists.bring("1;A;add\n2;B;add\n3;A;remove\n", segment="A", operation="replace")

    assert [(each["line"], each["detail"]) for each in failed["errors"]] == [
        (2, "column 2 (segment): a list that replaces the members of one segment names another one"),
        (3, "column 3 (operation): a list that replaces the members of a segment can remove nobody"),
    ]


async def test_every_bad_row_is_shown_and_the_first_hundred_by_the_import_itself(lists: Importing) -> None:
    body = "".join(f"{user};{'A' if user % 10 else 'NONE'}\n" for user in range(1, 25_001))
    failed = await lists.bring(body)

    assert (failed["invalid_rows"], failed["detail"]) == (
        2500,
        "2500 of 25000 rows are bad; nothing was changed.",
    )
    errors = await lists.errors(failed)
    assert [each["line"] for each in errors] == [*range(10, 25_001, 10)]
    assert failed["errors"] == errors[:100]
    assert errors[0]["text"] == "10;NONE"


async def test_bad_rows_may_be_skipped(lists: Importing) -> None:
    body = '1;A\n2;NONE\n3;"A\n4;A\n0;A\n1;A\n'
    done = await lists.bring(body, skip_invalid="true")

    assert (done["status"], done["rows"], done["invalid_rows"], done["users"]) == ("done", 6, 3, 2)
    assert counts(done) == (2, 0, 0, 0)
    assert await lists.members("A") == [1, 4]
    nothing = await lists.bring("1;NONE\n", skip_invalid="true")
    assert (nothing["status"], nothing["detail"]) == ("failed", "All rows are bad; nothing was changed.")


async def test_a_user_may_have_as_many_segments_in_a_file_as_in_one_change(
    lists: Importing, rows: Rows
) -> None:
    rows.run(
        "INSERT INTO segments (slug, salt, created_at)"
        " SELECT 'S' || n, n, now() FROM generate_series(1, 1001) n"
    )
    body = "".join(f"1;S{number}\n" for number in range(1, 1002)) + "2;A\n"
    done = await lists.bring(body, skip_invalid="true")

    [bad] = done["errors"]
    assert (bad["line"], bad["detail"]) == (
        1001,
        "the user is in more than 1000 segments of this file, as no change may have",
    )
    assert counts(done) == (1001, 0, 0, 0)


# A body that breaks off


async def test_a_body_that_breaks_off_is_a_failed_import(
    lists: Importing, database: Database, rows: Rows, tmp_path: Path
) -> None:
    door = await open_door(service(database, Settings(data_dir=str(tmp_path))), database)
    body = [b"1;A\n2;A\n", b"3;"]
    await ask(door, Request("POST", "/api/v1/imports", [("content-type", "text/csv")], body, whole=False))

    [failed] = (await lists.api.get("imports")).json()["imports"]
    assert (failed["status"], failed["detail"], failed["sha256"]) == ("failed", "The body broke off.", None)
    assert failed["errors"] == [{"line": 3, "detail": "the body ends here, before its end", "text": ""}]
    assert rows("SELECT * FROM users") == []
    assert tables_of_imports(rows) == []


# Bounds


async def test_a_caller_has_so_many_imports_under_way_at_once(
    lists: Importing, database: Database, tmp_path: Path
) -> None:
    bounded = Settings(data_dir=str(tmp_path), imports_per_caller=1)
    async with Api(await open_door(service(database, bounded), database)) as api:
        few = Importing(api, database)
        first = await few.begin("1\n", segment="A")
        refused = await few.send("2\n", segment="A")
        assert problem(refused) == (429, "too-many-imports")
        assert "1 of your imports are not done yet" in refused.json()["detail"]
        assert int(refused.headers["Retry-After"]) >= 1
        await few.finish(first)
        assert (await few.bring("2\n", segment="A"))["status"] == "done"
    assert await lists.members("A") == [1, 2]


async def test_the_rows_of_all_imports_take_so_much_room(
    lists: Importing, database: Database, rows: Rows, tmp_path: Path
) -> None:
    async def streamed() -> AsyncIterator[bytes]:
        yield b"1\n"
        yield b"%s\n" % (b"x" * 60_000) * 20

    bounded = Settings(data_dir=str(tmp_path), import_store_bytes=2**20)
    async with Api(await open_door(service(database, bounded), database)) as api:
        tight = Importing(api, database)
        announced = await tight.send(b"1\n" * 2**20, segment="A")
        assert problem(announced) == (429, "import-store-full")
        failed = (await tight.send(streamed(), segment="A")).json()
        assert (failed["status"], failed["rows"]) == ("failed", 0)
        assert "1048576 bytes" in failed["detail"]
        # Each takes a quarter at least.
        begun = [await tight.begin("1\n", segment="A") for _ in range(4)]
        assert problem(await tight.send("1\n", segment="A")) == (429, "import-store-full")
        for each in begun:
            await tight.finish(each)
        assert (await tight.bring("2\n", segment="A"))["status"] == "done"
    assert await lists.members("A") == [1, 2]
    assert tables_of_imports(rows) == []


# The same list again


async def test_a_key_names_its_import(lists: Importing) -> None:
    key = {"Idempotency-Key": '"spring-2026"'}
    first = await lists.send("1\n2\n", headers=key, segment="A")
    done = await lists.finish(first.json())
    again = await lists.send(
        gzip.compress(b"1\n2\n"), headers=key | {"Content-Encoding": "gzip"}, segment="A"
    )

    assert (again.status_code, again.json()) == (202, done)
    assert again.headers["Location"] == first.headers["Location"]
    assert (await lists.send("1\n2\n", headers=key | {"Prefer": "wait=1"}, segment="A")).status_code == 200
    for body, query in (
        ("1\n2", {}),
        ("1\n", {}),
        ("1\n2\n", {"dry_run": "true"}),
        ("1\n2\n", {"reason": "x"}),
    ):
        refused = await lists.send(body, headers=key, **{"segment": "A"} | query)
        assert problem(refused) == (409, "idempotency-key-reused")
    assert len((await lists.api.get("imports")).json()["imports"]) == 1


async def test_a_key_still_names_its_import_when_the_segment_is_gone(lists: Importing) -> None:
    key = {"Idempotency-Key": "k"}
    done = await lists.finish((await lists.send("1\n", headers=key, segment="A")).json())
    await lists.api.delete("segments/A")

    assert (await lists.send("1\n", headers=key, segment="A")).json() == done


async def test_a_key_is_free_again_after_a_week_and_after_a_body_that_broke_off(
    lists: Importing, clock: Clock
) -> None:
    key = {"Idempotency-Key": "k"}
    cut = await lists.send(b"x", headers=key | {"Content-Encoding": "gzip"}, segment="A")
    assert cut.json()["status"] == "failed"
    whole = await lists.send("1\n", headers=key, segment="A")
    assert (whole.json()["status"], whole.json()["id"] != cut.json()["id"]) == ("checking", True)
    clock.advance(days=7, seconds=1)
    later = await lists.send("2\n", headers=key, segment="A")
    assert later.status_code == 202
    assert later.json()["id"] != whole.json()["id"]


async def test_a_row_whose_term_ends_at_the_instant_of_the_check_is_bad(
    lists: Importing, clock: Clock
) -> None:
    clock.stop()
    clock.advance(seconds=1)
    now = clock.now()
    untils = [(now + offset).isoformat() for offset in (timedelta(), timedelta.resolution)]
    body = "user_id,segment,until\n" + "".join(f"{user},A,{until}\n" for user, until in enumerate(untils, 1))

    found = await lists.bring(body, skip_invalid="true")

    assert (found["invalid_rows"], await lists.members("A")) == (1, [2])
    assert [(each["line"], each["detail"]) for each in found["errors"]] == [
        (2, "column 3 (until): the term must end in the future")
    ]


async def test_a_key_whose_body_is_on_its_way_is_in_use(lists: Importing) -> None:
    key = {"Idempotency-Key": "k"}
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"1\n"
        begun.set()
        await go_on.wait()
        yield b"2\n"

    first = asyncio.create_task(lists.send(slow(), headers=key, segment="A"))
    await begun.wait()
    answer = await lists.send("1\n2\n", headers=key, segment="A")
    assert problem(answer) == (409, "idempotency-key-in-use")
    assert answer.headers["Retry-After"] == "1"
    go_on.set()
    assert (await first).json() == (await lists.send("1\n2\n", headers=key, segment="A")).json()


@pytest.mark.parametrize("key", ["", "x" * 256, "\x7f"], ids=["empty", "long", "DEL"])
async def test_a_bad_key_is_refused(lists: Importing, key: str) -> None:
    answer = await lists.send("1\n", headers={"Idempotency-Key": key}, segment="A")

    assert problem(answer) == (422, "validation")
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/Idempotency-Key"]


# The list of imports, and stopping one


async def test_imports_are_listed_the_newest_first(lists: Importing) -> None:
    brought = [await lists.bring(f"{user}\n", segment="A") for user in range(1, 6)]

    assert await lists.api.walk("imports", "imports", 2) == brought[::-1]


async def test_a_page_of_imports_ends_where_bad_rows_take_too_much_room(
    lists: Importing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmentd.storage.imports.PAGE_BYTES", 50_000)
    failed = [await lists.bring("1\n" + f"{'ё' * 200}\n" * 101) for _ in range(5)]
    page = (await lists.api.get("imports")).json()

    assert page["imports"] == failed[:2:-1]
    assert await lists.api.walk("imports", "imports", 100) == failed[::-1]


@pytest.mark.parametrize("path", ["imports/x", "imports/00000000-0000-4000-8000-000000000000"])
async def test_an_import_that_is_not_there_is_not_found(lists: Importing, path: str) -> None:
    for answer in (
        await lists.api.get(path),
        await lists.api.get(f"{path}/errors"),
        await lists.api.delete(path),
    ):
        assert problem(answer) == (404, "import-not-found")


async def test_an_import_can_be_stopped_until_it_ends(lists: Importing, rows: Rows) -> None:
    begun = await lists.begin("1\n2\n", segment="A")
    answer = await lists.api.delete(f"imports/{begun['id']}")

    assert answer.status_code == 200
    canceled = answer.json()
    assert (canceled["status"], canceled["finished_at"] is not None) == ("canceled", True)
    assert await lists.finish(begun) == canceled
    assert await lists.members("A") == []
    assert tables_of_imports(rows) == []
    assert problem(await lists.api.delete(f"imports/{begun['id']}")) == (409, "import-finished")
    done = await lists.bring("1\n", segment="A")
    assert problem(await lists.api.delete(f"imports/{done['id']}")) == (409, "import-finished")


async def test_an_import_that_is_being_received_can_be_stopped(lists: Importing, rows: Rows) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"1\n"
        begun.set()
        await go_on.wait()
        yield b"2\n"

    sending = asyncio.create_task(lists.send(slow(), segment="A"))
    await begun.wait()
    [found] = (await lists.api.get("imports")).json()["imports"]
    assert found["status"] == "receiving"
    assert (await lists.api.delete(f"imports/{found['id']}")).json()["status"] == "canceled"
    go_on.set()
    answer = await sending
    assert (answer.status_code, answer.json()["status"]) == (202, "canceled")
    assert tables_of_imports(rows) == []


async def test_an_import_leaves_its_traces_in_the_audit_log(lists: Importing) -> None:
    def shown(entry: Json) -> tuple[Json, ...]:
        return entry["actor"], entry["on_behalf_of"], entry["subject"], entry["after"]

    answer = await lists.send("1\n2\n", headers={"X-On-Behalf-Of": "ann"}, segment="A")
    done = await lists.finish(answer.json())
    await lists.bring("1\n", segment="A", dry_run="true")
    await lists.bring("1;NONE\n")
    entries = (await lists.api.get("audit")).json()["entries"]
    ended, started = [entry for entry in entries if entry["operation"].startswith("import")]

    of_both = {"import": done["id"], "operation": "add", "rows": 2}
    assert shown(started) == ("anonymous", "ann", "A", of_both)
    outcome = {"added": 2, "removed": 0, "updated": 0, "unchanged": 0, "users": 2, "status": "done"}
    assert shown(ended) == ("segmentd", None, "A", of_both | outcome)
