"""The forms that add a user to a segment and remove them from one."""

import re
from collections.abc import Mapping
from typing import Final

import htpy as h
from litestar import Response

from segmentd.api.http.resources.memberships import MembershipChange
from segmentd.api.http.types import AnyRequest
from segmentd.console.forms import (
    NONE_REFUSED,
    Attributes,
    Form,
    Refusal,
    choice,
    converted,
    field,
    name_input,
    post_form,
    read_form,
    whole,
)
from segmentd.console.instants import in_rfc3339
from segmentd.console.layout import see_other
from segmentd.console.visit import Visit
from segmentd.console.words import user as words
from segmentd.domain.errors import SegmentdError, SegmentNotFound
from segmentd.domain.identifiers import Slug, UserId
from segmentd.domain.memberships import Evidence
from segmentd.service import Service

_ADD: Final = "add"
_REMOVE: Final = "remove"
_UNTIL: Final = "until"
_SECONDS: Final = re.compile("[0-9]{1,13}")
# The fields of the form, for what the API's call says of its body.
_FIELDS: Final = {
    "/add/0": "term",
    "/add/0/slug": "slug",
    "/add/0/until": "until",
    "/add/0/ttl_seconds": "term",
    "/remove/0": "slug",
    "/reason": "reason",
}


async def change(
    request: AnyRequest, visit: Visit, service: Service, user_id: UserId
) -> Response[bytes] | Refusal:
    """Does what the form says; leads back to the page, or says what is wrong with the form."""
    form = await read_form(request, visit)
    try:
        body = converted(_body(form), MembershipChange)
        changed = await service.change_memberships(user_id, body.to_change(), visit.actor())
    except SegmentdError as error:
        return Refusal.of(error, form, _FIELDS, "slug" if isinstance(error, SegmentNotFound) else None)
    done = "unchanged"
    for name in ("added", "removed", "updated"):
        if getattr(changed, name):
            done = name
    return see_other(visit, visit.link(f"/users/{user_id}", done=done))


def _body(form: Form) -> dict[str, object]:
    """The form as the body of the API's call."""
    slug = form.text("slug").strip()
    if form.text("operation") == _REMOVE:
        return {"remove": [slug], **form.given("reason")}
    addition: dict[str, object] = {"slug": slug}
    term, until = form.text("term"), form.text("until")
    if until or term == _UNTIL:  # a time that was given counts, also where the term was left at its default
        addition["until"] = in_rfc3339(until)
    if term not in {"", _UNTIL}:
        addition["ttl_seconds"] = int(term) if _SECONDS.fullmatch(term) else term
    return {"add": [addition], **form.given("reason")}


def addition(visit: Visit, user_id: UserId, refusal: Refusal) -> h.Node:
    """The form that adds."""
    if refusal.form.text("operation") == _REMOVE:
        refusal = NONE_REFUSED
    sent = refusal.form
    slug = name_input(sent.text("slug"))
    term = choice(visit, words.TERMS, sent.text("term"))

    def until(own: Attributes) -> h.VoidElement:
        return h.input(own, type="datetime-local", step="1", value=sent.text("until")[:19], data_zone="utc")

    return [
        h.h2[visit.say(words.ADD)],
        post_form(
            visit,
            f"/users/{user_id}/segments",
            whole(refusal),
            h.input(type="hidden", name="operation", value=_ADD),
            field(visit, words.SEGMENT, "slug", slug, refusal, form=_ADD),
            field(visit, words.TERM, "term", term, refusal, form=_ADD),
            field(visit, words.UNTIL_TIME, "until", until, refusal, form=_ADD),
            _reason(visit, refusal, _ADD),
            h.button(".main")[visit.say(words.ADD_BUTTON)],
            class_="card",
        ),
    ]


def removal_link(visit: Visit, user_id: UserId, slug: Slug) -> h.Element:
    """Leads to the form that removes: a form in each row would make the page several times as long."""
    return h.a(href=visit.link(f"/users/{user_id}", remove=slug) + "#remove")[visit.say(words.REMOVE)]


def removal(
    visit: Visit, user_id: UserId, slug: str, refusal: Refusal, evidence: Mapping[Slug, Evidence]
) -> h.Node:
    """The form that removes, for a slug that was chosen or whose form was refused."""
    if refusal.form.text("operation") == _REMOVE:
        slug = refusal.form.text("slug")
    else:
        refusal = NONE_REFUSED
    if not slug:
        return None
    of_slug = refusal.of_fields.get("slug")
    found = evidence.get(Slug(slug))
    return post_form(
        visit,
        f"/users/{user_id}/segments",
        h.h3[visit.say(words.REMOVE_FROM, slug=slug)],
        whole(refusal._replace(of_whole=of_slug or refusal.of_whole)),
        found is not None and found.percent is not None and h.p[visit.say(words.EXCLUDES)],
        h.input(type="hidden", name="operation", value=_REMOVE),
        h.input(type="hidden", name="slug", value=slug),
        _reason(visit, refusal, _REMOVE, is_first=True),
        h.button(".danger")[visit.say(words.REMOVE)],
        " ",
        h.a(href=visit.link(f"/users/{user_id}"))[visit.say(words.CANCEL)],
        class_="card",
        id="remove",
    )


def _reason(visit: Visit, refusal: Refusal, form: str, *, is_first: bool = False) -> h.Element:
    def control(own: Attributes) -> h.VoidElement:
        sent = refusal.form.text("reason")
        return h.input(own, maxlength="500", value=sent, autocomplete="off", autofocus=is_first)

    return field(visit, words.REASON, "reason", control, refusal, words.REASON_HINT, form=form)
