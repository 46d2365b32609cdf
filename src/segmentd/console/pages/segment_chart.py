"""The size of a segment over the last 90 days, as a drawing and as a table that says the same."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import htpy as h
from litestar import Response, get

from segmentd.api.http.edge.guard import OPERATION
from segmentd.api.http.types import AnyRequest, SlugParameter, UseCases
from segmentd.console.layout import html, is_for_a_part, moment, page, table
from segmentd.console.visit import Visit
from segmentd.console.words import segment as words
from segmentd.domain.errors import SegmentNotFound
from segmentd.domain.identifiers import Slug
from segmentd.domain.instants import rfc3339
from segmentd.service import Service

LENGTH: Final = timedelta(days=90)
# Each is a count, which under a percentage costs a walk through all users.
POINTS: Final = 7
_WIDTH, _HEIGHT = 1000, 240
_LEFT, _TOP, _BOTTOM = 90, 12, 30
_WITH_HOURS: Final = timedelta(days=4)


class Size(NamedTuple):
    """How many users were in the segment at an instant."""

    at: datetime
    members: int


@get("/segments/{slug:str}/chart", opt={OPERATION: "count_members"})
async def show_chart(request: AnyRequest, slug: SlugParameter, service: UseCases) -> Response[bytes]:
    """The chart: as a part of the segment's page, or as a page where there is no script."""
    visit = Visit.of(request)
    sizes = await measured(service, slug)
    content = h.div[_drawing(visit, slug, sizes), _as_table(visit, sizes)]
    if is_for_a_part(request):
        return html(str(content))
    back = h.p[h.a(href=visit.link(f"/segments/{slug}"))[slug]]
    return page(visit, slug, h.h2[visit.say(words.CHART)], content, back)


async def measured(service: Service, slug: Slug) -> Sequence[Size]:
    """Sizes at equal distances, from 90 days ago or the beginning of the segment until now, oldest first.

    Raises SegmentNotFound, Overloaded.
    """
    segment, now = await service.get_segment(slug), await service.present()
    begin = max(now - LENGTH, segment.created_at)
    sizes = []
    for number in range(POINTS):
        at = begin + (now - begin) * number / (POINTS - 1)
        try:
            sizes.append(Size(at, (await service.count_members(slug, at)).tally.members))
        except SegmentNotFound:  # deleted since
            if number == POINTS - 1:
                raise
            sizes.append(Size(at, 0))
    return sizes


def _drawing(visit: Visit, slug: Slug, sizes: Sequence[Size]) -> h.Element:
    most = max(1, *(size.members for size in sizes))
    first, last = sizes[0], sizes[-1]
    floor = _HEIGHT - _BOTTOM

    def x(at: datetime) -> float:
        return _LEFT + (at - first.at) / max(last.at - first.at, timedelta(microseconds=1)) * (_WIDTH - _LEFT)

    def y(members: int) -> float:
        return floor - members / most * (floor - _TOP)

    form = "%Y-%m-%d" if last.at - first.at > _WITH_HOURS else "%m-%d %H:%M"
    ends = ((first.at, "start"), (last.at, "end"))
    return h.svg(
        ".chart",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=visit.say(
            words.CHART_LABEL,
            slug=slug,
            first=visit.counted(first.members, words.USERS),
            last=visit.counted(last.members, words.USERS),
        ),
    )[
        (
            [
                h.line(".axis", x1=str(_LEFT), x2=str(_WIDTH), y1=f"{y(value):.1f}", y2=f"{y(value):.1f}"),
                h.text(".faint", x=str(_LEFT - 8), y=f"{y(value) + 4:.1f}", text_anchor="end")[
                    visit.language.number(value)
                ],
            ]
            for value in (0, most)
        ),
        h.polyline(".line", points=" ".join(f"{x(size.at):.1f},{y(size.members):.1f}" for size in sizes)),
        (
            h.text(".faint", x=f"{x(at):.1f}", y=str(_HEIGHT - 8), text_anchor=anchor, data_time=rfc3339(at))[
                f"{at:{form}}"
            ]
            for at, anchor in ends
        ),
    ]


def _as_table(visit: Visit, sizes: Sequence[Size]) -> h.Element:
    return h.details[
        h.summary[visit.say(words.CHART_AS_TABLE)],
        table(
            visit.say(words.CHART),
            [visit.say(words.WHEN), visit.say(words.MEMBERS)],
            ((moment(visit, size.at), visit.language.number(size.members)) for size in sizes),
        ),
    ]


HANDLERS: Final = [show_chart]
