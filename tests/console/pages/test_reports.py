"""A report that an analyst orders, watches and opens."""

from pathlib import Path

import pytest

from segmentd.config import Settings
from segmentd.console.pages import reports
from segmentd.domain.access import Actor, Role
from segmentd.domain.identifiers import Slug
from segmentd.domain.pages import Limit
from segmentd.domain.reports import Period, ReportOrder, read_report_id
from segmentd.jobs import Tasks
from segmentd.serve.wiring import report_files
from tests.console.pages.test_segment import form_token, made
from tests.support.console import ConsoleApp


async def test_an_analyst_orders_a_month_and_opens_it(console: ConsoleApp, tmp_path: Path) -> None:
    await made(console, "A", users=1)
    editor = await console.logged_in(Role.EDITOR, name="Anna")
    form = await editor.get("/reports")
    month = form.all("input", id="month")[0].attributes["value"]
    token = form_token(form)
    for fields, field, status in (
        ({}, "month", 422),
        ({"month": "2026-13"}, "month", 422),
        ({"month": "9000-01"}, "month", 422),
        ({"month": month, "user_id": "x"}, "user_id", 422),
        ({"month": month, "user_id": "77"}, "user_id", 404),
        ({"month": month, "segment": "B"}, "segment", 404),
        ({"month": month, "segment": "-"}, "segment", 422),
    ):
        refused = await editor.send("/reports", form_token=token, **fields)
        assert (refused.status, len(refused.all("p", id=f"{field}-told"))) == (status, 1), fields
        assert len(refused.all("strong", class_="error")) == 1, (fields, refused.text)

    ordered = await editor.send("/reports", form_token=token, month=month, user_id="1", header="true")
    assert ordered.texts("dd")[0] == "waiting to be made"
    assert len(ordered.all("div", hx_trigger="load delay:2s")) == 1
    path = ordered.answer.url.path
    tasks = Tasks(console.database, report_files(Settings(data_dir=str(tmp_path))), None)
    await tasks.build_report(read_report_id(path.rpartition("/")[2]), last_attempt=True)

    done = await editor.get(path, HX_Request="true")
    assert (done.texts("dd")[0], done.texts("dd")[2]) == ("done", "1")
    link = done.all("a", class_="button main")[0].attributes["href"]
    stranger = console.browser()
    assert (await stranger.client.get(link)).text.splitlines()[1].startswith("1;A;add;")
    reader = await console.logged_in(Role.READER)
    assert (await reader.get(path)).status == 200
    listed = await reader.get("/reports")
    assert listed.all("form", action="/console/reports") == []
    assert listed.texts("td")[1:] == ["a editor for Anna", "done", month, "user 1", "Open the file"]
    assert listed.all("a", href=link) != []
    assert (await editor.get("/reports/x")).status == 404
    assert (await stranger.get("/reports")).texts("h1") == ["Log in"]


async def test_reports_of_all_callers_are_listed_page_by_page_the_newest_first(
    console: ConsoleApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "ROWS", Limit(2))
    await made(console, "A")
    reader = await console.logged_in(Role.READER)
    assert "Who has the role editor can order one." in (await reader.get("/reports")).text
    for number in range(1, 4):
        period = Period.of_month(f"2025-0{number}")
        await console.service.reports.order(
            ReportOrder(period, None, Slug("A"), header=False), Actor(f"t{number}")
        )
    await console.service.delete_segment(Slug("A"), Actor("t"))
    first = await reader.get("/reports")
    second = await reader.get(first.all("a", rel="next")[0].attributes["href"])
    assert [page.texts("td")[1::6] for page in (first, second)] == [["t3", "t2"], ["t1"]]
    assert second.texts("td")[2:] == ["waiting to be made", "2025-01", "A", "–"]
    assert second.all("a", rel="next") == []
    await console.database.execute(
        "UPDATE reports SET status = 'done', as_of = now(), rows = 0, size = 0, sha256 = '',"
        " created_at = '2025-03-01Z', expires_at = '2025-03-02Z'"
    )
    assert set((await reader.get("/reports")).texts("td")[5::6]) == {"expired"}
