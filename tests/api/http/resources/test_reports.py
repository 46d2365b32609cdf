"""Reports over HTTP: how they are ordered and seen. What is in them: tests/reports."""

import asyncio
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psycopg
import pytest

from segmentd.config import Settings
from segmentd.domain.instants import rfc3339
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.support.client import ORIGIN, Api, Json
from tests.support.clock import Clock
from tests.support.door import open_door
from tests.support.office import ALL_TIMES, Office, problem, until


@pytest.fixture
def office(api: Api, database: Database, tmp_path: Path) -> Office:
    return Office(api, database, tmp_path)


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
    async with Api(await open_door(service(database, settings), database)) as api:
        report = await Office(api, database, tmp_path).order()
    assert report["expires_at"] <= rfc3339(clock.now() + timedelta(hours=12))


async def test_the_link_names_the_host_that_the_client_called(office: Office) -> None:
    answer = await office.api.post("reports", json=ALL_TIMES, headers={"Host": "reports.example:8443"})
    report = answer.json()
    assert urlsplit(report["url"]).netloc == "reports.example:8443"

    again = await office.api.get(f"reports/{report['id']}", headers={"Host": "other.example"})
    assert urlsplit(again.json()["url"]).netloc == "other.example"


async def test_a_caller_who_prefers_to_wait_gets_the_done_report(office: Office, database_url: str) -> None:
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


async def test_a_caller_who_waits_in_vain_gets_the_link_as_without_waiting(office: Office) -> None:
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
    own = str(uuid4())
    braced, run_together, other_digits = f"{{{own}}}", own.replace("-", ""), "٣" * 8 + own[8:]
    for report_id in (own, "1", "x" * 36, "%00", "ÿ", braced, run_together, other_digits, f"urn:uuid:{own}"):
        assert problem(await api.get(f"reports/{report_id}")) == (404, "report-not-found"), report_id
