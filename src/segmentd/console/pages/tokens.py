"""Tokens, for administrators: the list, making one, which is shown once, and revoking one."""

from datetime import datetime, timedelta
from typing import Final

import htpy as h
import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency

from segmentd.api.http.edge.guard import OPERATION
from segmentd.api.http.types import AnyRequest, CursorParameter
from segmentd.auth.administration import TokenDesk
from segmentd.console.forms import (
    NONE_REFUSED,
    Form,
    Refusal,
    choice,
    field,
    name_input,
    post_form,
    read_form,
    whole,
)
from segmentd.console.layout import empty, moment, next_page, notice, page, see_other, sentence, table
from segmentd.console.sessions import Sessions
from segmentd.console.visit import Visit
from segmentd.console.words import tokens as words
from segmentd.domain.access import Role, Token, read_caller_name
from segmentd.domain.errors import Fault, Invalid, SegmentdError, TokenExists, read
from segmentd.domain.pages import Limit, Listing, Page, RowKey

ROWS: Final = Limit(25)
_KEYS: Final[msgspec.msgpack.Decoder[int]] = msgspec.msgpack.Decoder(RowKey)
_LISTING: Final = Listing("tokens", _KEYS)


@get("/tokens", opt={OPERATION: "list_tokens"})
async def show_tokens(
    request: AnyRequest, sessions: NamedDependency[Sessions], cursor: CursorParameter = None
) -> Response[bytes]:
    """A page of all tokens, the newest first, and the form that makes one."""
    visit = Visit.of(request)
    told = notice(visit, words.DONE.get(request.query_params.get("done", "")))
    return await _page(visit, sessions.tokens, told, cursor=cursor)


@post("/tokens", opt={OPERATION: "create_token"})
async def make_token(request: AnyRequest, sessions: NamedDependency[Sessions]) -> Response[bytes]:
    """Makes a token and shows it, this once."""
    visit = Visit.of(request)
    form = await read_form(request, visit)
    try:
        if visit.is_open:
            raise Invalid(Fault("", "the first token closes the service: make it on the command line"))
        name = read(read_caller_name, form.text("name"), "/name")
        secret = await sessions.tokens.create(name, _role(form), _term(form), visit.actor())
    except SegmentdError as error:
        field_of_it = "name" if isinstance(error, TokenExists) else None
        refusal = Refusal.of(
            error, form, {f"/{each}": each for each in ("name", "role", "days")}, field_of_it
        )
        return await _page(visit, sessions.tokens, refusal=refusal)
    shown = h.div(".notice.box", role="status")[
        h.p[visit.say(words.SHOWN_ONCE, name=name)], h.p[h.code("#secret")[secret]]
    ]
    return await _page(visit, sessions.tokens, shown)


@post("/tokens/revoke", opt={OPERATION: "revoke_token"})
async def revoke(request: AnyRequest, sessions: NamedDependency[Sessions]) -> Response[bytes]:
    """Ends a token at once."""
    visit = Visit.of(request)
    form = await read_form(request, visit)
    await sessions.tokens.revoke(form.text("name"), visit.actor())
    return see_other(visit, visit.link("/tokens", done="revoked"))


def _role(form: Form) -> Role:
    try:
        return Role(form.text("role"))
    except ValueError:
        raise Invalid(Fault("/role", "must be reader, editor or admin")) from None


def _term(form: Form) -> timedelta | None:
    days = form.text("days")
    if days not in words.TERMS:
        raise Invalid(Fault("/days", "must be one of those that the form has"))
    return timedelta(days=int(days)) if days else None


async def _page(
    visit: Visit,
    desk: TokenDesk,
    told: h.Node = None,
    refusal: Refusal = NONE_REFUSED,
    *,
    cursor: str | None = None,
) -> Response[bytes]:
    now, tokens = await desk.list()
    before = _LISTING.key_in(cursor)
    older = [each for each in reversed(tokens) if before is None or each.id < before]
    found = Page[Token].of(older, ROWS, lambda last: _LISTING.cursor_after(last.id))
    columns = (words.NAME, words.ROLE, words.MADE, words.ENDS, words.LAST_USED, words.STATE)
    return page(
        visit,
        visit.say(words.TITLE),
        told,
        table(
            visit.say(words.TITLE),
            [visit.say(column) for column in columns],
            (
                (
                    each.name,
                    each.role.value,
                    moment(visit, each.created_at),
                    moment(visit, each.expires_at),
                    "–" if each.last_used_on is None else f"{each.last_used_on}",
                    _state(visit, each, now),
                )
                for each in found.items
            ),
        )
        if found.items
        else empty(visit.say(words.NONE_YET if visit.is_open else words.NONE_YET_CLOSED)),
        next_page(visit, found.next_cursor and visit.link("/tokens", cursor=found.next_cursor)),
        not visit.is_open and _creation(visit, refusal),
        status=refusal.status,
    )


def _state(visit: Visit, token: Token, now: datetime) -> h.Node:
    if token.revoked_at is not None:
        return sentence(visit, words.REVOKED, at=moment(visit, token.revoked_at))
    if not token.holds(now):
        return visit.say(words.EXPIRED)
    return [
        visit.say(words.IN_FORCE),
        " ",
        post_form(
            visit,
            "/tokens/revoke",
            h.input(type="hidden", name="name", value=token.name),
            h.button(".danger", aria_label=f"{visit.say(words.REVOKE)}: {token.name}")[
                visit.say(words.REVOKE)
            ],
        ),
    ]


def _creation(visit: Visit, refusal: Refusal) -> h.Node:
    sent = refusal.form
    roles = {each.value: text for each, text in words.ROLES.items()}
    role = choice(visit, roles, sent.text("role") or Role.READER.value)
    term = choice(visit, words.TERMS, sent.text("days") or "90")
    return [
        h.h2[visit.say(words.CREATE)],
        post_form(
            visit,
            "/tokens",
            whole(refusal),
            field(visit, words.NAME, "name", name_input(sent.text("name")), refusal, words.NAME_HINT),
            field(visit, words.ROLE, "role", role, refusal),
            field(visit, words.TERM, "days", term, refusal),
            h.button(".main")[visit.say(words.CREATE_BUTTON)],
            class_="card",
        ),
    ]


HANDLERS: Final = [show_tokens, make_token, revoke]
