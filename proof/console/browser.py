"""A browser that notes whatever a page does that the console promises not to do."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.sync_api import Browser as Chromium
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Response, expect, sync_playwright

LONGEST_PAGE_BYTES: Final = 100_000
_PATIENCE_MS: Final = 15_000
_NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_GRAVE: Final = ("serious", "critical")
# The browser's own note of an answer that the story asked for, such as 422 with the form.
_STATUS: Final = "Failed to load resource: the server responded with a status of 4"


class Missing(Exception):
    """A program is not installed that the proof needs."""


class Browser:
    """Opens contexts, each with cookies of its own, and gathers what was wrong in any of them."""

    def __init__(self, chromium: Chromium, axe: str, url: str) -> None:
        self._chromium = chromium
        self._axe = axe
        self.url = url
        self.wrong: list[str] = []
        self.longest_page = 0
        self.looked_at = 0
        """How often axe looked at a page."""

    @contextmanager
    def context(
        self,
        *,
        script: bool = True,
        language: str = "en",
        scheme: str = "light",
        height: int = 800,
    ) -> Iterator[Page]:
        """A page in a context of its own; what is wrong in it is noted."""
        context = self._chromium.new_context(
            base_url=self.url,
            java_script_enabled=script,
            locale={"en": "en-GB", "ru": "ru-RU"}[language],
            color_scheme="dark" if scheme == "dark" else "light",
            timezone_id="Europe/Moscow",
            viewport={"width": 1100, "height": height},
        )
        context.set_default_timeout(_PATIENCE_MS)
        self._watch(context)
        try:
            yield context.new_page()
        finally:
            context.close()

    def check_with_axe(self, page: Page, where: str) -> None:
        """Notes each rule that axe-core finds broken gravely on the page that is open."""
        found: list[dict[str, Any]] = page.evaluate(
            f"async () => {{ if (!window.axe) {{ {self._axe} }} return (await axe.run()).violations; }}"
        )
        self.looked_at += 1
        for each in found:
            if each["impact"] in _GRAVE:
                places = ", ".join(str(node["target"]) for node in each["nodes"][:3])
                self.wrong.append(f"{where}: {each['id']} ({each['impact']}) at {places}")

    def _watch(self, context: BrowserContext) -> None:
        context.on("weberror", lambda error: self.wrong.append(f"an error in a script: {error.error}"))
        context.on("console", self._read_message)
        context.on("response", self._read_response)

    def _read_message(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith(_STATUS):
            self.wrong.append(f"the browser says: {message.text}")

    def _read_response(self, response: Response) -> None:
        if urlsplit(response.url).netloc != urlsplit(self.url).netloc:
            self.wrong.append(f"something was loaded from elsewhere: {response.url}")
        if response.status >= 500:
            self.wrong.append(f"{response.url} was answered {response.status}")

    def measure(self, page: Page, where: str) -> None:
        """Notes a page that is too long, as it is without compression."""
        size = len(page.request.get(page.url).body())
        self.longest_page = max(self.longest_page, size)
        if size >= LONGEST_PAGE_BYTES:
            self.wrong.append(f"{where} has {size} bytes")


@contextmanager
def browser(url: str, folder: Path) -> Iterator[Browser]:
    """A Chromium for the console at a URL. Raises Missing."""
    axe = axe_core(folder)
    program = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if program is None:
        raise Missing("there is no Chromium here: install the package chromium of your system")
    # Its own sandbox does not work for root, as who the tests of a container run.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=flags)
        try:
            yield Browser(chromium, axe, url)
        finally:
            chromium.close()


def axe_core(folder: Path) -> str:
    """The script of axe-core, as its lock file has it. Raises Missing."""
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("there is no npm here, which fetches axe-core: install the package npm of your system")
    place = Path(shutil.copytree(Path(__file__).with_name("axe"), folder / "axe"))
    ended = subprocess.run(
        [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise Missing(f"npm cannot fetch axe-core: {json.dumps(ended.stderr[-500:])}")
    return (place / "node_modules/axe-core/axe.min.js").read_text("utf-8")
