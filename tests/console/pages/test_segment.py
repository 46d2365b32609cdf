"""The page of a segment: the story of an experiment, two people at once, and what the forms refuse."""

from datetime import timedelta

import pytest

from segmentd.console.pages import segment_chart
from segmentd.domain.access import Actor, Role
from segmentd.domain.identifiers import Slug, UserId, random_salt
from segmentd.domain.memberships import Addition, Change
from segmentd.domain.segments import NewSegment, Percent, SegmentUpdate
from segmentd.domain.texts import Description
from tests.support.console import ConsoleApp, Page

ANNA = Actor("anna")
HOSTILE = "<script>alert(1)</script>\n  & two"


def form_token(page: Page) -> str:
    return page.all("input", name="form_token")[0].attributes["value"]


async def made(console: ConsoleApp, slug: str, percent: Percent | None = None, users: int = 0) -> None:
    """A segment; the first of so many users is added to it."""
    new = NewSegment(Slug(slug), Description(HOSTILE), percent, random_salt())
    await console.service.create_segment(new, ANNA)
    for number in range(2, users + 1):
        await console.service.register_user(UserId(number), None)
    if users:
        change = Change([Addition(Slug(slug))], [])
        await console.service.change_memberships(UserId(1), change, ANNA)


async def test_a_percentage_is_set_after_its_preview_and_not_over_what_somebody_else_set(
    console: ConsoleApp,
) -> None:
    await made(console, "A", Percent(10), users=40)
    editor = await console.logged_in(Role.EDITOR)
    page = await editor.get("/segments/A")
    assert page.texts("dd")[:2] == ["<script>alert(1)</script> & two", "10 %"]
    assert page.all("input", id="percent")[0].attributes["value"] == "10"

    part = await editor.get("/segments/A/preview?percent=100", HX_Request="true")
    assert part.texts("strong") == ["Percentage: 10 % → 100 %"]
    shown = await editor.get("/segments/A/preview?percent=100")
    [entering, leaving, staying] = shown.texts("dd")[3:6]
    assert leaving == "0 users"
    assert int(entering.split()[0]) + int(staying.split()[0]) == 40
    assert shown.texts("button", class_="main")[0] == "Set 100 %"
    assert shown.all("input", id="percent")[0].attributes["value"] == "100"
    sent = {"percent": "100", "seen": "10"}

    # Somebody else is faster.
    await console.service.update_segment(Slug("A"), SegmentUpdate(percent=Percent(50)), ANNA)
    moved = await editor.send("/segments/A/percent", form_token=form_token(shown), **sent)
    assert moved.status == 409
    assert "you saw 10 %, now it is 50 %. Yours, 100 %, was not set" in moved.text
    assert (await console.service.get_segment(Slug("A"))).percent == Percent(50)
    hidden = moved.all("input", name="seen")[0].attributes["value"]
    done = await editor.send("/segments/A/percent", form_token=form_token(moved), percent="100", seen=hidden)
    assert done.texts("p", class_="notice box") == ["The percentage was set."]
    counts = await editor.get("/segments/A/counts", HX_Request="true")
    assert counts.texts("dd") == ["40", "1", "39", "0", "40"]
    assert len(done.all("a", href="/console/users/40")) == 1

    # The same form again changes nothing and refuses nothing: it is so already.
    assert (await editor.send("/segments/A/percent", percent="100", seen="50")).status == 200
    ended = await editor.send("/segments/A/percent", seen="100")
    assert ended.texts("dd")[1] == "none: only those who are added"
    for wrong in ("abc", "100.5", "1.00001", "-1"):
        part = await editor.get(f"/segments/A/preview?percent={wrong}", HX_Request="true")
        assert (part.status, len(part.all("p", class_="error"))) == (422, 1)
        refused = await editor.get(f"/segments/A/preview?percent={wrong}")
        assert refused.status == 422
        assert refused.all("input", id="percent")[0].attributes["aria-invalid"] == "true"
    reader = await console.logged_in(Role.READER)
    readable = await reader.get("/segments/A/preview?percent=100")
    assert "Percentage: none → 100 %" in readable.text
    assert readable.all("form", action="/console/segments/A/percent") == []
    assert (await reader.send("/segments/A/percent", percent="1", seen="")).status == 403


async def test_a_segment_is_described_renamed_exported_and_deleted(console: ConsoleApp) -> None:
    await made(console, "A", users=1)
    await made(console, "B")
    editor = await console.logged_in(Role.EDITOR)
    page = await editor.get("/segments/A")
    token, seen = form_token(page), page.all("input", name="seen")[-1].attributes["value"]

    # A browser writes line ends as CR LF; the description keeps its own.
    fields = {"action": "describe", "seen": seen}
    text = "One\r\nTwo"
    described = await editor.send("/segments/A/description", form_token=token, description=text, **fields)
    assert described.texts("p", class_="notice box") == ["The description was changed."]
    assert (await console.service.get_segment(Slug("A"))).description == "One\nTwo"
    moved = await editor.send("/segments/A/description", form_token=token, description="Mine", **fields)
    assert moved.status == 409
    assert (moved.texts("dd")[0], moved.texts("textarea")) == ("One Two", ["Mine"])
    long = await editor.send("/segments/A/description", form_token=token, description="x" * 2001, **fields)
    assert (long.status, long.texts("p", id="description-told")) == (
        422,
        ["Must have at most 2000 characters"],
    )

    for slug, status in (("-a", 422), ("b", 409)):
        refused = await editor.send("/segments/A/slug", form_token=token, action="rename", new_slug=slug)
        assert (refused.status, len(refused.all("p", id="new_slug-told"))) == (status, 1)
    renamed = await editor.send("/segments/A/slug", form_token=token, action="rename", new_slug="C")
    assert renamed.texts("h1") == ["C"]
    export = await editor.client.get("/console/segments/C/export")
    assert export.text.splitlines()[0] == "user_id;source;since;until"
    assert export.text.splitlines()[1].startswith("1;explicit;")

    kept = await editor.send("/segments/C/delete", form_token=token, action="delete", typed_slug="c")
    assert (kept.status, kept.texts("p", id="typed_slug-told")) == (422, ["Type C, as it stands above"])
    deleted = await editor.send("/segments/C/delete", form_token=token, action="delete", typed_slug="C")
    assert deleted.texts("p", class_="notice box") == ["The segment was deleted."]
    assert (await editor.get("/segments/C")).status == 404


async def test_the_chart_says_in_its_table_what_it_draws(
    open_console: ConsoleApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_chart, "LENGTH", timedelta(0))
    await made(open_console, "A", users=1)
    browser = open_console.browser()
    part = await browser.get("/segments/A/chart", HX_Request="true")
    assert part.texts("td")[1::2] == ["1"] * segment_chart.POINTS
    label = part.all("svg")[0].attributes["aria-label"]
    assert label == "Size of A over time: from 1 user to 1 user"
    monkeypatch.undo()
    grown = await browser.get("/segments/A/chart")  # from the creation on, when nobody was in
    assert grown.texts("td")[1::2][0] == "0"
    assert grown.texts("td")[1::2][-1] == "1"
    assert len(grown.all("polyline")[0].attributes["points"].split()) == segment_chart.POINTS
    assert (await browser.get("/segments/B/chart", HX_Request="true")).status == 404
