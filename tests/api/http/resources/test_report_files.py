"""The links of reports, and the files behind them."""

import shutil
from hashlib import sha256
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from segmentd.config import Settings
from segmentd.domain.reports import ReportId
from segmentd.reports.links import sign
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.support.client import Api, Json
from tests.support.clock import Clock
from tests.support.door import open_door
from tests.support.office import ALL_TIMES, Office, problem

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


async def test_an_erasure_ends_the_links_of_all_reports_that_may_name_the_user(
    office: Office, done: Json
) -> None:
    await office.api.add(2000, "A")
    own, other = [await office.make(**ALL_TIMES, user_id=user_id) for user_id in (1000, 2000)]

    await office.api.delete("users/1000", params={"erase": "true"})

    for report in (done, own):
        assert problem(await office.file(report)) == (410, "report-expired")
    assert (await office.file(other)).status_code == 200


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
    async with Api(await open_door(service(database, settings), database)) as api:
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


async def test_a_client_that_has_the_file_already_gets_304(office: Office, done: Json) -> None:
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
