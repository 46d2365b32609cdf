"""What people do in the console, step by step, with script and without."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from playwright.sync_api import Locator, Page, expect

from proof.console.population import DISCOUNT, SUPPORTED, SUPPORTED_TOO, VAS, VOICE

BAD_ROWS: Final = "1001\n1002\nnobody\n1003;NO_SUCH_SEGMENT;add\n1004\n"
_MOST_TABS: Final = 120


def log_in(page: Page, token: str, person: str = "") -> None:
    """Opens the console and gets in; afterwards the first page is there."""
    page.goto("/console/")
    page.locator("#token").fill(token)
    page.locator("#name").fill(person)
    page.locator("main button").click()
    expect(page.locator("#search")).to_be_visible()


def support(page: Page, token: str) -> None:
    """Why a feature vanished; and the user gets it back, for some days."""
    log_in(page, token, "Anna")
    user = SUPPORTED if _has_script(page) else SUPPORTED_TOO
    page.locator("#search").fill(str(user))
    page.keyboard.press("Enter")
    rows = page.locator("table").first
    expect(rows).to_contain_text("no percentage takes the user out")
    expect(page.locator("#history + .scroll")).to_contain_text("ticket 4711")
    expect(page.locator("svg.chart")).to_be_visible()

    page.locator("#why-slug").fill(DISCOUNT)
    page.get_by_role("button", name="Explain").click()
    expect(page.locator(".box.card")).to_contain_text(f"Not in {DISCOUNT}. The term ended at")

    page.locator("#at").fill(f"{datetime.now(UTC) - timedelta(days=10):%Y-%m-%dT%H:%M}")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.locator("main")).to_contain_text("Segments at")
    expect(page.locator("table").first).to_contain_text(DISCOUNT)
    page.get_by_role("link", name="Back to now").click()

    page.locator("#add-slug").fill("NO_SUCH_SEGMENT")
    page.locator("#add-reason").fill("promised on the phone")
    page.locator("form.card button.main").click()
    expect(page.locator("#add-slug-told")).to_contain_text("NO_SUCH_SEGMENT")
    expect(page.locator("#add-reason")).to_have_value("promised on the phone")
    page.locator("#add-slug").fill(DISCOUNT)
    page.locator("#add-term").select_option("604800")
    page.locator("form.card button.main").click()
    expect(page.locator(".notice")).to_have_text("The user was added.")
    expect(page.locator("#history + .scroll")).to_contain_text("promised on the phone")
    expect(page.locator("#history + .scroll")).to_contain_text("for Anna")

    page.locator("tr", has_text=DISCOUNT).first.get_by_role("link", name="Remove").click()
    page.locator("#remove input[name=reason]").fill("it was a mistake")
    page.locator("#remove button.danger").click()
    expect(page.locator(".notice")).to_have_text("The user was removed.")
    expect(page.locator("table").first).not_to_contain_text(DISCOUNT)


def _has_script(page: Page) -> bool:
    return bool(page.evaluate("'htmx' in window"))


def experiment(page: Page, token: str) -> None:
    """A segment is made, and its percentage is set after a look at what that would do."""
    log_in(page, token)
    script = _has_script(page)
    slug = "SCRIPTED" if script else "PLAIN"
    page.get_by_role("link", name="Segments").click()
    page.locator("#new-slug").fill(slug)
    page.locator("#new-description").fill("Half of all users")
    page.locator("form.card button.main").click()
    expect(page.locator(".notice")).to_have_text("The segment was created.")
    page.locator("td a", has_text=slug).first.click()

    page.locator("#percent").fill("100,5")
    page.get_by_role("button", name="Show what it would do").click()
    expect(page.locator("#percent-told .error" if not script else "#preview .error")).to_be_visible()
    page.locator("#percent").fill("50")
    if not script:
        page.get_by_role("button", name="Show what it would do").click()
    expect(page.locator("#preview")).to_contain_text("Percentage: none → 50 %")
    expect(page.locator("#preview")).to_contain_text("would get in")
    page.get_by_role("button", name="Set 50 %").click()
    expect(page.locator(".notice")).to_have_text("The percentage was set.")

    page.get_by_role("heading", name="Who is in it").scroll_into_view_if_needed()
    if not script:
        page.get_by_role("link", name="Count", exact=True).click()
    expect(page.locator(".facts", has_text="By percentage")).to_be_visible()
    if not script:
        page.go_back()
        page.get_by_role("link", name="Draw").click()
    page.get_by_role("heading", name="Size over the last 90 days").scroll_into_view_if_needed()
    expect(page.locator("svg.chart")).to_be_visible()


def bringing(page: Page, token: str, folder: Path) -> None:
    """A list with bad rows is brought: the good ones are done, and the bad ones are shown."""
    file = folder / "list.csv"
    file.write_text(BAD_ROWS, "utf-8")
    log_in(page, token)
    page.get_by_role("link", name="Imports").click()
    page.locator("#segment").fill(VAS)
    page.locator("input[name=skip_invalid]").check()
    page.locator("#file").set_input_files(file)
    page.locator("form.card button.main").click()
    _wait_until_done(page)
    bad = page.locator("table").first
    expect(bad).to_contain_text("nobody")
    expect(bad).to_contain_text("NO_SUCH_SEGMENT")
    expect(page.get_by_role("link", name="All bad rows")).to_be_visible()


def _wait_until_done(page: Page) -> None:
    """With script the page shows it, without a link does."""
    status = page.locator(".facts dd").first
    expect(status).to_be_visible()
    for _ in range(60):
        if status.text_content() == "done":
            return
        again = page.get_by_role("link", name="Refresh")
        if again.is_visible():
            again.click()
        page.wait_for_timeout(500)
    raise AssertionError(f"it is still {status.text_content()}")


def report(page: Page, token: str) -> None:
    """An analyst orders a month, watches it being made, opens it, and finds it in the list."""
    log_in(page, token)
    page.get_by_role("link", name="Reports").click()
    page.locator("#segment").fill(DISCOUNT)
    page.locator("form.card button.main").click()
    _wait_until_done(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Open the file").click()
    if f"{SUPPORTED};{DISCOUNT};" not in download.value.path().read_text("utf-8"):
        raise AssertionError("the report lacks what happened")
    page.get_by_role("link", name="All reports").click()
    row = page.locator("tbody tr").first
    expect(row).to_contain_text(DISCOUNT)
    expect(row.get_by_role("link", name="Open the file")).to_be_visible()


def following(page: Page, token: str) -> None:
    """Somebody watches what happens: what was before is there, and what comes is added at the top."""
    log_in(page, token)
    page.get_by_role("link", name="Activity").click()
    expect(page.locator(".events").last).to_contain_text("segment created")
    other = page.context.new_page()
    other.goto("/console/users/1500")
    other.locator("#add-slug").fill(DISCOUNT)
    other.locator("form.card button.main").click()
    expect(page.locator("[aria-live] .events")).to_contain_text("User 1500")


def language(page: Page, token: str) -> None:
    """The switch at the top changes the language, and it stays."""
    log_in(page, token)
    page.get_by_role("button", name="RU", exact=True).click()
    expect(page.locator("html")).to_have_attribute("lang", "ru")
    page.goto("/console/segments")
    expect(page.locator("h1")).to_have_text("Сегменты")
    page.get_by_role("button", name="Выйти").click()
    expect(page.locator("#token")).to_be_visible()


def keyboard(page: Page, token: str) -> None:
    """All of it with keys alone: log in, search from anywhere, add, remove, and the way past the head."""
    page.goto("/console/")
    expect(page.locator("#token")).to_be_focused()
    page.keyboard.type(token)
    page.keyboard.press("Enter")
    expect(page.locator("#q")).to_be_focused()
    page.goto("/console/segments")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#content")).to_be_focused()
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type(VOICE[:9])
    page.keyboard.press("Enter")
    expect(page.locator("#q")).to_have_value(VOICE[:9])
    expect(page.locator("#content")).to_be_focused()
    page.keyboard.press("/")
    page.keyboard.type("1999")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("User 1999")
    expect(page.locator("#content")).to_be_focused()
    _tab_to(page, page.locator("#add-slug"))
    page.keyboard.type(DISCOUNT)
    page.keyboard.press("Enter")
    expect(page.locator(".notice")).to_have_text("The user was added.")
    _tab_to(page, page.locator("tr", has_text=DISCOUNT).first.get_by_role("link", name="Remove"))
    page.keyboard.press("Enter")
    expect(page.locator("#remove input[name=reason]")).to_be_focused()
    page.keyboard.type("by keys")
    page.keyboard.press("Enter")
    expect(page.locator(".notice")).to_have_text("The user was removed.")


def _tab_to(page: Page, wanted: Locator) -> None:
    """Presses Tab until the element has the focus, which is drawn around each element on the way."""
    expect(wanted).to_be_visible()
    for _ in range(_MOST_TABS):
        page.keyboard.press("Tab")
        # The browser itself draws it around the parts of a field of a time.
        focused = page.locator("*:focus:not([type=datetime-local])")
        if focused.count() and focused.evaluate(
            "element => getComputedStyle(element).outlineStyle === 'none'"
        ):
            raise AssertionError(
                f"no focus is seen at {page.evaluate('document.activeElement.outerHTML')[:200]}"
            )
        if wanted.evaluate("element => element === document.activeElement"):
            return
    raise AssertionError(f"Tab does not reach {wanted}")
