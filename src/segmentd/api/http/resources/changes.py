"""/changes: the segments of many users, changed in one transaction."""

from collections.abc import Sequence
from typing import Annotated

from litestar import Router, post
from litestar.params import JSONBody
from msgspec import Meta, Struct

from segmentd.api.http.documented import problems
from segmentd.api.http.edge.guard import actor
from segmentd.api.http.resources.memberships import ChangedBody, MembershipChange
from segmentd.api.http.strict_json import StrictJson
from segmentd.api.http.types import AnyRequest, Ids, IdsParameter, RequestBody, UseCases, WrittenId
from segmentd.domain.errors import SegmentNotFound
from segmentd.domain.memberships import ChangesOfMany, UserChange
from segmentd.domain.texts import ReasonValue


class ChangeOfUser(MembershipChange, frozen=True, kw_only=True):
    """The segments to add to and remove from one user."""

    user_id: WrittenId


class ChangesRequest(RequestBody, frozen=True):
    """The changes, each of another user; `reason` is for those that have none of their own."""

    changes: Annotated[
        ChangesOfMany[ChangeOfUser],
        Meta(
            description="10,000 segments in all, at most",
            examples=[
                [
                    {"user_id": 1000, "add": ["AVITO_DISCOUNT_30"]},
                    {
                        "user_id": 1002,
                        "add": [{"slug": "AVITO_DISCOUNT_50", "ttl_seconds": 172800}],
                        "remove": ["AVITO_DISCOUNT_30"],
                        "reason": "support ticket 4711",
                    },
                ]
            ],
        ),
    ]
    reason: ReasonValue | None = None

    def to_changes(self, ids: Ids) -> Sequence[UserChange]:
        """In the words of the domain. Raises Invalid."""
        return [
            UserChange(
                ids.read(each.user_id, f"{UserChange.pointer(index)}/user_id"),
                each.to_change(UserChange.pointer(index), self.reason),
            )
            for index, each in enumerate(self.changes)
        ]


class ChangesBody(Struct, frozen=True):
    """What the single call answers for each user, in the order asked."""

    changes: Sequence[ChangedBody]


@post("/", status_code=200, dto=StrictJson[ChangesRequest], responses=problems(SegmentNotFound))
async def change_many_users(
    request: AnyRequest, data: JSONBody[ChangesRequest], service: UseCases, ids: IdsParameter = Ids.NUMBER
) -> ChangesBody:
    """Add and remove segments of up to 1,000 users in one transaction. Either all changes are made, or none.

    Each change is that of `POST /users/{id}/segments`, and has the same answer. A user may be named once.
    """
    changed = await service.change_many(data.to_changes(ids), actor(request))
    return ChangesBody([ChangedBody.of(each, ids) for each in changed])


changes_router = Router("/changes", tags=["A user's segments"], route_handlers=[change_many_users])
