"""The pictures of the guide, in each language."""

from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import Page, expect

from proof.console.browser import Browser
from proof.console.population import SUPPORTED, VAS
from proof.console.stories import log_in

_DOCS: Final = Path(__file__).parents[2] / "docs"
FOLDERS: Final = {"en": _DOCS / "guide", "ru": _DOCS / "ru" / "guide"}
LONGEST_BYTES: Final = 60_000


def take(chromium: Browser, token: str) -> None:
    """Each page as a person sees it first: a user, and a percentage before it is set."""
    for language, folder in FOLDERS.items():
        with chromium.context(language=language, height=900) as page:
            log_in(page, token, "Anna")
            page.goto(f"/console/users/{SUPPORTED}", wait_until="networkidle")
            _kept(chromium, page, folder / "console-user.webp")
            page.goto(f"/console/segments/{VAS}", wait_until="networkidle")
            page.locator("#percent").fill("60")
            expect(page.locator("#preview dl")).to_be_visible()
            page.locator("#percentage").scroll_into_view_if_needed()
            _kept(chromium, page, folder / "console-segment.webp")


def _kept(chromium: Browser, page: Page, file: Path) -> None:
    picture = Image.open(BytesIO(page.screenshot()))
    picture.convert("RGB").save(file, "WEBP", quality=80, method=6)
    if (size := file.stat().st_size) > LONGEST_BYTES:
        chromium.wrong.append(f"{file.name} has {size} bytes")
