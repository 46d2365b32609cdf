"""People use the console in a real browser: what they do works, in every way that it is promised to."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from playwright.sync_api import Error, Page

from proof.console import stories
from proof.console.browser import Browser, Missing, browser
from proof.console.pictures import take
from proof.console.population import BUSY, SUPPORTED, VAS, fill
from proof.results import Measured
from segmentd.domain.access import Role
from segmentd.storage.database import Database
from segmentd.storage.migrate import migrate
from tests.support.postgres import new_database, quick_server
from tests.support.processes import serving
from tests.support.tokens import new_token

# What comes by itself, and the key that leads to the search.
_WITH_SCRIPT: Final = ("activity", "keys alone")

PAGES: Final = (
    "/",
    f"/users/{SUPPORTED}",
    f"/users/{SUPPORTED}?slug=AVITO_DISCOUNT_50&days=365",
    f"/users/{SUPPORTED}?remove=AVITO_VOICE_MESSAGES",
    f"/users/{BUSY}?days=365",
    "/users/x",
    "/segments",
    f"/segments/{VAS}",
    f"/segments/{VAS}/preview?percent=60",
    "/imports",
    "/reports",
    "/activity",
    "/audit",
    "/tokens",
)
"""Every page, and what a form that was refused looks like."""


class Tokens(NamedTuple):
    """Of those who use the console."""

    editor: str
    admin: str


def console(folder: Path, say: Callable[[str], None]) -> Measured:
    """Does all stories, and takes the pictures of the guide if nothing is wrong."""
    try:
        with _service(folder) as (url, tokens), browser(url, folder) as chromium:
            done = _stories(chromium, tokens, folder, say)
            _looked_at(chromium, tokens)
            say(f"axe looked at {chromium.looked_at} pages")
            if not chromium.wrong:
                take(chromium, tokens.admin)
            return Measured(
                f"{done} stories, with script and without; axe looked at {chromium.looked_at} pages in two"
                f" languages, light and dark; the longest page has {chromium.longest_page:,} bytes",
                chromium.wrong,
            )
    except Missing as missing:
        return Measured("not done", [str(missing)])


@contextmanager
def _service(folder: Path) -> Iterator[tuple[str, Tokens]]:
    with quick_server(folder) as server, new_database(server, "template1") as database_url:
        tokens = asyncio.run(_made(database_url))
        with serving("--database-url", database_url, cwd=folder, as_shipped=True) as service:
            yield service.ready().url, tokens


async def _made(url: str) -> Tokens:
    await migrate(url)
    fill(url)
    async with Database(url, pool_size=1) as database:
        return Tokens(
            await new_token(database, "support", Role.EDITOR),
            await new_token(database, "operator", Role.ADMIN),
        )


def _stories(chromium: Browser, tokens: Tokens, folder: Path, say: Callable[[str], None]) -> int:
    editor, done = tokens.editor, 0
    told: dict[str, Callable[[Page], None]] = {
        "support": partial(stories.support, token=editor),
        "an experiment": partial(stories.experiment, token=editor),
        "a list": partial(stories.bringing, token=editor, folder=folder),
        "a report": partial(stories.report, token=editor),
        "the language": partial(stories.language, token=editor),
        "activity": partial(stories.following, token=editor),
        "keys alone": partial(stories.keyboard, token=editor),
    }
    for script in (True, False):
        for name, story in told.items():
            if not script and name in _WITH_SCRIPT:
                continue
            how = f"{name}, {'with' if script else 'without'} script"
            try:
                with chromium.context(script=script) as page:
                    story(page)
            except (AssertionError, Error) as error:
                chromium.wrong.append(f"{how}: {error}")
            say(f"told: {how}")
            done += 1
    return done


def _looked_at(chromium: Browser, tokens: Tokens) -> None:
    """By axe, in each language and scheme of colours; and how long they are."""
    for language in ("en", "ru"):
        for scheme in ("light", "dark"):
            with chromium.context(language=language, scheme=scheme) as page:
                page.goto("/console/login")
                chromium.check_with_axe(page, f"/login, {language}, {scheme}")
                stories.log_in(page, tokens.admin)
                if page.locator("html").get_attribute("lang") != language:
                    chromium.wrong.append(f"the page is not in {language}")
                for path in PAGES + tuple(_newest(page, place) for place in ("/imports", "/reports")):
                    # The page of a segment and the list load parts when they are seen.
                    has_parts = path.startswith("/segments")
                    page.goto(f"/console{path}", wait_until="networkidle" if has_parts else "load")
                    chromium.check_with_axe(page, f"{path}, {language}, {scheme}")
                    if scheme == "light":
                        chromium.measure(page, path)


def _newest(page: Page, place: str) -> str:
    """The address of the newest import or report, which a story has made."""
    page.goto(f"/console{place}")
    link = page.locator("tbody a").first.get_attribute("href") or ""
    return link.removeprefix("/console")
