"""/users: register, list, read, delete."""

from collections.abc import Sequence
from typing import Annotated

from litestar import Response, Router, delete, get, post
from litestar.params import JSONBody, QueryParameter
from msgspec import Struct

from segmentd.api.http.documented import problems
from segmentd.api.http.edge.addresses import location
from segmentd.api.http.edge.guard import actor, principal
from segmentd.api.http.strict_json import StrictJson
from segmentd.api.http.types import (
    AnyRequest,
    CursorParameter,
    Ids,
    IdsParameter,
    InstantText,
    LimitParameter,
    RequestBody,
    UseCases,
    UserIdParameter,
    WrittenId,
)
from segmentd.api.roles import check
from segmentd.domain.errors import UserExists, UserNotFound
from segmentd.domain.instants import rfc3339
from segmentd.domain.pages import USUAL_PAGE
from segmentd.domain.texts import NameValue
from segmentd.domain.users import User


class Registration(RequestBody, frozen=True):
    """A user to register; without an id the service assigns one."""

    id: WrittenId | None = None
    name: NameValue | None = None


class UserBody(Struct, frozen=True):
    """A registered user."""

    id: WrittenId
    name: str | None
    registered_at: InstantText

    @classmethod
    def of(cls, user: User, ids: Ids) -> "UserBody":
        return cls(ids.write(user.id), user.name, rfc3339(user.registered_at))


class UserPage(Struct, frozen=True):
    """Users, by id."""

    users: Sequence[UserBody]
    next_cursor: str | None


@post("/", dto=StrictJson[Registration], responses=problems(UserExists))
async def register_user(
    request: AnyRequest,
    data: JSONBody[Registration],
    service: UseCases,
    ids: IdsParameter = Ids.NUMBER,
) -> Response[UserBody]:
    """Register a user. This is optional: the first change of a user's segments registers the user."""
    user_id = None if data.id is None else ids.read(data.id, "/id")
    user = await service.register_user(user_id, data.name)
    return Response(
        UserBody.of(user, ids), headers={"Location": location(request, f"/api/v1/users/{user.id}")}
    )


@get("/")
async def list_users(
    service: UseCases,
    limit: LimitParameter = USUAL_PAGE,
    cursor: CursorParameter = None,
    ids: IdsParameter = Ids.NUMBER,
) -> UserPage:
    """List the registered users, by id."""
    page = await service.list_users(limit, cursor)
    return UserPage([UserBody.of(user, ids) for user in page.items], page.next_cursor)


@get("/{user_id:str}", responses=problems(UserNotFound))
async def get_user(user_id: UserIdParameter, service: UseCases, ids: IdsParameter = Ids.NUMBER) -> UserBody:
    """Read one registered user."""
    return UserBody.of(await service.get_user(user_id), ids)


@delete("/{user_id:str}", responses=problems(UserNotFound))
async def delete_user(
    request: AnyRequest,
    user_id: UserIdParameter,
    service: UseCases,
    *,
    erase: Annotated[bool, QueryParameter(description="erases the history too")] = False,
) -> None:
    """Delete a user: memberships and exclusions end, the history stays. To erase that too needs `admin`."""
    if erase:
        check(principal(request), "erase_user")
        await service.erase_user(user_id, actor(request))
    else:
        await service.delete_user(user_id, actor(request))


users_router = Router(
    "/users", tags=["Users"], route_handlers=[register_user, list_users, get_user, delete_user]
)
