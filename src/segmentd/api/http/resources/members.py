"""/segments/{slug}: who is in it, how many, and what another percentage would change."""

from collections.abc import Sequence
from typing import Annotated

from litestar import Router, get, post
from litestar.params import JSONBody
from msgspec import Meta, Struct

from segmentd.api.http.documented import problems
from segmentd.api.http.edge.departure import while_awaited
from segmentd.api.http.resources.segments import shown
from segmentd.api.http.strict_json import StrictJson
from segmentd.api.http.types import (
    AnyRequest,
    CursorParameter,
    Ids,
    IdsParameter,
    InstantParameter,
    InstantText,
    LimitParameter,
    RequestBody,
    SlugParameter,
    UseCases,
    WrittenId,
    instant,
)
from segmentd.domain.counts import Counts, Preview
from segmentd.domain.errors import Gone, SegmentNotFound, read
from segmentd.domain.identifiers import Slug
from segmentd.domain.instants import rfc3339
from segmentd.domain.pages import USUAL_PAGE
from segmentd.domain.segments import PercentValue, exact_percent


class MemberPage(Struct, frozen=True):
    """Users of a segment, by id."""

    user_ids: Sequence[WrittenId]
    next_cursor: str | None


class CountsBody(Struct, frozen=True):
    """How many users are in a segment, of those whom the service knows."""

    slug: Slug
    at: Annotated[InstantText, Meta(description="the instant of the figures")]
    registered: Annotated[int, Meta(description="users whom the service knows", examples=[1000000])]
    members: Annotated[
        int, Meta(description="those who are in, explicitly or by percentage", examples=[100350])
    ]
    explicit: Annotated[
        int, Meta(description="those who were added, and whose term has not ended", examples=[1500])
    ]
    excluded: Annotated[
        int, Meta(description="those whom no percentage lets in, because they were removed", examples=[900])
    ]
    covered: Annotated[
        int,
        Meta(description="those whom the percentage covers, added and excluded ones too", examples=[99980]),
    ]

    @classmethod
    def of(cls, counts: Counts) -> "CountsBody":
        tally = counts.tally
        return cls(
            counts.slug,
            rfc3339(counts.at),
            tally.registered,
            tally.members,
            tally.explicit,
            tally.excluded,
            tally.covered,
        )


class PreviewRequest(RequestBody, frozen=True):
    """The percentage to try; null stands for its end."""

    percent: PercentValue | None


class PreviewBody(Struct, frozen=True):
    """What a percentage would change, of the users whom the service knows."""

    percent_before: float | None
    percent_after: float | None
    registered: Annotated[int, Meta(description="users whom the service knows", examples=[1000000])]
    enter: Annotated[int, Meta(description="those who would get in", examples=[149800])]
    leave: Annotated[int, Meta(description="those who would get out", examples=[0])]
    stay: Annotated[
        int, Meta(description="those who are in and would stay, added ones too", examples=[100350])
    ]
    pinned: Annotated[
        int, Meta(description="those who were added: no percentage takes them out", examples=[1500])
    ]
    excluded: Annotated[
        int, Meta(description="those who were removed: no percentage lets them in", examples=[900])
    ]
    sample_enter: Annotated[
        Sequence[WrittenId], Meta(description="the first of those who would get in, by id")
    ]
    sample_leave: Annotated[
        Sequence[WrittenId], Meta(description="the first of those who would get out, by id")
    ]

    @classmethod
    def of(cls, preview: Preview, ids: Ids) -> "PreviewBody":
        sample = [ids.write(user_id) for user_id in preview.sample]
        return cls(
            shown(preview.percent_before),
            shown(preview.percent_after),
            preview.before.registered,
            preview.enter,
            preview.leave,
            preview.stay,
            preview.before.explicit,
            preview.before.excluded,
            sample if preview.enter else [],
            sample if preview.leave else [],
        )


@get("/{slug:str}/users", responses=problems(SegmentNotFound, Gone))
async def list_members(
    slug: SlugParameter,
    service: UseCases,
    at: InstantParameter = None,
    limit: LimitParameter = USUAL_PAGE,
    cursor: CursorParameter = None,
    ids: IdsParameter = Ids.NUMBER,
) -> MemberPage:
    """List the users of the segment, now or at an instant. Only users who are registered then are in it.

    A cursor continues only the list of the same instant.
    What a page costs is bounded, however many users there are: some milliseconds, and up to a tenth of a
    second under a small percentage, where it looks at up to 200,000 users. Where few of them are in the
    segment it may be short, or even empty, with more to come.
    """
    page = await service.list_members(slug, instant("at", at), limit, cursor)
    return MemberPage([ids.write(user_id) for user_id in page.items], page.next_cursor)


@get("/{slug:str}/counts", responses=problems(SegmentNotFound, Gone))
async def count_members(
    request: AnyRequest, slug: SlugParameter, service: UseCases, at: InstantParameter = None
) -> CountsBody:
    """Count the users of a segment, now or at an instant. Only users who are registered then count.

    It reads all users once, and all stored decisions about the segment: about a second for a million of them.
    Two such requests run at once in each process, others wait for up to five seconds.
    """
    return CountsBody.of(await while_awaited(request, service.count_members(slug, instant("at", at))))


@post(
    "/{slug:str}/preview",
    status_code=200,
    dto=StrictJson[PreviewRequest],
    responses=problems(SegmentNotFound),
)
async def preview_percent(
    request: AnyRequest,
    slug: SlugParameter,
    data: JSONBody[PreviewRequest],
    service: UseCases,
    ids: IdsParameter = Ids.NUMBER,
) -> PreviewBody:
    """Preview a change of the percentage: who would get in or out. Changes nothing.

    It says what a PATCH with this percentage would do to the registered users at this moment. It costs what
    counting does, and twice as much where it moves very few of many users.
    """
    percent = None if data.percent is None else read(exact_percent, data.percent, "/percent")
    return PreviewBody.of(await while_awaited(request, service.preview_percent(slug, percent)), ids)


members_router = Router(
    "/segments", tags=["Segments"], route_handlers=[list_members, count_members, preview_percent]
)
