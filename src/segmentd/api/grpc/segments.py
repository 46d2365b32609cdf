"""The service Segments."""

from collections.abc import Mapping
from typing import Final

from msgspec import UNSET

from segmentd.api.grpc import values
from segmentd.api.grpc.calls import Call, Method
from segmentd.api.grpc.generated import segmentd_pb2 as pb
from segmentd.domain.errors import Fault, Invalid, read
from segmentd.domain.identifiers import Salt, random_salt
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

_PATHS: Final = frozenset({"slug", "description", "percent"})


def message(segment: Segment) -> pb.Segment:
    """A segment."""
    return pb.Segment(
        slug=segment.slug,
        description=segment.description,
        percent=None if segment.percent is None else float(shortest(segment.percent)),
        salt=segment.salt,
        created_at=values.stamp(segment.created_at),
    )


def _percent(value: float, field: str) -> Percent:
    checked: float = values.valid(value, PercentValue, field)
    return read(exact_percent, checked, f"/{field}")


def _description(text: str, field: str) -> Description:
    found: Description = values.valid(text, DescriptionValue, field)
    return found


async def create_segment(call: Call, request: pb.CreateSegmentRequest) -> pb.Segment:
    """Makes a segment."""
    segment = NewSegment(
        values.slug(request.slug),
        _description(request.description, "description"),
        _percent(request.percent, "percent") if request.HasField("percent") else None,
        Salt(request.salt) if request.HasField("salt") else random_salt(),
    )
    return message(await call.service.create_segment(segment, call.actor))


async def get_segment(call: Call, request: pb.GetSegmentRequest) -> pb.Segment:
    """One segment."""
    return message(await call.service.get_segment(values.slug(request.slug)))


async def list_segments(call: Call, request: pb.ListSegmentsRequest) -> pb.ListSegmentsResponse:
    """A page of the segments."""
    page = await call.service.list_segments(
        values.limit(request.page_size), values.cursor(request.page_token)
    )
    return pb.ListSegmentsResponse(segments=map(message, page.items), next_page_token=page.next_cursor or "")


async def update_segment(call: Call, request: pb.UpdateSegmentRequest) -> pb.Segment:
    """Changes what the mask names; a percentage that is named and absent ends."""
    paths = {*request.update_mask.paths}
    if unknown := sorted(paths - _PATHS):
        raise Invalid(*(Fault("/update_mask", f"{path} is no field that can be changed") for path in unknown))
    given = request.segment
    percent = _percent(given.percent, "segment/percent") if given.HasField("percent") else None
    update = SegmentUpdate(
        values.slug(given.slug, "segment/slug") if "slug" in paths else UNSET,
        _description(given.description, "segment/description") if "description" in paths else UNSET,
        percent if "percent" in paths else UNSET,
    )
    return message(await call.service.update_segment(values.slug(request.slug), update, call.actor))


async def delete_segment(call: Call, request: pb.DeleteSegmentRequest) -> pb.DeleteSegmentResponse:
    """Ends a segment."""
    await call.service.delete_segment(values.slug(request.slug), call.actor)
    return pb.DeleteSegmentResponse()


async def list_segment_users(call: Call, request: pb.ListSegmentUsersRequest) -> pb.ListSegmentUsersResponse:
    """A page of the users of a segment."""
    page = await call.service.list_members(
        values.slug(request.slug),
        values.instant(request.at, "at") if request.HasField("at") else None,
        values.limit(request.page_size),
        values.cursor(request.page_token),
    )
    return pb.ListSegmentUsersResponse(user_ids=page.items, next_page_token=page.next_cursor or "")


async def count_segment(call: Call, request: pb.CountSegmentRequest) -> pb.SegmentCounts:
    """How many of the known users are in a segment."""
    at = values.instant(request.at, "at") if request.HasField("at") else None
    counts = await call.service.count_members(values.slug(request.slug), at)
    tally = counts.tally
    return pb.SegmentCounts(
        at=values.stamp(counts.at),
        registered=tally.registered,
        members=tally.members,
        explicit=tally.explicit,
        excluded=tally.excluded,
        covered=tally.covered,
    )


async def preview_percent(call: Call, request: pb.PreviewPercentRequest) -> pb.PercentPreview:
    """What a percentage would change."""
    slug, percent = values.slug(request.slug), _percent(request.percent, "percent")
    preview = await call.service.preview_percent(slug, percent)
    before = preview.percent_before
    return pb.PercentPreview(
        percent_before=None if before is None else float(shortest(before)),
        percent_after=float(shortest(percent)),
        registered=preview.before.registered,
        enter=preview.enter,
        leave=preview.leave,
        stay=preview.stay,
        pinned=preview.before.explicit,
        excluded=preview.before.excluded,
        sample_enter=preview.sample if preview.enter else (),
        sample_leave=preview.sample if preview.leave else (),
    )


METHODS: Final[Mapping[str, Method]] = {
    "CreateSegment": Method("create_segment", create_segment),
    "GetSegment": Method("get_segment", get_segment),
    "ListSegments": Method("list_segments", list_segments),
    "UpdateSegment": Method("update_segment", update_segment),
    "DeleteSegment": Method("delete_segment", delete_segment),
    "ListSegmentUsers": Method("list_members", list_segment_users),
    "CountSegment": Method("count_members", count_segment),
    "PreviewPercent": Method("preview_percent", preview_percent),
}
