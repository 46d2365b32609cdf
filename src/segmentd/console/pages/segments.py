"""The list of segments: found by a part of the slug, with their sizes; and the form that makes one."""

import re
from typing import Annotated, Final

import htpy as h
from litestar import Response, get, post
from litestar.params import QueryParameter

from segmentd.api.http.edge.guard import OPERATION
from segmentd.api.http.resources.segments import SegmentCreation, new_segment
from segmentd.api.http.types import AnyRequest, CursorParameter, SlugParameter, UseCases
from segmentd.console.forms import (
    NONE_REFUSED,
    Attributes,
    Refusal,
    converted,
    field,
    post_form,
    read_form,
    whole,
)
from segmentd.console.layout import (
    empty,
    html,
    is_for_a_part,
    moment,
    next_page,
    notice,
    page,
    see_other,
    table,
)
from segmentd.console.visit import Visit
from segmentd.console.words import segments as words
from segmentd.domain.errors import Invalid, SegmentdError, SegmentExists, read
from segmentd.domain.identifiers import SlugPart, read_slug_part
from segmentd.domain.pages import Limit, Page
from segmentd.domain.segments import Segment, shortest
from segmentd.service import Service

ROWS: Final = Limit(25)
_SHORT: Final = 120
_NUMBER: Final = re.compile(r"[0-9]{1,9}([.,][0-9]{1,12})?")


@get("/segments", opt={OPERATION: "list_segments"})
async def show_segments(
    request: AnyRequest,
    service: UseCases,
    q: Annotated[str, QueryParameter(description="a part of the slug")] = "",
    cursor: CursorParameter = None,
) -> Response[bytes]:
    """A page of the segments, and the form that makes one."""
    visit = Visit.of(request)
    told = notice(visit, words.DONE.get(request.query_params.get("done", "")))
    return await _page(visit, service, q.strip(), cursor, told)


@post("/segments", opt={OPERATION: "create_segment"})
async def make_segment(request: AnyRequest, service: UseCases) -> Response[bytes]:
    """Makes a segment."""
    visit = Visit.of(request)
    form = await read_form(request, visit)
    try:
        values = form.given("slug", "description")
        if percent := form.text("percent").strip():
            values["percent"] = read(_number, percent, "/percent")
        segment = await service.create_segment(
            new_segment(converted({"slug": "", **values}, SegmentCreation)), visit.actor()
        )
    except SegmentdError as error:
        field_of_it = "slug" if isinstance(error, SegmentExists) else None
        refusal = Refusal.of(error, form, {"/slug": "slug", "/percent": "percent"}, field_of_it)
        return await _page(visit, service, "", None, refusal=refusal)
    return see_other(visit, visit.link("/segments", q=segment.slug, done="made"))


@get("/segments/{slug:str}/size", opt={OPERATION: "count_members"})
async def show_size(request: AnyRequest, slug: SlugParameter, service: UseCases) -> Response[bytes]:
    """How many users are in a segment: for the list, or as a page where there is no script."""
    visit = Visit.of(request)
    counts = await service.count_members(slug, None)
    written = visit.counted(counts.tally.members, words.USERS)
    if is_for_a_part(request):
        return html(h.span[written])
    return page(visit, visit.say(words.SIZE_TITLE, slug=slug), h.p[written, ", ", moment(visit, counts.at)])


async def _page(
    visit: Visit,
    service: Service,
    part: str,
    cursor: str | None,
    told: h.Node = None,
    refusal: Refusal = NONE_REFUSED,
) -> Response[bytes]:
    wrong_part = None
    wanted: SlugPart | None = None
    try:
        wanted = read(read_slug_part, part, "/q") if part else None
    except Invalid as error:
        wrong_part = Refusal.of(error, refusal.form, {"/q": "q"})
    found: Page[Segment] = Page([], None)
    if wrong_part is None:
        found = await service.list_segments(ROWS, cursor, wanted)
    return page(
        visit,
        visit.say(words.TITLE),
        told,
        _filter(visit, part, wrong_part or NONE_REFUSED),
        _list(visit, found) if found.items else _nothing(visit, part),
        next_page(
            visit,
            found.next_cursor and visit.link("/segments", q=part or None, cursor=found.next_cursor),
        ),
        visit.may("create_segment") and _creation(visit, refusal),
        status=wrong_part.status if wrong_part else refusal.status,
    )


def _filter(visit: Visit, part: str, refusal: Refusal) -> h.Element:
    def control(own: Attributes) -> h.VoidElement:
        return h.input(
            own, type="search", value=part, maxlength="128", autocomplete="off", spellcheck="false"
        )

    return h.form(".inline", method="get", action=visit.link("/segments"))[
        field(visit, words.FILTER, "q", control, refusal),
        h.button[visit.say(words.FIND)],
        part and h.a(href=visit.link("/segments"))[visit.say(words.ALL)],
    ]


def _list(visit: Visit, found: Page[Segment]) -> h.Element:
    columns = (words.SLUG, words.DESCRIPTION, words.PERCENT, words.SIZE, words.MADE)
    return table(
        visit.say(words.TITLE),
        [visit.say(column) for column in columns],
        (
            (
                h.a(href=visit.link(f"/segments/{segment.slug}"))[segment.slug],
                _shortened(segment.description),
                "–" if segment.percent is None else f"{shortest(segment.percent)} %",
                _size(visit, segment, index),
                moment(visit, segment.created_at),
            )
            for index, segment in enumerate(found.items)
        ),
    )


def _size(visit: Visit, segment: Segment, index: int) -> h.Element:
    """A link to the size; with script the size itself, counted when the row is on the screen."""
    link = visit.link(f"/segments/{segment.slug}/size")
    return h.span(id=f"size-{index}", hx_get=link, hx_trigger="revealed", hx_target="this")[
        h.a(href=link)[visit.say(words.SHOW_SIZE)]
    ]


def _nothing(visit: Visit, part: str) -> h.Element:
    if part:
        return empty(visit.say(words.NONE_FOUND, part=part))
    may_create = visit.may("create_segment")
    return empty(visit.say(words.NONE_YET if may_create else words.NONE_YET_TO_READ))


def _creation(visit: Visit, refusal: Refusal) -> h.Node:
    form, sent = "new", refusal.form
    return [
        h.h2[visit.say(words.CREATE)],
        post_form(
            visit,
            "/segments",
            whole(refusal),
            field(
                visit,
                words.SLUG,
                "slug",
                lambda own: h.input(
                    own, required=True, maxlength="128", autocomplete="off", value=sent.text("slug")
                ),
                refusal,
                words.SLUG_HINT,
                form=form,
            ),
            field(
                visit,
                words.DESCRIPTION,
                "description",
                lambda own: h.textarea(own, rows="2", maxlength="2000")[sent.text("description")],
                refusal,
                form=form,
            ),
            field(
                visit,
                words.PERCENT,
                "percent",
                lambda own: h.input(own, inputmode="decimal", maxlength="20", value=sent.text("percent")),
                refusal,
                words.PERCENT_HINT,
                form=form,
            ),
            h.button(".main")[visit.say(words.CREATE_BUTTON)],
            class_="card",
        ),
    ]


def _number(text: str) -> float:
    """A number as people write it, with a point or a comma. Raises ValueError."""
    if not _NUMBER.fullmatch(text):
        raise ValueError("must be a number such as 12.5")
    return float(text.replace(",", "."))


def _shortened(text: str) -> str:
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


HANDLERS: Final = [show_segments, make_segment, show_size]
