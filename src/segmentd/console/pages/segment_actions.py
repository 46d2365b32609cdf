"""What the forms of a segment's page do. One that shows what is no longer so changes nothing and says so."""

from typing import Final

import htpy as h
from litestar import Response, get, post

from segmentd.api.http.edge.guard import OPERATION
from segmentd.api.http.resources.segments import SegmentPatch
from segmentd.api.http.types import AnyRequest, SlugParameter, UseCases
from segmentd.console.forms import Form, Refusal, converted, read_form
from segmentd.console.layout import html, is_for_a_part, see_other
from segmentd.console.pages.segment import segment_page
from segmentd.console.pages.segment_change import DESCRIPTION, NEW_SLUG, TYPED, fingerprint
from segmentd.console.pages.segment_percent import previewed, read_percent, written
from segmentd.console.visit import Visit
from segmentd.console.words import segment as words
from segmentd.domain.errors import (
    Fault,
    Invalid,
    SegmentExists,
)
from segmentd.domain.segments import SegmentUpdate


@get("/segments/{slug:str}/preview", opt={OPERATION: "preview_percent"})
async def show_preview(request: AnyRequest, slug: SlugParameter, service: UseCases) -> Response[bytes]:
    """What a percentage would do, and the form that sets it: as a part, or the whole page with it."""
    visit = Visit.of(request)
    text = request.query_params.get("percent", "")
    try:
        preview = await service.preview_percent(slug, read_percent(text))
    except Invalid as error:
        if is_for_a_part(request):
            detail = "; ".join(fault.detail for fault in error.faults)
            return html(str(h.p(".error", lang="en")[f"{detail[:1].upper()}{detail[1:]}."]), 422)
        return await segment_page(visit, service, slug, refusal=Refusal.of(error, Form({"percent": text})))
    shown = previewed(visit, slug, preview)
    if is_for_a_part(request):
        return html(str(shown))
    asked = Refusal(Form({"percent": text}))  # the field keeps what was asked
    return await segment_page(visit, service, slug, preview=shown, refusal=asked)


@post("/segments/{slug:str}/percent", opt={OPERATION: "update_segment"})
async def set_percent(request: AnyRequest, slug: SlugParameter, service: UseCases) -> Response[bytes]:
    """Sets the percentage, if it still is what the form was shown with."""
    visit = Visit.of(request)
    form = await read_form(request, visit)
    try:
        wanted, seen = read_percent(form.text("percent")), read_percent(form.text("seen"), "/seen")
    except Invalid as error:
        return await segment_page(visit, service, slug, refusal=Refusal.of(error, form))
    found = await service.update_segment(
        slug, SegmentUpdate(percent=wanted), visit.actor(), SegmentUpdate(percent=seen)
    )
    if found.percent == wanted:
        return see_other(visit, visit.link(f"/segments/{slug}", done="percent"))
    told = visit.say(
        words.MOVED,
        seen=written(visit, seen),
        now=written(visit, found.percent),
        wanted=written(visit, wanted),
    )
    return await segment_page(
        visit,
        service,
        slug,
        h.p(".error.box", role="alert")[told],
        preview=previewed(visit, slug, await service.preview_percent(slug, wanted)),
        refusal=Refusal(form, 409),
    )


@post("/segments/{slug:str}/description", opt={OPERATION: "update_segment"})
async def describe(request: AnyRequest, slug: SlugParameter, service: UseCases) -> Response[bytes]:
    """Changes the description, if it still is what the form was shown with."""
    visit = Visit.of(request)
    form = await read_form(request, visit)
    text = form.text(DESCRIPTION).replace("\r\n", "\n")  # browsers write line ends so
    try:
        update = _update({"description": text})
        present = await service.get_segment(slug)
        is_as_seen = form.text("seen") == fingerprint(present)
        if is_as_seen:
            seen = SegmentUpdate(description=present.description)
            present = await service.update_segment(slug, update, visit.actor(), seen)
    except Invalid as error:
        return await segment_page(visit, service, slug, refusal=Refusal.of(error, form))
    if present.description == text:
        return see_other(visit, visit.link(f"/segments/{slug}", done="described"))
    told = h.p(".error.box", role="alert")[visit.say(words.DESCRIPTION_MOVED)]
    return await segment_page(visit, service, slug, told, refusal=Refusal(form, 409))


@post("/segments/{slug:str}/slug", opt={OPERATION: "update_segment"})
async def rename(request: AnyRequest, slug: SlugParameter, service: UseCases) -> Response[bytes]:
    """Renames the segment."""
    visit = Visit.of(request)
    form = await read_form(request, visit)
    try:
        update = _update({"slug": form.text(NEW_SLUG).strip()})
        renamed = await service.update_segment(slug, update, visit.actor())
    except (Invalid, SegmentExists) as error:
        return await segment_page(
            visit, service, slug, refusal=Refusal.of(error, form, {"/slug": NEW_SLUG}, NEW_SLUG)
        )
    return see_other(visit, visit.link(f"/segments/{renamed.slug}", done="renamed"))


@post("/segments/{slug:str}/delete", opt={OPERATION: "delete_segment"})
async def delete(request: AnyRequest, slug: SlugParameter, service: UseCases) -> Response[bytes]:
    """Deletes the segment, if its slug was typed."""
    visit = Visit.of(request)
    form = await read_form(request, visit)
    if form.text(TYPED).strip() != slug:
        error = Invalid(Fault(f"/{TYPED}", f"type {slug}, as it stands above"))
        return await segment_page(visit, service, slug, refusal=Refusal.of(error, form))
    await service.delete_segment(slug, visit.actor())
    return see_other(visit, visit.link("/segments", done="deleted"))


def _update(values: dict[str, object]) -> SegmentUpdate:
    """By the rules of the API's body. Raises Invalid."""
    body = converted(values, SegmentPatch)
    return SegmentUpdate(body.slug, body.description)


HANDLERS: Final = [show_preview, set_percent, describe, rename, delete]
