"""The page of one segment: what it is, how many are in it, what a percentage would do, and its members."""

from typing import Final

import htpy as h
from litestar import Response, get
from litestar.types import ASGIApp

from segmentd.api.http.edge.compression import takes_gzip
from segmentd.api.http.edge.download import Download
from segmentd.api.http.edge.guard import OPERATION
from segmentd.api.http.resources.exports import exported
from segmentd.api.http.types import AnyRequest, CursorParameter, SlugParameter, UseCases
from segmentd.console.forms import NONE_REFUSED, Refusal
from segmentd.console.layout import empty, html, is_for_a_part, moment, next_page, notice, page, sentence
from segmentd.console.pages import segment_change, segment_percent
from segmentd.console.visit import Visit
from segmentd.console.words import segment as words
from segmentd.domain.counts import Counts
from segmentd.domain.exports import ExportFormat, ExportOrder
from segmentd.domain.identifiers import Slug, UserId
from segmentd.domain.pages import Limit, Page
from segmentd.domain.segments import Segment
from segmentd.service import Service

MEMBERS: Final = Limit(100)


@get("/segments/{slug:str}", opt={OPERATION: "get_segment"})
async def show_segment(
    request: AnyRequest, slug: SlugParameter, service: UseCases, cursor: CursorParameter = None
) -> Response[bytes]:
    """The page of a segment."""
    visit = Visit.of(request)
    told = notice(visit, words.DONE.get(request.query_params.get("done", "")))
    return await segment_page(visit, service, slug, told, cursor=cursor)


@get("/segments/{slug:str}/counts", opt={OPERATION: "count_members"})
async def show_counts(request: AnyRequest, slug: SlugParameter, service: UseCases) -> Response[bytes]:
    """How many are in it and why: as a part of its page, or as a page where there is no script."""
    visit = Visit.of(request)
    content = _counts(visit, await service.count_members(slug, None))
    if is_for_a_part(request):
        return html(str(content))
    return page(visit, slug, h.h2[visit.say(words.COUNTS)], content, _back(visit, slug))


@get("/segments/{slug:str}/export", opt={OPERATION: "export_segment"})
async def export(request: AnyRequest, slug: SlugParameter, service: UseCases) -> ASGIApp:
    """Everybody in it, as a CSV file with the names of its columns."""
    order = ExportOrder(slug, None, ExportFormat.CSV, header=True, text_ids=False)
    return Download(exported(service, order, packs=takes_gzip(request.headers.get("Accept-Encoding", ""))))


async def segment_page(
    visit: Visit,
    service: Service,
    slug: Slug,
    told: h.Node = None,
    *,
    preview: h.Node = None,
    refusal: Refusal = NONE_REFUSED,
    cursor: str | None = None,
) -> Response[bytes]:
    """The page with what was done or refused, and what a percentage would do. Raises SegmentNotFound."""
    segment = await service.get_segment(slug)
    members = await service.list_members(slug, None, MEMBERS, cursor)
    may_change = visit.may("update_segment")
    return page(
        visit,
        slug,
        told,
        _facts(visit, segment),
        h.h2[visit.say(words.COUNTS)],
        part(visit, f"/segments/{slug}/counts", visit.say(words.COUNT)),
        h.p(".inline")[
            h.a(href=visit.link(f"/segments/{slug}/export"), download=True)[visit.say(words.EXPORT)],
            visit.may("create_import")
            and h.a(href=visit.link("/imports", segment=slug) + "#new")[visit.say(words.IMPORT)],
        ],
        segment_percent.asking(visit, segment, preview, refusal),
        h.h2[visit.say(words.CHART)],
        part(visit, f"/segments/{slug}/chart", visit.say(words.SHOW_CHART)),
        _members(visit, slug, members, cursor),
        may_change and segment_change.forms(visit, segment, refusal),
        status=refusal.status,
    )


def part(visit: Visit, path: str, link_text: str) -> h.Element:
    """A link to what takes a while; with script it loads itself when it comes into view."""
    link = visit.link(path)
    return h.div(hx_get=link, hx_trigger="revealed")[h.a(href=link)[link_text]]


def _facts(visit: Visit, segment: Segment) -> h.Element:
    return h.dl(".facts")[
        h.dt[visit.say(words.DESCRIPTION)],
        h.dd[segment.description or visit.say(words.NO_DESCRIPTION)],
        h.dt[visit.say(words.PERCENT)],
        h.dd[segment_percent.written(visit, segment.percent, words.NO_PERCENT)],
        h.dt[visit.say(words.MADE)],
        h.dd[moment(visit, segment.created_at)],
    ]


def _counts(visit: Visit, counts: Counts) -> h.Node:
    tally = counts.tally
    rows = (
        (words.MEMBERS, tally.members),
        (words.ADDED, tally.explicit),
        (words.BY_PERCENT, tally.by_percentage),
        (words.EXCLUDED, tally.excluded),
        (words.REGISTERED, tally.registered),
    )
    return h.div[
        h.dl(".facts")[
            ([h.dt[visit.say(text)], h.dd[visit.language.number(number)]] for text, number in rows)
        ],
        h.p[h.small[sentence(visit, words.COUNTED, at=moment(visit, counts.at))]],
    ]


def _members(visit: Visit, slug: Slug, members: Page[UserId], cursor: str | None) -> h.Node:
    more = members.next_cursor
    nobody = words.NO_MEMBERS if cursor is None and more is None else words.NONE_ON_PAGE
    return [
        h.h2("#members")[visit.say(words.MEMBERS_LIST)],
        h.ul(".ids")[(h.li[h.a(href=visit.link(f"/users/{each}"))[str(each)]] for each in members.items)]
        if members.items
        else empty(visit.say(nobody)),
        cursor
        and h.p[h.a(href=visit.link(f"/segments/{slug}") + "#members")[visit.say(words.FIRST_MEMBERS)]],
        next_page(visit, more and visit.link(f"/segments/{slug}", cursor=more) + "#members"),
    ]


def _back(visit: Visit, slug: Slug) -> h.Element:
    return h.p[h.a(href=visit.link(f"/segments/{slug}"))[slug]]


HANDLERS: Final = [show_segment, show_counts, export]
