"""One request to the console: who asks, in which language, and what links and forms need."""

import hmac
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import Final, NamedTuple
from urllib.parse import quote, urlencode

from litestar.datastructures import Cookie

from segmentd.api.http.edge.addresses import address
from segmentd.api.http.edge.guard import AnyConnection
from segmentd.api.http.types import AnyRequest
from segmentd.api.roles import allows
from segmentd.console import language
from segmentd.console.language import Language, Plural, Text
from segmentd.console.sessions import LASTS, Session, Sessions, new_secret
from segmentd.domain.access import ANONYMOUS, Actor, OnBehalfOf, Principal
from segmentd.domain.errors import FormExpired

ROOT: Final = "/console"
SESSION_COOKIE: Final = "segmentd_session"
# Before a log-in, and where nobody has to log in, the secret that forms are tied to.
_VISIT_COOKIE: Final = "segmentd_visit"
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_STATE: Final = "console_session"
_TAG_BYTES: Final = 24
# What a link of the console may lead to: a path below the console, maybe with a query.
_PATH: Final = re.compile(r"/[!-~]{0,2000}")


Asking = AnyConnection | AnyRequest
"""A request, as the guards or as the handlers get it."""


class Visit(NamedTuple):
    """What a page needs to know of the request that asks for it."""

    language: Language
    root: str
    """The path of the console, with the prefix of a proxy."""
    here: str
    """The path and query of this page, below the root."""
    is_secure: bool
    principal: Principal | None
    person: OnBehalfOf | None
    secret: str
    is_new: bool
    """Whether the secret has to be set as a cookie."""

    @classmethod
    def of(cls, request: AnyRequest) -> "Visit":
        """The visit of a request, after the guards or before."""
        found = address(request)
        session = request.scope["state"].get(_STATE)
        secret = _cookie(request, SESSION_COOKIE) if isinstance(session, Session) else None
        kept = secret or _cookie(request, _VISIT_COOKIE)
        principal = request.scope["state"].get("principal")
        query = request.scope["query_string"].decode("latin-1")
        path = quote(request.scope["path"].removeprefix(ROOT)) or "/"
        return cls(
            language=language.wanted(
                request.cookies.get(language.COOKIE), request.headers.get("Accept-Language", "")
            ),
            root=found.prefix + ROOT,
            here=f"{path}?{query}" if query else path,
            is_secure=found.scheme == "https",
            principal=principal if isinstance(principal, Principal) else None,
            person=session.person if isinstance(session, Session) else None,
            secret=kept or new_secret(),
            is_new=kept is None,
        )

    def say(self, text: Text, **values: object) -> str:
        """The text in the reader's language."""
        return self.language.say(text, **values)

    def counted(self, number: int, plural: Plural) -> str:
        """A number and its noun in the reader's language."""
        return self.language.counted(number, plural)

    def may(self, operation: str) -> bool:
        """Whether the reader's role allows an operation of the table of roles."""
        return self.principal is not None and allows(self.principal, operation)

    @property
    def is_logged_in(self) -> bool:
        """Whether there is a session that can be ended."""
        return self.principal is not None and not self.is_open

    @property
    def is_open(self) -> bool:
        """Whether everybody may do everything, because there is no access control."""
        return self.principal is ANONYMOUS

    def actor(self) -> Actor:
        """Who changes something, for the history. Only after the guards."""
        if self.principal is None:
            raise TypeError("the guard notes who is calling")
        return Actor(self.principal.name, self.person)

    def link(self, path: str, **query: str | int | None) -> str:
        """The address of a page; a value None is left out."""
        given = {name: value for name, value in query.items() if value is not None}
        return self.root + path + (f"?{urlencode(given)}" if given else "")

    # Forms

    def form_token(self) -> str:
        """What a form has to send with it. It differs each time, so that compression gives nothing away."""
        pad = secrets.token_bytes(_TAG_BYTES)
        return urlsafe_b64encode(pad + _mixed(pad, self._tag())).decode()

    def check_form_token(self, given: str) -> None:
        """Raises FormExpired unless a form of this browser and session has sent this."""
        try:
            raw = urlsafe_b64decode(given.encode("ascii"))
        except ValueError:
            raise FormExpired from None
        pad, mixed = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
        if (
            self.is_new
            or len(raw) != 2 * _TAG_BYTES
            or not hmac.compare_digest(_mixed(pad, mixed), self._tag())
        ):
            raise FormExpired

    def _tag(self) -> bytes:
        return blake2b(self.secret.encode(), digest_size=_TAG_BYTES, person=b"console form").digest()

    # Cookies

    def cookies(self) -> list[Cookie]:
        """What every page sets: the secret of a new visit."""
        return [self.cookie(_VISIT_COOKIE, self.secret)] if self.is_new else []

    def session_cookie(self, secret: str) -> Cookie:
        """The cookie of a session that has begun."""
        return self.cookie(SESSION_COOKIE, secret, int(LASTS.total_seconds()))

    def cookie(self, name: str, value: str, seconds: int | None = None) -> Cookie:
        """A cookie that only the console gets, and no script; 0 seconds remove it."""
        return Cookie(
            key=name,
            value=value,
            path=self.root,
            max_age=seconds,
            secure=self.is_secure,
            httponly=True,
            samesite="strict",
        )


async def admit(connection: Asking, sessions: Sessions) -> Principal:
    """Who sends this request, by its cookie. Raises Unauthenticated, TooManyRequests, Unavailable."""
    session = await find_session(connection, sessions)
    return sessions.admit_without() if session is None else session.principal


async def find_session(connection: Asking, sessions: Sessions) -> Session | None:
    """The session of this request, noted for the page. Raises as `admit`."""
    secret = _cookie(connection, SESSION_COOKIE)
    session = None if secret is None else await sessions.find(secret)
    if session is not None:
        connection.scope["state"][_STATE] = session
        connection.scope["state"]["principal"] = session.principal
    return session


def session_secret(request: AnyRequest) -> str | None:
    """What the cookie of a session holds, if the request has one."""
    return _cookie(request, SESSION_COOKIE)


def is_below_console(path: str) -> bool:
    """Whether this may follow the console's root in a link."""
    return _PATH.fullmatch(path) is not None


def _cookie(connection: Asking, name: str) -> str | None:
    value = connection.cookies.get(name)
    return value if value is not None and _SECRET.fullmatch(value) else None


def _mixed(pad: bytes, tag: bytes) -> bytes:
    return bytes(one ^ other for one, other in zip(pad, tag, strict=False))
