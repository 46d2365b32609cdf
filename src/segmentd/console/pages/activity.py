"""What happened, the newest first, and what happens now, which the page asks for."""

from collections.abc import Sequence
from typing import Annotated, Final

import htpy as h
from litestar import Response, get
from litestar.params import QueryParameter

from segmentd.api.http.edge.guard import OPERATION
from segmentd.api.http.types import AnyRequest, CursorParameter, UseCases
from segmentd.console.layout import empty, html, is_for_a_part, moment, next_page, page
from segmentd.console.pages.audit import who
from segmentd.console.pages.segment_percent import written
from segmentd.console.visit import Visit
from segmentd.console.words import activity as words
from segmentd.console.words import user as user_words
from segmentd.domain.feed import EVERYTHING, NOW, FeedChange, MembershipChange, SegmentOperation
from segmentd.domain.memberships import Operation
from segmentd.domain.pages import Limit

ROWS: Final = Limit(50)
AT_ONCE: Final = Limit(100)
# So many changes may come to a page; then it has to be opened again.
MOST_SHOWN: Final = 1000


@get("/activity", opt={OPERATION: "follow_changes"})
async def show_activity(
    request: AnyRequest,
    service: UseCases,
    cursor: CursorParameter = None,
    after: Annotated[str, QueryParameter(description="a position of the feed")] = NOW,
    shown: Annotated[int, QueryParameter(ge=0, le=MOST_SHOWN, description="that came so far")] = 0,
) -> Response[bytes]:
    """The changes before the cursor; as a part, those after a position, for the top of the page."""
    visit = Visit.of(request)
    if is_for_a_part(request):
        came = await service.feed.page(after, EVERYTHING, AT_ONCE)
        changes = [entry.change for entry in reversed(came.entries)]
        # Side by side: within one element each part would stand in the one before.
        return html(
            str(h.fragment[_asking(visit, came.position, shown + len(changes)), _listed(visit, changes)])
        )
    found, position = await service.feed.recent(ROWS, cursor)
    begins_at = None if found.next_cursor else await service.history_begins_at()
    return page(
        visit,
        visit.say(words.TITLE),
        cursor is None and [h.p[visit.say(words.ABOUT)], _live(visit, position.text())],
        cursor and h.p[h.a(href=visit.link("/activity"))[visit.say(words.NEWEST)]],
        _listed(visit, found.items) if found.items else empty(visit.say(words.NONE_YET)),
        None
        if begins_at is None
        else h.p[visit.say(user_words.HISTORY_BEGINS), " ", moment(visit, begins_at)],
        next_page(visit, found.next_cursor and visit.link("/activity", cursor=found.next_cursor)),
    )


def _live(visit: Visit, position: str) -> h.Node:
    again = h.p[h.a(href=visit.link("/activity"))[visit.say(words.NEWER)]]
    return [h.noscript[again], h.div(aria_live="polite")[_asking(visit, position, 0)]]


def _asking(visit: Visit, position: str, shown: int) -> h.Node:
    """Gives way to what came since, after 2 s, which begins with the next one of its kind."""
    if shown > MOST_SHOWN:
        return h.p[h.a(href=visit.link("/activity"))[visit.say(words.LONG)]]
    return h.div(
        hx_get=visit.link("/activity", after=position, shown=shown),
        hx_trigger="load delay:2s",
        hx_swap="outerHTML",
    )


def _listed(visit: Visit, changes: Sequence[FeedChange]) -> h.Node:
    if not changes:
        return None
    return h.ul(".events")[(h.li[_change(visit, change)] for change in changes)]


def _change(visit: Visit, change: FeedChange) -> h.Node:
    segment = h.a(href=visit.link(f"/segments/{change.segment}"))[change.segment]
    if isinstance(change, MembershipChange):
        is_in = change.operation is Operation.ADD
        user = visit.say(words.USER, user=change.user_id)
        return [
            moment(visit, change.at),
            " · ",
            h.a(href=visit.link(f"/users/{change.user_id}"))[user],
            " ",
            h.span(".in" if is_in else ".out")[visit.say(user_words.OPERATIONS[change.operation])],
            " ",
            segment,
            f" · {visit.say(user_words.CAUSES[change.cause])} · ",
            who(visit, change.actor, change.on_behalf_of),
            change.reason and f" · {change.reason}",
        ]
    is_percent = change.operation is SegmentOperation.PERCENT
    said = visit.say(
        words.SEGMENT_OPERATIONS[change.operation],
        before=written(visit, change.percent_before) if is_percent else change.slug_before,
        after=written(visit, change.percent_after),
    )
    return [moment(visit, change.at), " · ", segment, f" {said} · {change.actor}"]


HANDLERS: Final = [show_activity]
