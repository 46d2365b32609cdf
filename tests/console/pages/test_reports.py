"""A report that an analyst orders, watches and opens."""

from pathlib import Path

from segmentd.config import Settings
from segmentd.domain.access import Role
from segmentd.domain.reports import read_report_id
from segmentd.jobs import Tasks
from segmentd.serve.wiring import report_files
from tests.console.pages.test_segment import form_token, made
from tests.support.console import ConsoleApp


async def test_an_analyst_orders_a_month_and_opens_it(console: ConsoleApp, tmp_path: Path) -> None:
    await made(console, "A", users=1)
    editor = await console.logged_in(Role.EDITOR)
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
    assert (await reader.get("/reports")).all("form", action="/console/reports") == []
    assert (await editor.get("/reports/x")).status == 404
