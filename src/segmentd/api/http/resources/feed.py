"""GET /changes: the feed, page by page or as server-sent events."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import Response, Router, get
from litestar.enums import MediaType
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream
from msgspec import Meta, Struct

from segmentd.api.http.documented import STREAMED, problems
from segmentd.api.http.edge.compression import UNCOMPRESSED
from segmentd.api.http.types import (
    Ids,
    IdsParameter,
    InstantText,
    LimitParameter,
    UseCases,
    WrittenId,
    bounds,
    instant_text,
)
from segmentd.domain.errors import PositionExpired, Unavailable
from segmentd.domain.feed import (
    BEGIN,
    NO_WAIT,
    MembershipChange,
    SegmentOperation,
    WaitSeconds,
    WaitValue,
    Wanted,
)
from segmentd.domain.identifiers import Slug, SlugValue, UserId, UserIdValue
from segmentd.domain.instants import rfc3339
from segmentd.domain.memberships import Cause, Operation
from segmentd.domain.pages import USUAL_PAGE
from segmentd.domain.segments import shortest
from segmentd.feed.following import FeedPage
from segmentd.feed.recent import MOST_CHANGES, Entry

EVENT_STREAM: Final = "text/event-stream"
# After how many milliseconds a client that lost its stream connects again.
_RETRY_MS: Final = 1000

_Position = Annotated[
    str, Meta(description="goes on after this change", examples=["6uvi9R4nlJPPfUa3aTGehhYBzgHFavCRzQOHwMA"])
]


class MembershipChangeBody(Struct, frozen=True):
    """A user was added to a segment, perhaps with another term than before, or removed, by hand."""

    position: _Position
    kind: Literal["membership"]
    user_id: WrittenId
    segment: SlugValue
    operation: Operation
    at: InstantText
    cause: Cause
    actor: str
    on_behalf_of: str | None
    reason: str | None
    until: InstantText | None


class SegmentChangeBody(Struct, frozen=True):
    """A segment changed. `slug_before` is the slug before a rename."""

    position: _Position
    kind: Literal["segment"]
    segment: SlugValue
    operation: SegmentOperation
    at: InstantText
    actor: str
    percent_before: float | None
    percent_after: float | None
    slug_before: SlugValue | None


ChangeBody = MembershipChangeBody | SegmentChangeBody


# Not a Struct: msgspec has no schema for a union of Structs whose `kind` is a field like others.
@dataclass(frozen=True)
class ChangesPage:
    """Some changes; `next` is the position after them, `after` of the next request."""

    changes: Sequence[ChangeBody]
    next: str


_EXAMPLE: Final = (
    "retry: 1000\n\n"
    "id: 6uvi9R4nlJPPfUa3aTGehhYBzgHFavCRzQOHwMA\n"
    'data: {"position":"6uvi9R4nlJPPfUa3aTGehhYBzgHFavCRzQOHwMA","kind":"membership","user_id":1000,'
    '"segment":"AVITO_VOICE_MESSAGES","operation":"add","at":"2026-11-21T02:13:20.315846Z","cause":"request",'
    '"actor":"anonymous","on_behalf_of":null,"reason":null,"until":null}\n\n'
    ":\n\n"
)


@get(
    "/changes",
    opt={UNCOMPRESSED: True, STREAMED: {EVENT_STREAM: _EXAMPLE}},
    responses={
        200: ResponseSpec(ChangesPage, generate_examples=False, description="the changes"),
        **problems(PositionExpired),
    },
)
async def follow_changes(  # noqa: PLR0913 - as many as the contract has
    service: UseCases,
    after: Annotated[
        str, QueryParameter(description="`next` of an answer or `position` of a change; or begin, or now")
    ] = BEGIN,
    limit: LimitParameter = USUAL_PAGE,
    wait: Annotated[
        WaitSeconds,
        QueryParameter(
            **bounds(WaitValue), description="holds an empty answer back until there is something"
        ),
    ] = NO_WAIT,
    segment: Annotated[
        Slug | None,
        QueryParameter(**bounds(SlugValue), description="only changes with this slug, before or after them"),
    ] = None,
    user_id: Annotated[
        UserId | None,
        QueryParameter(**bounds(UserIdValue), description="only this user's, and those of segments"),
    ] = None,
    accept: Annotated[
        str | None, HeaderParameter(name="Accept", description="text/event-stream: as server-sent events")
    ] = None,
    *,
    last_event_id: Annotated[
        str | None, HeaderParameter(name="Last-Event-ID", description="a stream goes on after it")
    ] = None,
    ids: IdsParameter = Ids.NUMBER,
) -> Response[Any]:
    """Follow who is added to segments and removed. The changes of segments are in this feed, too.

    Every committed change comes exactly once, whatever commits late; those of one user come in their order.
    Whom a percentage covers is not said; it follows from the salt. With `Accept: text/event-stream` the
    answer is a stream: `id` is the position, and a comment every 15 seconds keeps the line open.
    """
    wanted = Wanted(segment, user_id)
    if accept is not None and EVENT_STREAM in accept.lower():
        pages = service.feed.stream(last_event_id or after, wanted)
        # The first page says whether there is room, and whether the position is good, before the status.
        first = await anext(pages)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return Stream(_events(first, pages, ids), media_type=EVENT_STREAM, headers=headers)
    page = await service.feed.page(after, wanted, limit, wait)
    body = ChangesPage([_body(entry, ids) for entry in page.entries], page.position)
    headers = {"Cache-Control": "no-store"}
    return Response(msgspec.json.encode(body), media_type=MediaType.JSON, headers=headers)


async def _events(first: FeedPage, pages: AsyncGenerator[FeedPage], ids: Ids) -> AsyncIterator[bytes]:
    yield b"retry: %d\nid: %b\n\n" % (_RETRY_MS, first.position.encode()) + _written(first, ids)
    async with aclosing(pages):
        try:
            async for page in pages:
                # An id without data: a client that lost its line comes back with it.
                yield _written(page, ids) or b":\nid: %b\n\n" % page.position.encode()
        except Unavailable as error:
            yield b": %b\n\n" % error.detail.encode()


def _written(page: FeedPage, ids: Ids) -> bytes:
    return b"".join(_event(entry, ids) for entry in page.entries)


# All who are level are sent the same changes.
@lru_cache(MOST_CHANGES)
def _event(entry: Entry, ids: Ids) -> bytes:
    return b"id: %b\ndata: %b\n\n" % (entry.position.encode(), msgspec.json.encode(_body(entry, ids)))


def _body(entry: Entry, ids: Ids) -> ChangeBody:
    change = entry.change
    if isinstance(change, MembershipChange):
        return MembershipChangeBody(
            entry.position,
            "membership",
            ids.write(change.user_id),
            change.segment,
            change.operation,
            rfc3339(change.at),
            change.cause,
            change.actor,
            change.on_behalf_of,
            change.reason,
            instant_text(change.until),
        )
    return SegmentChangeBody(
        entry.position,
        "segment",
        change.segment,
        change.operation,
        rfc3339(change.at),
        change.actor,
        None if change.percent_before is None else shortest(change.percent_before),
        None if change.percent_after is None else shortest(change.percent_after),
        change.slug_before,
    )


feed_router = Router("/", tags=["Feed"], route_handlers=[follow_changes])
