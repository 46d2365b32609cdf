"""The list of segments, their sizes, and the form that creates one."""

from segmentd.domain.access import Role
from segmentd.domain.identifiers import Slug
from segmentd.domain.segments import Percent
from tests.support.console import ConsoleApp, Page


def form_token(page: Page) -> str:
    return page.all("input", name="form_token")[0].attributes["value"]


async def test_an_editor_creates_a_segment_and_sees_what_was_wrong_first(console: ConsoleApp) -> None:
    editor = await console.logged_in(Role.EDITOR)
    page = await editor.get("/segments")
    assert "Create the first one below" in page.text
    token = form_token(page)
    for fields, field, words in (
        ({}, "slug", "Must not be empty"),
        ({"slug": "-a"}, "slug", "A slug is 1 to 128 of"),
        ({"slug": "A", "percent": "nan"}, "percent", "Must be a number such as 12.5"),
        ({"slug": "A", "percent": "100.5"}, "percent", "Must be at most 100"),
        ({"slug": "A", "percent": "1.00001"}, "percent", "A percentage has at most four decimals"),
        ({"slug": "A", "description": "x" * 2001}, "description", "Must have at most 2000 characters"),
    ):
        refused = await editor.send("/segments", form_token=token, **fields)
        assert refused.status == 422
        assert refused.all("p", id=f"new-{field}-told")[0].text.startswith(words), fields

    made = await editor.send("/segments", form_token=token, slug="A", percent="12,5", description="Ä & <b>")
    assert made.texts("p", class_="notice box") == ["The segment was created."]
    assert made.texts("td")[:3] == ["A", "Ä & <b>", "12.5 %"]
    assert (await console.service.get_segment(Slug("A"))).percent == Percent("12.5")
    twice = await editor.send("/segments", form_token=token, slug="a")
    assert twice.status == 409
    assert twice.all("p", id="new-slug-told")[0].text.startswith("A living segment has the slug a")
    reader = await console.logged_in(Role.READER)
    assert (await reader.get("/segments")).all("input", id="new-slug") == []


async def test_a_size_is_counted_apart_as_a_part_or_as_a_page(open_console: ConsoleApp) -> None:
    browser = open_console.browser()
    page = await browser.get("/segments")
    listed = await browser.send("/segments", form_token=form_token(page), slug="A")
    [size] = listed.all("span", id="size-0")
    address = size.attributes["hx-get"]

    part = await browser.get(address, HX_Request="true")
    assert part.answer.text == "<span>0 users</span>"
    assert (await browser.get(address)).texts("h1") == ["Size of A"]
    gone = await browser.get("/segments/B/size", HX_Request="true")
    assert (gone.status, gone.answer.text) == (
        404,
        '<span class="error" lang="en">No living segment has the slug B.</span>',
    )


async def test_a_part_of_a_page_leads_who_has_been_logged_out_to_the_form(console: ConsoleApp) -> None:
    stranger = console.browser()
    part = await stranger.client.get("/console/segments/A/size", headers={"HX-Request": "true"})
    assert part.headers["hx-redirect"] == "/console/login"
    boosted = await stranger.get("/segments", HX_Request="true", HX_Boosted="true")
    assert boosted.texts("h1") == ["Log in"]
