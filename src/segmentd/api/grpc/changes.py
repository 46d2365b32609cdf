"""The service Changes."""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Final

from segmentd.api.grpc import values
from segmentd.api.grpc.calls import Call, Method
from segmentd.api.grpc.generated import segmentd_pb2 as pb
from segmentd.api.grpc.memberships import CAUSES, OPERATIONS
from segmentd.domain.errors import Unavailable
from segmentd.domain.feed import BEGIN, MembershipChange, SegmentChange, SegmentOperation, Wanted
from segmentd.feed.recent import Entry

KINDS: Final[Mapping[SegmentOperation, pb.SegmentChange.Kind.ValueType]] = {
    SegmentOperation.CREATED: pb.SegmentChange.KIND_CREATED,
    SegmentOperation.RENAMED: pb.SegmentChange.KIND_RENAMED,
    SegmentOperation.PERCENT: pb.SegmentChange.KIND_PERCENT,
    SegmentOperation.DELETED: pb.SegmentChange.KIND_DELETED,
}


async def follow_changes(call: Call, request: pb.FollowChangesRequest) -> AsyncIterator[pb.FeedChange]:
    """What came after a position, and then what comes."""
    wanted = Wanted(
        values.slug(request.segment, "segment") if request.segment else None,
        values.user_id(request.user_id) if request.user_id else None,
    )
    async with aclosing(call.service.feed.stream(request.after or BEGIN, wanted)) as pages:
        async for page in pages:
            for entry in page.entries:
                yield _feed_change(entry)
    raise Unavailable("The service is about to stop.")


def _feed_change(entry: Entry) -> pb.FeedChange:
    if isinstance(entry.change, MembershipChange):
        return pb.FeedChange(position=entry.position, membership=_membership(entry.change))
    return pb.FeedChange(position=entry.position, segment=_segment(entry.change))


def _membership(change: MembershipChange) -> pb.MembershipChange:
    return pb.MembershipChange(
        user_id=change.user_id,
        segment=change.segment,
        operation=OPERATIONS[change.operation],
        at=values.stamp(change.at),
        cause=CAUSES[change.cause],
        actor=change.actor,
        on_behalf_of=change.on_behalf_of,
        reason=change.reason,
        until=None if change.until is None else values.stamp(change.until),
    )


def _segment(change: SegmentChange) -> pb.SegmentChange:
    before, after = change.percent_before, change.percent_after
    return pb.SegmentChange(
        segment=change.segment,
        kind=KINDS[change.operation],
        at=values.stamp(change.at),
        actor=change.actor,
        percent_before=None if before is None else float(before),
        percent_after=None if after is None else float(after),
        slug_before=change.slug_before,
    )


METHODS: Final[Mapping[str, Method]] = {"FollowChanges": Method("follow_changes", answers=follow_changes)}
