"""/segments: create, list, read, change, delete, and who is in."""

from collections.abc import Sequence

from litestar import Response, Router, delete, get, patch, post
from litestar.params import JSONBody
from msgspec import UNSET, Struct, UnsetType

from segmentd.api.http.documented import problems
from segmentd.api.http.edge.addresses import location
from segmentd.api.http.edge.guard import actor
from segmentd.api.http.strict_json import StrictJson
from segmentd.api.http.types import (
    AnyRequest,
    CursorParameter,
    InstantText,
    LimitParameter,
    RequestBody,
    SlugParameter,
    UseCases,
)
from segmentd.domain.errors import SegmentExists, SegmentNotFound, read
from segmentd.domain.identifiers import SaltText, Slug, SlugValue, random_salt, read_salt
from segmentd.domain.instants import rfc3339
from segmentd.domain.pages import USUAL_PAGE
from segmentd.domain.segments import (
    NewSegment,
    Percent,
    PercentValue,
    Segment,
    SegmentUpdate,
    exact_percent,
    shortest,
)
from segmentd.domain.texts import Description, DescriptionValue


class SegmentCreation(RequestBody, frozen=True):
    """A segment to make."""

    slug: SlugValue
    description: DescriptionValue = Description("")
    percent: PercentValue | None = None
    salt: SaltText | UnsetType = UNSET


class SegmentPatch(RequestBody, frozen=True):
    """The new values; `percent` null ends the rollout."""

    slug: SlugValue | UnsetType = UNSET
    description: DescriptionValue | UnsetType = UNSET
    percent: PercentValue | UnsetType | None = UNSET


def shown(percent: Percent | None) -> float | None:
    """A percentage as clients see it."""
    return None if percent is None else shortest(percent)


class SegmentBody(Struct, frozen=True):
    """A segment."""

    slug: Slug
    description: str
    percent: float | None
    salt: SaltText
    created_at: InstantText

    @classmethod
    def of(cls, segment: Segment) -> "SegmentBody":
        return cls(
            segment.slug,
            segment.description,
            shown(segment.percent),
            str(segment.salt),
            rfc3339(segment.created_at),
        )


def new_segment(data: SegmentCreation) -> NewSegment:
    """In the words of the domain. Raises Invalid."""
    return NewSegment(
        data.slug,
        data.description,
        None if data.percent is None else read(exact_percent, data.percent, "/percent"),
        random_salt() if data.salt is UNSET else read(read_salt, data.salt, "/salt"),
    )


class SegmentPage(Struct, frozen=True):
    """Segments, by slug."""

    segments: Sequence[SegmentBody]
    next_cursor: str | None


@post("/", dto=StrictJson[SegmentCreation], responses=problems(SegmentExists))
async def create_segment(
    request: AnyRequest, data: JSONBody[SegmentCreation], service: UseCases
) -> Response[SegmentBody]:
    """Create a segment, with a percentage of all users if one is given."""
    segment = await service.create_segment(new_segment(data), actor(request))
    return Response(
        SegmentBody.of(segment), headers={"Location": location(request, f"/api/v1/segments/{segment.slug}")}
    )


@get("/")
async def list_segments(
    service: UseCases, limit: LimitParameter = USUAL_PAGE, cursor: CursorParameter = None
) -> SegmentPage:
    """List the segments, by slug."""
    page = await service.list_segments(limit, cursor)
    return SegmentPage([SegmentBody.of(segment) for segment in page.items], page.next_cursor)


@get("/{slug:str}", responses=problems(SegmentNotFound))
async def get_segment(slug: SlugParameter, service: UseCases) -> SegmentBody:
    """Read one segment."""
    return SegmentBody.of(await service.get_segment(slug))


@patch("/{slug:str}", dto=StrictJson[SegmentPatch], responses=problems(SegmentNotFound, SegmentExists))
async def update_segment(
    request: AnyRequest, slug: SlugParameter, data: JSONBody[SegmentPatch], service: UseCases
) -> SegmentBody:
    """Change the slug, the description or the percentage; null ends the percentage."""
    percent = (
        read(exact_percent, data.percent, "/percent") if isinstance(data.percent, float) else data.percent
    )
    return SegmentBody.of(
        await service.update_segment(
            slug, SegmentUpdate(data.slug, data.description, percent), actor(request)
        )
    )


@delete("/{slug:str}", responses=problems(SegmentNotFound))
async def delete_segment(request: AnyRequest, slug: SlugParameter, service: UseCases) -> None:
    """Delete a segment: every membership in it ends at once, its history stays."""
    await service.delete_segment(slug, actor(request))


segments_router = Router(
    "/segments",
    tags=["Segments"],
    route_handlers=[
        create_segment,
        list_segments,
        get_segment,
        update_segment,
        delete_segment,
    ],
)
