"""The service Memberships."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from segmentd.api.grpc import values
from segmentd.api.grpc.calls import Call, Method
from segmentd.api.grpc.generated import segmentd_pb2 as pb
from segmentd.api.grpc.written import look_up_response
from segmentd.domain.errors import Fault, Invalid, Unavailable
from segmentd.domain.identifiers import UserId, UserIdValue
from segmentd.domain.instants import Span
from segmentd.domain.memberships import (
    Addition,
    Because,
    Cause,
    Change,
    Changed,
    ChangesOfMany,
    Event,
    Membership,
    Operation,
    Source,
    TtlSeconds,
    TtlValue,
    UserChange,
    UsersOfLookup,
)
from segmentd.domain.segments import shortest
from segmentd.domain.texts import Reason, ReasonValue

# A stream looks again by itself so often, though it is woken by every change.
_PATIENCE_S: Final = 3600.0

SOURCES: Final[Mapping[Source, pb.Source.ValueType]] = {
    Source.EXPLICIT: pb.SOURCE_EXPLICIT,
    Source.ROLLOUT: pb.SOURCE_ROLLOUT,
}
OPERATIONS: Final[Mapping[Operation, pb.Operation.ValueType]] = {
    Operation.ADD: pb.OPERATION_ADD,
    Operation.REMOVE: pb.OPERATION_REMOVE,
}
CAUSES: Final[Mapping[Cause, pb.Cause.ValueType]] = {
    Cause.REQUEST: pb.CAUSE_REQUEST,
    Cause.EXPIRY: pb.CAUSE_EXPIRY,
    Cause.SEGMENT_DELETED: pb.CAUSE_SEGMENT_DELETED,
    Cause.USER_DELETED: pb.CAUSE_USER_DELETED,
    Cause.ROLLOUT: pb.CAUSE_ROLLOUT,
}
REASONS: Final[Mapping[Because, pb.Because.ValueType]] = {
    Because.EXPLICIT: pb.BECAUSE_EXPLICIT,
    Because.EXCLUDED: pb.BECAUSE_EXCLUDED,
    Because.ROLLOUT: pb.BECAUSE_ROLLOUT,
    Because.EXPIRED: pb.BECAUSE_EXPIRED,
    Because.REMOVED: pb.BECAUSE_REMOVED,
    Because.NOT_IN_ROLLOUT: pb.BECAUSE_NOT_IN_ROLLOUT,
    Because.NEVER_ADDED: pb.BECAUSE_NEVER_ADDED,
}


class _Lookup(msgspec.Struct, frozen=True):
    user_ids: UsersOfLookup[UserIdValue]


class _Changes(msgspec.Struct, frozen=True):
    changes: ChangesOfMany[pb.ChangeUserSegmentsRequest]


async def list_user_segments(call: Call, request: pb.ListUserSegmentsRequest) -> pb.UserSegments:
    """The segments that a user is in now, from the node's replica."""
    return await _segments(call, values.user_id(request.user_id))


async def look_up(call: Call, request: pb.LookUpRequest) -> bytes:
    """The segments of many users, in the order asked, from the node's replica."""
    user_ids = values.valid({"user_ids": [*request.user_ids]}, _Lookup, "").user_ids
    age, found = await call.service.look_up(user_ids)
    return look_up_response(user_ids, found, age)


async def watch_user_segments(
    call: Call, request: pb.WatchUserSegmentsRequest
) -> AsyncIterator[pb.UserSegments]:
    """The segments of a user now, and again after each change of them."""
    user_id = values.user_id(request.user_id)
    latest: Sequence[str] | None = None
    with call.service.watch(user_id) as watcher:
        while not watcher.ended:
            answer = await _segments(call, user_id)
            if latest is None or [*answer.segments] != latest:
                latest = [*answer.segments]
                yield answer
            await watcher.wait(_PATIENCE_S)
    raise Unavailable("The service is about to stop.")


async def describe_user_segments(
    call: Call, request: pb.DescribeUserSegmentsRequest
) -> pb.DescribeUserSegmentsResponse:
    """The segments of a user, each with its source and times, now or at an instant."""
    user_id = values.user_id(request.user_id)
    found = await call.service.segments_at(user_id, _at(request))
    return pb.DescribeUserSegmentsResponse(user_id=user_id, segments=map(_membership, found))


async def explain_membership(call: Call, request: pb.ExplainMembershipRequest) -> pb.Explanation:
    """Why a user is in a segment or not, now or at an instant."""
    user_id, slug = values.user_id(request.user_id), values.slug(request.slug)
    evidence = await call.service.explain(user_id, slug, _at(request))
    because = evidence.because()
    rolled_out = evidence.percent is not None
    return pb.Explanation(
        user_id=user_id,
        slug=slug,
        member=because.member,
        because=REASONS[because],
        since=_stamp(evidence.last_change),
        until=_stamp(evidence.until),
        percent=None if evidence.percent is None else float(shortest(evidence.percent)),
        bucket=evidence.bucket if rolled_out else None,
        threshold=evidence.threshold,
        salt=evidence.salt if rolled_out else None,
    )


async def list_history(call: Call, request: pb.ListHistoryRequest) -> pb.ListHistoryResponse:
    """A page of the times that a user got in or out."""
    user_id = values.user_id(request.user_id)
    period = Span(
        values.instant(getattr(request, "from"), "from") if request.HasField("from") else None,
        values.instant(request.to, "to") if request.HasField("to") else None,
    )
    page = await call.service.list_events(
        user_id, period, values.limit(request.page_size), values.cursor(request.page_token)
    )
    return pb.ListHistoryResponse(
        user_id=user_id,
        events=map(_event, page.items),
        next_page_token=page.next_cursor or "",
        begins_at=_stamp(page.begins_at),
    )


async def change_user_segments(call: Call, request: pb.ChangeUserSegmentsRequest) -> pb.ChangedSegments:
    """Adds and removes segments of a user in one transaction."""
    user_id = values.user_id(request.user_id)
    return _changed(await call.service.change_memberships(user_id, _change(request), call.actor))


async def change_many_users(call: Call, request: pb.ChangeManyUsersRequest) -> pb.ChangeManyUsersResponse:
    """Changes many users in one transaction, all or nothing; `reason` is for those that have none."""
    given = values.valid({"changes": [*request.changes]}, _Changes, "").changes
    reason = _reason(request, "")
    changes = []
    for index, each in enumerate(given):
        within = f"changes/{index}/"
        user_id = values.user_id(each.user_id, f"{within}user_id")
        changes.append(UserChange(user_id, _change(each, within, reason)))
    changed = await call.service.change_many(changes, call.actor)
    return pb.ChangeManyUsersResponse(changes=map(_changed, changed))


def _change(request: pb.ChangeUserSegmentsRequest, within: str = "", reason: Reason | None = None) -> Change:
    own = _reason(request, within)
    return Change(
        [_addition(each, f"{within}add/{index}") for index, each in enumerate(request.add)],
        [values.slug(slug, f"{within}remove/{index}") for index, slug in enumerate(request.remove)],
        reason if own is None else own,
    )


def _reason(request: pb.ChangeUserSegmentsRequest | pb.ChangeManyUsersRequest, within: str) -> Reason | None:
    if not request.HasField("reason"):
        return None
    found: Reason = values.valid(request.reason, ReasonValue, f"{within}reason")
    return found


def _changed(changed: Changed) -> pb.ChangedSegments:
    return pb.ChangedSegments(
        user_id=changed.user_id,
        segments=changed.segments,
        added=changed.added,
        removed=changed.removed,
        updated=changed.updated,
        unchanged=changed.unchanged,
    )


def _addition(addition: pb.Addition, field: str) -> Addition:
    slug = values.slug(addition.slug, f"{field}/slug")
    match addition.WhichOneof("term"):
        case "until":
            return Addition(slug, values.instant(addition.until, f"{field}/until"))
        case "ttl":
            if addition.ttl.nanos:
                raise Invalid(Fault(f"/{field}/ttl", "must be whole seconds"))
            seconds: TtlSeconds = values.valid(
                addition.ttl.seconds,
                TtlValue,
                f"{field}/ttl",
            )
            return Addition(slug, None, seconds)
        case _:
            return Addition(slug)


async def _segments(call: Call, user_id: UserId) -> pb.UserSegments:
    age, found = await call.service.segments_of(user_id)
    return pb.UserSegments(user_id=user_id, segments=found, age=Duration(seconds=age))


def _membership(membership: Membership) -> pb.Membership:
    return pb.Membership(
        slug=membership.slug,
        source=SOURCES[membership.source],
        since=values.stamp(membership.since),
        until=_stamp(membership.until),
    )


def _event(event: Event) -> pb.Event:
    return pb.Event(
        segment=event.segment,
        operation=OPERATIONS[event.operation],
        at=values.stamp(event.at),
        source=SOURCES[event.source],
        cause=CAUSES[event.cause],
        actor=event.actor,
        on_behalf_of=event.on_behalf_of,
        reason=event.reason,
        until=_stamp(event.until),
    )


def _at(request: pb.DescribeUserSegmentsRequest | pb.ExplainMembershipRequest) -> datetime | None:
    return values.instant(request.at, "at") if request.HasField("at") else None


def _stamp(moment: datetime | None) -> Timestamp | None:
    return None if moment is None else values.stamp(moment)


METHODS: Final[Mapping[str, Method]] = {
    "ListUserSegments": Method("get_user_segments", list_user_segments),
    "LookUp": Method("lookup", look_up),
    "WatchUserSegments": Method("get_user_segments", answers=watch_user_segments),
    "DescribeUserSegments": Method("get_user_segments", describe_user_segments),
    "ExplainMembership": Method("explain_membership", explain_membership),
    "ListHistory": Method("get_history", list_history),
    "ChangeUserSegments": Method("change_user_segments", change_user_segments),
    "ChangeManyUsers": Method("change_many_users", change_many_users),
}
