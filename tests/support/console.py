"""The console as a browser sees it: cookies, forms with their hidden fields, and the text of pages."""

from html.parser import HTMLParser
from typing import Any, Final, NamedTuple, cast

import httpx

from segmentd.auth.authenticator import AccessRules, Authenticator
from segmentd.auth.rate_limit import RateLimit
from segmentd.console.sessions import Sessions
from segmentd.domain.access import Role
from segmentd.service import Service
from segmentd.storage.database import Database
from tests.support.client import ORIGIN
from tests.support.door import behind_middleware, framework, unread_metrics
from tests.support.tokens import new_token

_VOID: Final = frozenset({"meta", "link", "input", "br", "hr", "img"})


class Element(NamedTuple):
    """An element of a page: its attributes, and all text within it."""

    tag: str
    attributes: dict[str, str]
    text: str


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict[str, str], list[str]]] = []
        self.elements: list[Element] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag in _VOID:
            self.elements.append(Element(tag, attributes, ""))
        else:
            self.open.append((tag, attributes, []))

    def handle_data(self, data: str) -> None:
        for _, _, text in self.open:
            text.append(data)

    def handle_endtag(self, tag: str) -> None:
        opened, attributes, text = self.open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"
        self.elements.append(Element(tag, attributes, " ".join("".join(text).split())))


class Page(NamedTuple):
    """A page that was answered; its elements are in the order in which they end."""

    answer: httpx.Response
    elements: list[Element]

    @classmethod
    def of(cls, answer: httpx.Response) -> "Page":
        """Every element that is opened is closed, in order."""
        parser = _Parser()
        parser.feed(answer.text)
        parser.close()
        assert parser.open == []
        return cls(answer, parser.elements)

    @property
    def status(self) -> int:
        return self.answer.status_code

    @property
    def text(self) -> str:
        """All that a reader sees."""
        return self.all("body")[0].text

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """The elements with this tag and these attributes."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            each for each in self.elements if each.tag == tag and wanted.items() <= each.attributes.items()
        ]

    def texts(self, tag: str, **attributes: str) -> list[str]:
        return [each.text for each in self.all(tag, **attributes)]


class Browser:
    """One person's browser. Redirects are followed, as a browser does."""

    def __init__(self, app: "ConsoleApp", headers: dict[str, str] | None = None) -> None:
        transport = httpx.ASGITransport(app=cast("Any", app.application))
        self.client = httpx.AsyncClient(
            transport=transport, base_url=ORIGIN, headers=headers or {}, follow_redirects=True
        )

    async def get(self, path: str, **headers: str) -> Page:
        """A page below the console, or at a path with its beginning."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Page.of(await self.client.get(_below(path), headers=named))

    async def send(self, path: str, *, form_token: str | None = None, **fields: str) -> Page:
        """Sends a form, with the hidden token of a page that this browser has just got."""
        if form_token is None:
            form_token = (await self.get("/login")).all("input", name="form_token")[0].attributes["value"]
        fields = {name.rstrip("_"): value for name, value in fields.items()}
        return Page.of(await self.client.post(_below(path), data={"form_token": form_token, **fields}))

    async def log_in(self, token: str, **fields: str) -> Page:
        """Logs in; the page that is shown then."""
        return await self.send("/login", token=token, **fields)


def _below(path: str) -> str:
    return path if path.startswith("/console") else f"/console{path}"


class ConsoleApp:
    """A service with its console."""

    def __init__(self, service: Service, database: Database, rules: AccessRules, logins: RateLimit) -> None:
        self.database = database
        self.service = service
        self.authenticator = Authenticator(database, rules)
        self.sessions = Sessions(database, self.authenticator, logins)
        app = framework(service, self.authenticator, sessions=self.sessions)
        self.application = behind_middleware(app, unread_metrics())

    def browser(self, **headers: str) -> Browser:
        return Browser(self, {name.replace("_", "-"): value for name, value in headers.items()})

    async def logged_in(self, role: Role, token_name: str = "", **fields: str) -> Browser:
        """The browser of somebody who has logged in with a token of this role."""
        token = await new_token(self.database, token_name or f"a {role}", role)
        await self.authenticator.look()
        browser = self.browser()
        page = await browser.log_in(token, **fields)
        assert page.status == 200, page.text
        return browser
