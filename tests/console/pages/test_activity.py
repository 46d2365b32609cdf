"""The feed as a page that grows."""

import pytest

from segmentd.console.pages import activity
from segmentd.domain.access import Actor, OnBehalfOf, Role
from segmentd.domain.identifiers import Slug, UserId
from segmentd.domain.memberships import Change
from segmentd.domain.pages import Limit
from segmentd.domain.segments import Percent, SegmentUpdate
from tests.console.pages.test_segment import made
from tests.support.console import ConsoleApp


async def test_changes_appear_as_they_come_each_of_them_once(
    console: ConsoleApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = await console.logged_in(Role.READER)
    assert "Nothing has changed yet." in (await reader.get("/activity")).text
    await made(console, "OLD")
    page = await reader.get("/activity")
    assert [text.partition(" · ")[2] for text in page.texts("li")][-1:] == ["OLD segment created · anna"]
    [asking] = page.all("div", hx_trigger="load delay:2s")
    await made(console, "A", users=1)
    hostile = Actor("team", OnBehalfOf("<b>Anna</b>"))
    await console.service.change_memberships(UserId(1), Change([], [Slug("A")]), hostile)
    for percent in (Percent("12.5"), None):
        await console.service.update_segment(Slug("A"), SegmentUpdate(percent=percent), hostile)
    await console.service.update_segment(Slug("A"), SegmentUpdate(slug=Slug("B")), hostile)
    await console.service.delete_segment(Slug("B"), hostile)

    part = await reader.get(asking.attributes["hx-get"], HX_Request="true")
    said = [text.partition(" · ")[2] for text in part.texts("li")]
    assert said == [
        "B segment deleted · team",
        "B renamed, before it was A · team",
        "A percentage 12.5 % → none · team",
        "A percentage none → 12.5 % · team",
        "User 1 out A · by request · team for <b>Anna</b>",
        "User 1 in A · by request · anna",
        "A segment created · anna",
    ]
    [next_one] = part.all("div", hx_trigger="load delay:2s")
    empty = await reader.get(next_one.attributes["hx-get"], HX_Request="true")
    assert empty.texts("li") == []
    monkeypatch.setattr(activity, "MOST_SHOWN", 5)
    long = await reader.get(asking.attributes["hx-get"], HX_Request="true")
    assert long.all("div", hx_trigger="load delay:2s") == []
    assert "begin again" in long.answer.text
    assert (await reader.get("/activity?after=x", HX_Request="true")).status == 422


async def test_what_happened_before_is_shown_page_by_page_each_change_once(
    console: ConsoleApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "ROWS", Limit(3))
    reader = await console.logged_in(Role.READER)
    await made(console, "A", users=1)
    await console.service.update_segment(Slug("A"), SegmentUpdate(slug=Slug("B")), Actor("team"))
    for number in (1, 2):
        await made(console, f"C{number}")
    await console.service.erase_user(UserId(1), Actor("admin"))
    shown: list[list[str]] = []
    address = "/activity"
    while address:
        page = await reader.get(address)
        shown.append([said for text in page.texts("li") if (said := text.partition(" · ")[2])])
        assert len(page.all("div", hx_trigger="load delay:2s")) == (address == "/activity")
        links = page.all("a", rel="next")
        address = links[0].attributes["href"] if links else ""
    # What was erased is no longer in the history; that it ended is there for a day.
    assert shown == [
        [
            "User 1 out B · the user was deleted · admin",
            "C2 segment created · anna",
            "C1 segment created · anna",
        ],
        ["B renamed, before it was A · team", "A segment created · anna"],
    ]
    assert (await reader.get("/activity?cursor=x")).status == 422


async def test_where_the_history_was_shortened_its_pages_say_so_at_their_end(console: ConsoleApp) -> None:
    reader = await console.logged_in(Role.READER)
    await made(console, "A", users=1)
    await console.database.execute("UPDATE kept_history SET begins_at = '2020-02-01Z'")

    for path in ("/activity", "/users/1"):
        assert "removed: 2020-02-01 00:00:00 UTC" in (await reader.get(path)).text
    assert (await reader.get("/users/1?at=2020-01-31T00:00:00Z")).status == 410
