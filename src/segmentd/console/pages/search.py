"""The search: a user by id, segments by a part of the slug; from every page."""

import re
from contextlib import suppress
from typing import Final

import htpy as h
from litestar import Response, get
from litestar.params import FromQuery

from segmentd.api.http.edge.guard import OPERATION
from segmentd.api.http.types import AnyRequest, UseCases
from segmentd.console.layout import empty, page, see_other
from segmentd.console.visit import Visit
from segmentd.console.words import layout
from segmentd.console.words import user as words
from segmentd.domain.errors import SegmentNotFound
from segmentd.domain.identifiers import read_slug
from segmentd.domain.pages import Limit


@get("/", opt={OPERATION: "get_user_segments"})
async def show_search(request: AnyRequest, service: UseCases) -> Response[bytes]:
    """The first page."""
    visit = Visit.of(request)
    some = await service.list_segments(Limit(1), None)
    return page(
        visit,
        visit.say(words.TITLE_OF_SEARCH),
        h.p[visit.say(words.HOW_TO_SEARCH)],
        h.form(".inline", method="get", action=visit.link("/search"))[
            h.div(".field")[
                h.label(for_="q")[visit.say(layout.SEARCH_FOR)],
                h.input("#q", type="search", name="q", required=True, maxlength="128", autofocus=True),
            ],
            h.button(".main")[visit.say(words.FIND)],
        ],
        not some.items
        and empty(
            visit.say(words.NOTHING_YET), h.a(href=visit.link("/segments"))[visit.say(layout.SEGMENTS)], "."
        ),
    )


@get("/search", opt={OPERATION: "get_user_segments"})
async def search(request: AnyRequest, service: UseCases, q: FromQuery[str] = "") -> Response[bytes]:
    """Leads to the user with this id, the segment with this slug, or those with this part in their slugs."""
    visit = Visit.of(request)
    wanted = q.strip()
    if re.fullmatch("[0-9]+", wanted):
        return see_other(visit, visit.link(f"/users/{wanted.lstrip('0') or '0'}"))
    if not wanted:
        return see_other(visit, visit.link("/"))
    with suppress(ValueError, SegmentNotFound):
        segment = await service.get_segment(read_slug(wanted))
        return see_other(visit, visit.link(f"/segments/{segment.slug}"))
    return see_other(visit, visit.link("/segments", q=wanted))


HANDLERS: Final = [show_search, search]
