"""What happens now. The page asks for what came since; without script a link does."""

from typing import Annotated, Final

import htpy as h
from litestar import Response, get
from litestar.params import QueryParameter

from segmentd.api.http.edge.guard import OPERATION
from segmentd.api.http.types import AnyRequest, UseCases
from segmentd.console.layout import html, is_for_a_part, moment, page
from segmentd.console.pages.audit import who
from segmentd.console.pages.segment_percent import written
from segmentd.console.visit import Visit
from segmentd.console.words import activity as words
from segmentd.console.words import user as user_words
from segmentd.domain.feed import EVERYTHING, NOW, FeedChange, MembershipChange, SegmentOperation
from segmentd.domain.memberships import Operation
from segmentd.domain.pages import Limit
from segmentd.feed.following import FeedPage

AT_ONCE: Final = Limit(100)
# So many changes a page grows to; then it has to be opened again.
MOST_SHOWN: Final = 1000


@get("/activity", opt={OPERATION: "follow_changes"})
async def show_activity(
    request: AnyRequest,
    service: UseCases,
    after: Annotated[str, QueryParameter(description="a position of the feed")] = NOW,
    shown: Annotated[int, QueryParameter(ge=0, le=MOST_SHOWN, description="changes above")] = 0,
) -> Response[bytes]:
    """The changes after a position; as a part, for the top of the page that is there."""
    visit = Visit.of(request)
    found = await service.feed.page(after, EVERYTHING, AT_ONCE)
    if is_for_a_part(request):
        # Side by side: within one element each part would stand in the one before.
        return html(str(h.fragment[_asking(visit, found, shown), _listed(visit, found)]))
    nothing = after != NOW and not found.entries
    return page(
        visit,
        visit.say(words.TITLE),
        h.p[visit.say(words.ABOUT)],
        nothing and h.p(".empty")[visit.say(words.NOTHING_NEW)],
        h.div(aria_live="polite")[_asking(visit, found, 0), _listed(visit, found)],
    )


def _asking(visit: Visit, found: FeedPage, shown: int) -> h.Node:
    """Gives way to what came since, after 2 s, which begins with the next one of its kind."""
    shown += len(found.entries)
    if shown > MOST_SHOWN:
        return h.p[h.a(href=visit.link("/activity", after=found.position))[visit.say(words.LONG)]]
    return h.div(
        hx_get=visit.link("/activity", after=found.position, shown=shown),
        hx_trigger="load delay:2s",
        hx_swap="outerHTML",
    )[h.noscript[h.a(href=visit.link("/activity", after=found.position))[visit.say(words.NEWER)]]]


def _listed(visit: Visit, found: FeedPage) -> h.Node:
    if not found.entries:
        return None
    return h.ul(".events")[(h.li[_change(visit, entry.change)] for entry in reversed(found.entries))]


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
