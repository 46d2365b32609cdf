"""Logging in and out, and the choice of a language."""

from contextlib import suppress
from typing import Annotated, Final

import htpy as h
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from segmentd.api.http.edge.addresses import peer
from segmentd.api.http.types import AnyRequest
from segmentd.console.forms import NONE_REFUSED, Form, Refusal, field, post_form, read_form, whole
from segmentd.console.language import COOKIE, Language
from segmentd.console.layout import notice, page, see_other
from segmentd.console.sessions import Sessions
from segmentd.console.visit import (
    SESSION_COOKIE,
    Visit,
    admit,
    find_session,
    is_below_console,
    session_secret,
)
from segmentd.console.words import access as words
from segmentd.domain.access import OnBehalfOf, read_on_behalf_of
from segmentd.domain.errors import Fault, Invalid, TooManyRequests, Unauthenticated, read

OPEN_TO_ALL: Final = {"operation": "console"}
_SECONDS_OF_A_CHOICE: Final = 365 * 24 * 3600

SessionsOfAll = NamedDependency[Sessions]


@get("/login", opt=OPEN_TO_ALL)
async def show_login(
    request: AnyRequest,
    sessions: SessionsOfAll,
    following: Annotated[str, QueryParameter(name="next")] = "/",
) -> Response[bytes]:
    """The form to log in. Who is logged in already, or need not be, goes on."""
    ended = None
    try:
        await admit(request, sessions)
    except Unauthenticated as error:
        ended = error.was_refused
    visit = Visit.of(request)
    if ended is None:
        return see_other(visit, visit.link(_path(following)))
    return _login(visit, following, notice(visit, words.ENDED if ended else None))


@post("/login", opt=OPEN_TO_ALL)
async def log_in(request: AnyRequest, sessions: SessionsOfAll) -> Response[bytes]:
    """Begins a session; an earlier one of this browser ends. A program needs the token alone."""
    visit = Visit.of(request)
    form = await read_form(request, visit, programs_may=True)
    sent = Form({name: value for name, value in form.values.items() if name != "token"})
    try:
        secret = await sessions.begin(_token(form), _person(form), peer(request))
    except Unauthenticated as error:
        return _login(visit, form.text("next"), refusal=Refusal(sent, 401, {"token": error.detail}))
    except (Invalid, TooManyRequests) as error:
        return _login(visit, form.text("next"), refusal=Refusal.of(error, sent, {"/token": "token"}, "token"))
    if (earlier := session_secret(request)) is not None:
        await sessions.end(earlier)
    return see_other(visit, visit.link(_path(form.text("next"))), [visit.session_cookie(secret)])


@post("/logout", opt=OPEN_TO_ALL)
async def log_out(request: AnyRequest, sessions: SessionsOfAll) -> Response[bytes]:
    """Ends the session, on every node."""
    visit = await _visit(request, sessions)
    secret = session_secret(request)
    if secret is not None and visit.is_logged_in:
        await read_form(request, visit)
        await sessions.end(secret)
    return see_other(visit, visit.link("/login"), [visit.cookie(SESSION_COOKIE, "", 0)])


@post("/language", opt=OPEN_TO_ALL)
async def choose_language(request: AnyRequest, sessions: SessionsOfAll) -> Response[bytes]:
    """Keeps the language that the reader wants, and shows the page again."""
    visit = await _visit(request, sessions)
    form = await read_form(request, visit)
    chosen = read(Language, form.text("language"), "/language")
    cookie = visit.cookie(COOKIE, chosen.value, _SECONDS_OF_A_CHOICE)
    return see_other(visit, visit.link(_path(form.text("back"))), [cookie])


async def _visit(request: AnyRequest, sessions: Sessions) -> Visit:
    """The visit of a page that is for everybody, with its session if there is one."""
    with suppress(Unauthenticated):  # the token has ended, and the session with it
        await find_session(request, sessions)
    return Visit.of(request)


def _login(
    visit: Visit, following: str, ended: h.Node = None, refusal: Refusal = NONE_REFUSED
) -> Response[bytes]:
    form = post_form(
        visit,
        "/login",
        whole(refusal),
        h.input(type="hidden", name="next", value=_path(following)),
        field(
            visit,
            words.TOKEN,
            "token",
            lambda own: h.input(
                own, type="password", required=True, autocomplete="current-password", autofocus=True
            ),
            refusal,
            words.TOKEN_HINT,
        ),
        field(
            visit,
            words.PERSON,
            "name",
            lambda own: h.input(
                own, autocomplete="username", maxlength="256", value=refusal.form.text("name")
            ),
            refusal,
            words.PERSON_HINT,
        ),
        h.button(".main")[visit.say(words.SUBMIT)],
        class_="card",
    )
    return page(visit, visit.say(words.LOG_IN), ended, form, status=refusal.status)


def _token(form: Form) -> str:
    if not (token := form.text("token").strip()):
        raise Invalid(Fault("/token", "must not be empty"))
    return token


def _person(form: Form) -> OnBehalfOf | None:
    return read(read_on_behalf_of, form.text("name").strip(), "/name") if form.text("name").strip() else None


def _path(following: str) -> str:
    return following if is_below_console(following) else "/"
