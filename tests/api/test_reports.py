"""Reports over HTTP: how they are ordered, seen, and fetched by link. What is in them: tests/reports."""

import asyncio
import shutil
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from segmentd.api.http.app import create_app
from segmentd.config import Settings
from segmentd.domain.instants import rfc3339
from segmentd.domain.reports import ReportId
from segmentd.reports.links import sign
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.client import ORIGIN, Api, Json
from tests.clock import Clock
from tests.reports.office import ALL_TIMES, Office, until

OLD_KEY: Final = b"an older key of 32 bytes or more"
OWN_KEY: Final = "a key that an operator has given to all nodes"


@pytest.fixture
def office(api: Api, database: Database, tmp_path: Path) -> Office:
    return Office(api, database, tmp_path)


@pytest.fixture
async def done(office: Office) -> Json:
    """A report with three rows."""
    for slug in ("A", "B", "C"):
        await office.api.create(slug)
    await office.api.add(1000, "A", "B", "C")
    return await office.make()


def problem(answer: httpx.Response) -> tuple[int, str]:
    """The status and the kind of a refusal."""
    assert answer.headers["Content-Type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


# Ordering


async def test_an_order_is_answered_at_once_with_the_link_to_the_file(office: Office) -> None:
    answer = await office.api.post("reports", json=ALL_TIMES)

    report = answer.json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/api/v1/reports/{report['id']}"
    assert "Preference-Applied" not in answer.headers
    assert report == {
        "id": str(UUID(report["id"])),
        "status": "pending",
        "url": report["url"],
        "rows": None,
        "sha256": None,
        "as_of": None,
        "created_at": report["created_at"],
        "expires_at": report["expires_at"],
        "reason": None,
    }
    assert report["url"].startswith(f"{ORIGIN}/api/v1/reports/{report['id']}/file?signature=")
    assert (await office.api.get(answer.headers["Location"])).json() == report


async def test_a_done_report_has_its_figures_and_the_same_link(office: Office) -> None:
    await office.api.create("A")
    await office.api.add(1000, "A")
    ordered = await office.order()

    await office.build(ordered)

    report = await office.see(ordered)
    content = (await office.file(report)).content
    assert report == {
        **ordered,
        "status": "done",
        "rows": 1,
        "sha256": sha256(content).hexdigest(),
        "as_of": report["as_of"],
    }
    assert ordered["created_at"] < report["as_of"]


async def test_a_link_works_for_seven_days_unless_set_otherwise(
    office: Office, database: Database, clock: Clock, tmp_path: Path
) -> None:
    before = clock.now()
    report = await office.order()
    assert (
        rfc3339(before + timedelta(days=7))
        <= report["expires_at"]
        <= rfc3339(clock.now() + timedelta(days=7))
    )

    settings = Settings(data_dir=str(tmp_path), report_days=0.5)
    async with Api(create_app(service(database, settings))) as api:
        report = await Office(api, database, tmp_path).order()
    assert report["expires_at"] <= rfc3339(clock.now() + timedelta(hours=12))


async def test_the_link_names_the_host_that_the_client_called(office: Office) -> None:
    answer = await office.api.post("reports", json=ALL_TIMES, headers={"Host": "reports.example:8443"})
    report = answer.json()
    assert urlsplit(report["url"]).netloc == "reports.example:8443"

    again = await office.api.get(f"reports/{report['id']}", headers={"Host": "other.example"})
    assert urlsplit(again.json()["url"]).netloc == "other.example"


async def test_whoever_prefers_to_wait_gets_the_done_report(office: Office, database_url: str) -> None:
    waiting = asyncio.create_task(
        office.api.post("reports", json=ALL_TIMES, headers={"Prefer": "respond-async, wait=10"})
    )
    await until(lambda: ordered(database_url))
    [report_id] = await ordered(database_url)
    await office.build({"id": report_id})
    answer = await waiting

    assert answer.status_code == 200
    assert answer.headers["Preference-Applied"] == "wait=10"
    assert answer.headers["Location"] == f"/api/v1/reports/{report_id}"
    assert (answer.json()["status"], answer.json()["rows"]) == ("done", 0)


async def ordered(database_url: str) -> list[str]:
    """The ids of all reports."""
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        cursor = await connection.execute("SELECT id::text FROM reports")
        return [report_id async for (report_id,) in cursor]


async def test_whoever_waits_in_vain_gets_the_link_as_without_waiting(office: Office) -> None:
    answer = await office.api.post("reports", json=ALL_TIMES, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")


async def test_other_preferences_are_passed_over(office: Office) -> None:
    for prefer in ("wait=0", "wait", "wait=soon", "wait=-1", "await=5", "return=minimal", ""):
        answer = await office.api.post("reports", json=ALL_TIMES, headers={"Prefer": prefer})
        assert answer.status_code == 202, prefer
        assert "Preference-Applied" not in answer.headers


async def test_a_report_and_its_job_are_written_both_or_neither(office: Office, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                ASSERT (SELECT count(*) FROM reports) = 1, 'the report is written first';
                RAISE EXCEPTION 'the queue is broken';
            END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON procrastinate_jobs FOR EACH ROW EXECUTE FUNCTION refuse();
        """)
        answer = await office.api.post("reports", json=ALL_TIMES)
        assert problem(answer) == (500, "internal")
        assert "queue" not in answer.text
        assert counts(database_url) == (0, 0)

        connection.execute("DROP TRIGGER refuse ON procrastinate_jobs")
    await office.order()
    assert counts(database_url) == (1, 1)


def counts(database_url: str) -> tuple[int, int]:
    """How many reports and how many jobs there are."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM reports), (SELECT count(*) FROM procrastinate_jobs)"
        ).fetchone()
    assert row is not None
    return row[0], row[1]


# What cannot be ordered


NO_ORDERS: Final[list[tuple[Json, str]]] = [
        *(({"month": month}, "/month") for month in (
            "2026-13", "2026-00", "26-1", "2026-1", "2026-011", "0000-01", "10000-01", "-001-01", "9999-12",
            "9999-01", "", " 2026-01", "2026-01\n", "2026-01-01", "2026/01",
            "\u0662\u0660\u0662\u0666-\u0660\u0661",
        )),
        ({"month": 202601}, "/month"),
        ({"month": "9998-12"}, "/month"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "/to"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T01:00:00+01:00"}, "/to"),
        ({"from": "2026-02-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "/to"),
        ({"from": "9000-01-01T00:00:00Z", "to": "9001-01-01T00:00:00Z"}, "/from"),
        ({"from": "2026-01-01T00:00:00", "to": "2026-02-01T00:00:00Z"}, "/from"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00"}, "/to"),
        ({"from": "2026-01-01", "to": "2026-02-01"}, "/from"),
        ({"from": "0000-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}, "/from"),
        ({"from": "0001-01-01T00:00:00+01:00", "to": "2026-02-01T00:00:00Z"}, "/from"),
        ({"from": "2026-01-01T00:00:00Z", "to": "9999-12-31T23:59:59-01:00"}, "/to"),
        ({"from": "2026-01-01T00:00:00Z", "to": "9999-12-31T23:59:59.9999999Z"}, "/to"),
        ({"month": "2026-01", "from": "2026-01-01T00:00:00Z"}, "/month"),
        ({"month": "2026-01", "to": "2026-02-01T00:00:00Z"}, "/month"),
        ({"from": "2026-01-01T00:00:00Z"}, ""),
        ({"to": "2026-01-01T00:00:00Z"}, ""),
        ({}, ""),
        ({"month": None}, ""),
        ({"month": "2026-01", "user": 1}, "/user"),
        ({"month": "2026-01", "user_id": 0}, "/user_id"),
        ({"month": "2026-01", "user_id": 2**63}, "/user_id"),
        ({"month": "2026-01", "user_id": "1"}, "/user_id"),
        ({"month": "2026-01", "segment": ""}, "/segment"),
        ({"month": "2026-01", "segment": "a b"}, "/segment"),
        ({"month": "2026-01", "header": "true"}, "/header"),
]  # fmt: skip


async def test_an_order_that_makes_no_sense_is_refused_with_a_pointer(api: Api, database_url: str) -> None:
    for body, pointer in NO_ORDERS:
        answer = await api.post("reports", json=body)
        assert problem(answer) == (422, "validation"), body
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer], body
    assert counts(database_url) == (0, 0)


async def test_a_month_that_has_not_begun_is_refused_and_one_that_is_under_way_is_not(
    office: Office, clock: Clock
) -> None:
    now = clock.now()
    following = (now.replace(day=1) + timedelta(days=32)).strftime("%Y-%m")
    assert problem(await office.api.post("reports", json={"month": following})) == (422, "validation")

    report = await office.make(month=f"{now:%Y-%m}")
    assert (report["status"], report["rows"]) == ("done", 0)


async def test_an_order_for_a_user_or_segment_that_is_not_there_is_refused(office: Office) -> None:
    await office.api.create("GONE")
    await office.api.add(1000, "GONE")
    assert (await office.api.delete("segments/GONE")).status_code == 204
    assert (await office.api.delete("users/1000")).status_code == 204

    for user_id in (1000, 1001):
        answer = await office.api.post("reports", json={**ALL_TIMES, "user_id": user_id})
        assert problem(answer) == (404, "user-not-found")
    for slug in ("GONE", "NEVER", "gone"):
        answer = await office.api.post("reports", json={**ALL_TIMES, "segment": slug})
        assert problem(answer) == (404, "segment-not-found")
        assert answer.json()["segments"] == [slug]


async def test_a_report_that_was_never_ordered_is_not_found(api: Api) -> None:
    for report_id in (str(uuid4()), "1", "x" * 36, "%00", "ÿ"):
        assert problem(await api.get(f"reports/{report_id}")) == (404, "report-not-found"), report_id


# The link


async def test_before_the_report_is_done_its_link_says_when_to_come_again(office: Office) -> None:
    report = await office.order()
    answer = await office.file(report)
    assert problem(answer) == (409, "report-not-ready")
    assert answer.headers["Retry-After"].isdecimal()


async def test_after_its_time_a_link_says_so_whether_the_report_was_done_or_not(
    office: Office, done: Json, clock: Clock
) -> None:
    pending = await office.order()
    clock.advance(days=6.9)
    assert (await office.file(done)).status_code == 200

    clock.advance(days=0.2)

    assert problem(await office.file(done)) == (410, "report-expired")
    assert problem(await office.file(pending)) == (410, "report-expired")
    await office.tasks.purge_reports()
    assert problem(await office.file(done)) == (410, "report-expired")
    assert (await office.see(done))["status"] == "done"


async def test_a_link_that_was_tampered_with_leads_nowhere(office: Office, done: Json) -> None:
    other = await office.order()
    url = httpx.URL(done["url"])
    signature = url.params["signature"]
    first = "A" if signature[0] != "A" else "B"
    for changed in (
        "",
        signature[:-1],
        f"{signature}=",
        signature.swapcase(),
        first + signature[1:],
        "ü",
        "\0",
    ):
        answer = await office.api.get(url.copy_set_param("signature", changed))
        assert problem(answer) == (404, "report-not-found"), changed
    for path in (other["id"], str(uuid4()), "1", "x" * 36):
        answer = await office.api.get(f"reports/{path}/file?signature={signature}")
        assert problem(answer) == (404, "report-not-found"), path
    assert problem(await office.api.get(url.copy_remove_param("signature"))) == (404, "report-not-found")
    assert (await office.api.get(url)).status_code == 200


async def test_a_tampered_link_is_not_found_also_after_its_time(
    office: Office, done: Json, clock: Clock
) -> None:
    clock.advance(days=8)
    url = httpx.URL(done["url"]).copy_set_param("signature", "x" * 43)
    assert problem(await office.api.get(url)) == (404, "report-not-found")


async def test_links_that_an_older_key_signed_go_on_to_work(
    office: Office, done: Json, database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("INSERT INTO signing_keys (key) VALUES (%s)", [OLD_KEY])
        newer = await office.see(done)
        assert newer["url"].endswith(sign(ReportId(UUID(done["id"])), OLD_KEY))
        assert newer["url"] != done["url"]
        assert (await office.file(newer)).status_code == 200
        assert (await office.file(done)).status_code == 200

        connection.execute("DELETE FROM signing_keys WHERE key <> %s", [OLD_KEY])
    assert (await office.file(newer)).status_code == 200
    assert problem(await office.file(done)) == (404, "report-not-found")


async def test_with_a_key_by_setting_no_other_signs(
    office: Office, done: Json, database: Database, tmp_path: Path
) -> None:
    settings = Settings(data_dir=str(tmp_path), report_key=OWN_KEY)
    async with Api(create_app(service(database, settings))) as api:
        own = (await api.get(f"reports/{done['id']}")).json()
        assert own["url"].endswith(sign(ReportId(UUID(done["id"])), OWN_KEY.encode()))
        assert (await api.get(own["url"])).status_code == 200
        assert problem(await api.get(done["url"])) == (404, "report-not-found")
    assert problem(await office.file(own)) == (404, "report-not-found")


# The file


async def test_the_file_is_a_csv_to_be_saved(office: Office, done: Json) -> None:
    answer = await office.file(done)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"].startswith("attachment; filename=")
    assert answer.headers["Content-Disposition"].endswith('.csv"')
    assert answer.headers["Content-Length"] == str(len(answer.content))
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["ETag"] == f'"{done["sha256"]}"'
    assert done["sha256"] == sha256(answer.content).hexdigest()
    assert len(answer.text.splitlines()) == done["rows"] == 3


async def test_a_report_with_nothing_in_it_is_a_file_all_the_same(office: Office) -> None:
    before_any_data = {"from": "2001-01-01T00:00:00Z", "to": "2002-01-01T00:00:00Z"}
    for header, content in ((False, ""), (True, "user_id;segment;operation;time\n")):
        report = await office.make(**before_any_data, header=header)
        assert (report["status"], report["rows"]) == ("done", 0)
        answer = await office.file(report)
        assert (answer.status_code, answer.text) == (200, content)
        assert report["sha256"] == sha256(answer.content).hexdigest()


async def test_who_has_the_file_already_is_told_so(office: Office, done: Json) -> None:
    for names in ('"{etag}"', 'W/"{etag}"', '"x", "{etag}"', "*"):
        answer = await office.file(done, if_none_match=names.format(etag=done["sha256"]))
        assert (answer.status_code, answer.content) == (304, b""), names
        assert answer.headers["ETag"] == f'"{done["sha256"]}"'
    for names in ('"x"', "{etag}", ""):
        answer = await office.file(done, if_none_match=names.format(etag=done["sha256"]))
        assert (answer.status_code, len(answer.content) > 0) == (200, True), names


PARTS: Final[list[tuple[str, int, int | None]]] = [
    ("bytes=0-9", 0, 10), ("bytes=5-5", 5, 6), ("bytes=10-", 10, None), ("bytes=-7", -7, None),
    ("bytes=0-", 0, None), ("bytes=-100000", 0, None), ("bytes=3-100000", 3, None), ("Bytes= 1-2", 1, 3),
]  # fmt: skip


async def test_a_part_of_the_file_may_be_asked_for(office: Office, done: Json) -> None:
    whole = (await office.file(done)).content
    for asked, begin, end in PARTS:
        answer = await office.file(done, range=asked)

        assert (answer.status_code, answer.content) == (206, whole[begin:end]), asked
        first = begin % len(whole)
        last = first + len(answer.content) - 1
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(whole)}"
        assert answer.headers["Content-Length"] == str(len(answer.content))
        assert answer.headers["ETag"] == f'"{done["sha256"]}"'


async def test_a_part_beyond_the_end_cannot_be_had(office: Office, done: Json) -> None:
    size = len((await office.file(done)).content)
    for asked in (f"bytes={size}-", "bytes=100000-100001", "bytes=-0"):
        answer = await office.file(done, range=asked)
        assert (answer.status_code, answer.content) == (416, b""), asked
        assert answer.headers["Content-Range"] == f"bytes */{size}"


async def test_a_part_that_is_not_well_put_is_the_whole_file(office: Office, done: Json) -> None:
    for asked in (
        "bytes=9-5",
        "bytes=a-b",
        "bytes=-",
        "bytes",
        "lines=0-1",
        "bytes=0-1,3-4",
        "bytes=--1",
        "",
    ):
        answer = await office.file(done, range=asked)
        assert answer.status_code == 200, asked
        assert sha256(answer.content).hexdigest() == done["sha256"]


async def test_a_part_is_given_only_of_the_file_that_the_client_began_with(
    office: Office, done: Json
) -> None:
    for condition, status in ((f'"{done["sha256"]}"', 206), ('"other"', 200), (f'W/"{done["sha256"]}"', 200)):
        assert (await office.file(done, range="bytes=0-3", if_range=condition)).status_code == status


async def test_a_file_that_this_node_does_not_have_is_said_to_be_missing(
    office: Office, done: Json, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "reports")
    answer = await office.file(done)
    assert problem(answer) == (404, "report-not-found")
    assert "report_store" in answer.json()["detail"]


async def test_a_file_larger_than_what_is_held_in_memory_is_sent_whole(
    office: Office, done: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmentd.reports.files.CHUNK_BYTES", 16)
    assert sha256((await office.file(done)).content).hexdigest() == done["sha256"]
