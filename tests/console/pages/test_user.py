"""A user's page: in what, since, until, why; what happened; and what can be changed."""

import re
from datetime import UTC, datetime

import pytest

from segmentd.console.language import Language
from segmentd.console.pages.why import why
from segmentd.console.visit import Visit
from segmentd.domain.access import ANONYMOUS, Actor, Role
from segmentd.domain.identifiers import Salt, Slug, UserId
from segmentd.domain.memberships import Addition, Because, Cause, Change, Evidence, Operation
from segmentd.domain.segments import Bucket, NewSegment, Percent, Threshold
from segmentd.domain.texts import Description, Name, Reason
from tests.support.clock import Clock
from tests.support.console import Browser, ConsoleApp, Page

USER = UserId(1000)
HOSTILE = """<script>alert("1")</script>'"><img src=x onerror=alert(1)>&amp;{0}{x}%s"""


async def create(console: ConsoleApp, slug: str, percent: str | None = None) -> Slug:
    new = NewSegment(Slug(slug), Description(HOSTILE), None if percent is None else Percent(percent), Salt(7))
    await console.service.create_segment(new, Actor("setup"))
    return new.slug


def rows(page: Page, caption: str) -> list[list[str]]:
    """The rows of the table with this caption, cell by cell."""
    found: list[list[str]] = []
    cells: list[str] = []
    for each in page.elements:
        if each.tag == "td":
            cells.append(each.text)
        elif each.tag == "tr" and cells:
            found.append(cells)
            cells = []
        elif each.tag == "table":
            if each.text.startswith(caption):
                return found
            found = []
    raise AssertionError(f"no table {caption}")


def form_token(page: Page) -> str:
    return page.all("input", name="form_token")[0].attributes["value"]


async def change(browser: Browser, **fields: str) -> Page:
    token = form_token(await browser.get(f"/users/{USER}"))
    return await browser.send(f"/users/{USER}/segments", form_token=token, **fields)


async def test_the_support_story(console: ConsoleApp, clock: Clock) -> None:
    """Why did my new feature vanish?"""
    feature, offer = await create(console, "NEW_FEATURE"), await create(console, "OFFER", "100")
    support = await console.logged_in(Role.EDITOR, "support", name="Anna")
    unknown = await support.get("/search?q=%20001000%20")
    assert (unknown.texts("h1"), str(unknown.answer.url.path)) == (["User 1000"], "/console/users/1000")
    assert "has not heard of the user" in unknown.text

    added = await change(support, operation="add", slug=feature, term="86400", reason="ticket 4711")
    assert added.texts("p", class_="notice box") == ["The user was added."]
    [row] = [row for row in rows(added, "Segments") if row[0] == feature]
    assert row[1] == "added"
    assert re.fullmatch(r"Added until \d{4}-\S+ \S+ UTC; then the percentage decides, or .*", row[4])
    again = await change(support, operation="add", slug=feature, term="86400")
    assert again.texts("p", class_="notice box")[0].startswith("The user's term or decision was changed")

    clock.advance(seconds=2)  # fields of browsers have whole seconds
    before = clock.now()
    clock.advance(days=2)
    page = await support.get(f"/users/1000?slug={feature}")

    assert re.search(r"Not in NEW_FEATURE\. The term ended at \d{4}-\d\d-\d\d \S+ UTC\.", page.text)
    history = [row for row in rows(page, "History") if row[1] == feature]
    assert [row[1:5] for row in history] == [
        [feature, "out", "the term ended", "segmentd"],
        [feature, f"in until {history[-1][2].partition('until ')[2]}", "by request", "support for Anna"],
    ]
    assert history[-1][5] == "ticket 4711"
    # As it was before, by a field of a browser without script, which is in UTC.
    then = await support.get(f"/users/1000?at={before:%Y-%m-%dT%H:%M:%S}".replace(":", "%3A"))
    assert feature in [row[0] for row in rows(then, "Segments")]
    assert then.all("form", action="/console/users/1000/segments") == []
    assert "Back to now" in then.text
    # The drawing and its table say the same.
    assert f"{feature}: from" in page.all("svg")[0].text
    bars = [row for row in rows(page, "Timeline") if row[0] == feature]
    assert [bar[1] for bar in bars] == ["added"]
    assert "still in" not in bars[0]
    chosen = await support.get(f"/users/1000?remove={offer}")
    assert chosen.all("form", id="remove")[0].text.startswith("Remove from OFFER")
    assert "whatever it becomes, the user will stay out" in chosen.text
    removed = await change(support, operation="remove", slug=offer, reason="asked for it")
    assert removed.texts("p", class_="notice box") == ["The user was removed."]
    out = await support.get(f"/users/1000?slug={offer}")
    assert "Not in OFFER. Taken out by request." in out.text


async def test_what_is_wrong_with_a_change_stands_beside_its_field_and_nothing_is_lost(
    open_console: ConsoleApp,
) -> None:
    slug = await create(open_console, "A")
    browser = open_console.browser()
    for fields, status, field, words in (
        ({"slug": "B", "reason": "why"}, 404, "slug", "No living segment has the slug B."),
        ({"slug": "a b"}, 422, "slug", "A slug is 1 to 128 of"),
        ({"slug": slug, "term": "until", "until": "yesterday"}, 422, "until", "A time is written like"),
        ({"slug": slug, "term": "until", "until": "2020-01-01T00:00"}, 422, "until", ""),
        ({"slug": slug, "term": "until"}, 422, "until", "A time is written like"),
        (
            {"slug": slug, "term": "60", "until": "2999-01-01T00:00"},
            422,
            "term",
            "Until and ttl_seconds exclude",
        ),
        ({"slug": slug, "term": "0"}, 422, "term", "Must be at least 1"),
        ({"slug": slug, "term": "soon"}, 422, "term", "Must be"),
        ({"slug": slug, "reason": "x" * 501}, 422, "reason", "Must have at most 500 characters"),
    ):
        page = await change(browser, operation="add", **fields)

        assert page.status == status, fields
        [shown] = page.all("input" if field != "term" else "select", id=f"add-{field}")
        assert shown.attributes["aria-invalid"] == "true", fields
        [told] = page.all("p", id=shown.attributes["aria-describedby"])
        assert told.text.startswith(words), fields
        assert page.all("input", id="add-slug")[0].attributes["value"] == fields["slug"]
        assert page.all("input", id="add-reason")[0].attributes["value"] == fields.get("reason", "")
    assert "has not heard of the user" in (await browser.get("/users/1000")).text
    timed = await change(browser, operation="add", slug=slug, until="2999-01-01T00:00")
    assert "until 2999-01-01 00:00:00 UTC" in timed.text
    gone = await change(browser, operation="remove", slug="B", reason="why")
    assert (gone.status, gone.texts("p", role="alert")) == (404, ["No living segment has the slug B."])
    assert gone.all("input", id="remove-reason")[0].attributes["value"] == "why"
    assert gone.all("input", id="add-reason")[0].attributes["value"] == ""
    for at, words in (("2999-01-01T00:00", "This time is in the future"), ("now", "A time is written like")):
        refused = await browser.get(f"/users/1000?at={at}")
        assert refused.status == 422
        assert refused.all("p", id="at-told")[0].text.startswith(words)
    for path, status in (
        ("/users/0", 422),
        ("/users/01", 422),
        ("/users/x", 422),
        ("/users/1?cursor=x", 422),
    ):
        assert (await browser.get(path)).status == status
        assert "<" not in (await browser.get(path)).texts("h1")[0]


async def test_what_people_wrote_is_text_on_every_page(open_console: ConsoleApp) -> None:
    slug = await create(open_console, "A")
    service = open_console.service
    await service.register_user(USER, Name(HOSTILE))
    await service.change_memberships(
        USER, Change([Addition(slug)], [], Reason(HOSTILE)), Actor("x", on_behalf_of=None)
    )
    browser = open_console.browser()
    for path in (
        "/users/1000",
        f"/users/1000?slug={HOSTILE[:20]}",
        "/segments",
        f"/segments?q={HOSTILE[:9]}",
    ):
        page = await browser.get(path.replace("<", "%3C").replace(">", "%3E").replace('"', "%22"))

        assert "alert" in page.text or page.status == 422 or "script" in page.answer.text
        assert len(page.all("script")) == 2
        assert page.all("img") == []
        assert not [each for each in page.elements if "onerror" in each.attributes]
    page = await browser.get("/users/1000")
    assert rows(page, "History")[0][5] == " ".join(HOSTILE.split())
    sent = await change(browser, operation="add", slug=HOSTILE, reason=HOSTILE)
    assert sent.all("input", id="add-slug")[0].attributes["value"] == HOSTILE
    assert len(sent.all("script")) == 2


async def test_long_lists_have_pages(open_console: ConsoleApp) -> None:
    slugs = [await create(open_console, f"S{number:03}") for number in range(55)]
    await open_console.service.change_memberships(
        USER, Change([Addition(slug) for slug in slugs], []), Actor("x")
    )
    browser = open_console.browser()

    page = await browser.get("/users/1000")
    seen, part = [row[0] for row in rows(page, "Segments")], page
    while links := [link for link in part.all("a", rel="next") if link.text == "Next page"]:
        part = await browser.get(links[0].attributes["href"])
        seen += [row[0] for row in rows(part, "Segments")]
    assert seen == slugs
    assert "Only the first 25 of 55 segments are drawn." in page.text
    assert len(page.answer.content) < 100_000

    events = []
    while True:
        events += [(row[0], row[1]) for row in rows(page, "History")]
        older = [link for link in page.all("a", rel="next") if link.text == "Older events"]
        if not older:
            break
        page = await browser.get(older[0].attributes["href"])
    assert [slug for _, slug in events] == slugs[::-1]

    listed = await browser.get("/segments?q=s0")
    assert len(rows(listed, "Segments")) == 25
    [following] = listed.all("a", rel="next")
    assert rows(await browser.get(following.attributes["href"]), "Segments")[0][0] == "S025"
    assert "No segment has “zz” in its slug." in (await browser.get("/segments?q=zz")).text


_AT = datetime(2026, 11, 28, 7, tzinfo=UTC)


async def test_the_search_leads_to_a_user_a_segment_or_a_list(open_console: ConsoleApp) -> None:
    for slug in ("42", "A", "AB"):
        await create(open_console, slug)
    browser = open_console.browser()
    browser.client.follow_redirects = False
    for wanted, address in (
        ("42", "/users/42"),
        ("%20007", "/users/7"),
        ("0", "/users/0"),
        ("A", "/segments/A"),
        ("a", "/segments?q=a"),
        ("%3Cb%3E", "/segments?q=%3Cb%3E"),
        ("%20", "/"),
        ("", "/"),
    ):
        answer = await browser.client.get(f"/console/search?q={wanted}")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/console{address}")


NOW = Visit(Language.ENGLISH, "/console", "/", False, ANONYMOUS, None, "x", False)  # noqa: FBT003


@pytest.mark.parametrize("language", [*Language])
@pytest.mark.parametrize("because", [*Because])
def test_every_reason_is_one_sentence_with_its_numbers(because: Because, language: Language) -> None:
    rollout = because in {Because.ROLLOUT, Because.NOT_IN_ROLLOUT, Because.EXCLUDED}
    cause = {
        Because.EXPIRED: Cause.EXPIRY,
        Because.REMOVED: Cause.REQUEST,
        Because.NOT_IN_ROLLOUT: Cause.ROLLOUT,
    }.get(because)
    evidence = Evidence(
        included={Because.EXPLICIT: True, Because.EXCLUDED: False}.get(because),
        until=None,
        covered=because is Because.ROLLOUT if rollout else None,
        last_change=_AT if cause else None,
        last_operation=Operation.REMOVE if cause else None,
        last_cause=cause,
        percent=Percent("12.5000") if rollout else None,
        bucket=Bucket(123_456),
        threshold=Threshold(536_870_912) if rollout else None,
        salt=Salt(1),
    )
    assert evidence.because() is because

    written = re.sub("<[^>]*>", "", str(why(NOW._replace(language=language), evidence)))

    assert re.fullmatch(r"[A-ZА-Я].*\.", written)
    assert "{" not in written
    assert ("12.5" in written) == rollout
    if because in {Because.ROLLOUT, Because.NOT_IN_ROLLOUT}:
        assert re.search("123.456", written)
        assert re.search("536.870.912", written)
    assert ("2026-11-28 07:00:00 UTC" in written) == (because in {Because.EXPIRED, Because.REMOVED})
