"""GET /ofrep/v1/events: server-sent events that ask a provider to fetch its flags again."""

from collections.abc import AsyncIterator
from typing import Annotated, Final

from litestar import get
from litestar.exceptions import NotFoundException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream

from segmentd.api.http.documented import OFREP_FAILURES
from segmentd.api.http.edge.compression import UNCOMPRESSED
from segmentd.api.http.ofrep.event_links import EVENTS, EventLink, EventLinks
from segmentd.api.http.types import AnyRequest, UseCases
from segmentd.service import Service

HEARTBEAT_S: Final = 15.0
_HEARTBEAT: Final = b":\n\n"
# After how many milliseconds a client that lost its stream connects again: not all at once.
_LEAST_RETRY_MS: Final = 1000
_RETRY_SPREAD_MS: Final = 4000


@get(
    EVENTS,
    media_type="text/event-stream",
    opt={UNCOMPRESSED: True, OFREP_FAILURES: True},
    responses={
        200: ResponseSpec(
            str,
            generate_examples=False,
            media_type="text/event-stream",
            description='`data: {"type":"refetchEvaluation"}` whenever the flags are others',
        )
    },
)
async def watch_flags(
    request: AnyRequest,
    service: UseCases,
    user: Annotated[str, QueryParameter(description="stands in the link")] = "",
    seen: Annotated[str, QueryParameter(description="stands in the link")] = "",
    until: Annotated[str, QueryParameter(description="stands in the link")] = "",
    signature: Annotated[str, QueryParameter(description="stands in the link")] = "",
    last_event_id: Annotated[
        str | None, HeaderParameter(name="Last-Event-ID", description="the id of the last event that came")
    ] = None,
) -> Stream:
    """Watch the flags of one user by a link of `eventStreams`. It is good for an hour at most.

    A comment every 15 seconds keeps the line open.
    """
    links = event_links(request)
    if links is None:
        raise NotFoundException
    link = links.read(user, seen, until, signature)
    events = _events(service, links, link, last_event_id or link.seen)
    # The first step says whether there is room for it, before the status is sent.
    first = await anext(events)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Stream(_all(first, events), media_type="text/event-stream", headers=headers)


def event_links(request: AnyRequest) -> EventLinks | None:
    """The links of this application; None where it has no event streams."""
    found = request.app.state["event_links"]
    return found if isinstance(found, EventLinks) else None


async def _all(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for event in rest:
        yield event


async def _events(service: Service, links: EventLinks, link: EventLink, seen: str) -> AsyncIterator[bytes]:
    with service.watch(link.user_id) as watcher:
        renewed = links.clock() >= link.renewed_at
        retry = _LEAST_RETRY_MS + link.user_id % _RETRY_SPREAD_MS
        # An event without data: it only makes the client remember the id.
        yield b"retry: %d\nid: %b\n\n" % (retry, seen.encode())
        while not watcher.ended and (now := links.clock()) < link.until:
            current = watcher.fingerprint.hex()
            renews = not renewed and now >= link.renewed_at
            if current != seen or renews:
                seen, renewed = current, renewed or renews
                yield b'id: %b\nevent: message\ndata: {"type":"refetchEvaluation"}\n\n' % seen.encode()
            next_time = link.until if renewed else link.renewed_at
            if not await watcher.wait(min(HEARTBEAT_S, max(next_time - links.clock(), 0))):
                yield _HEARTBEAT
