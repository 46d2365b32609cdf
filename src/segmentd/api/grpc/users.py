"""The service Users."""

from collections.abc import Mapping
from typing import Final

from segmentd.api.grpc import values
from segmentd.api.grpc.calls import Call, Method
from segmentd.api.grpc.generated import segmentd_pb2 as pb
from segmentd.api.roles import check
from segmentd.domain.texts import Name, NameValue
from segmentd.domain.users import User


def message(user: User) -> pb.User:
    """A registered user."""
    return pb.User(id=user.id, name=user.name, registered_at=values.stamp(user.registered_at))


async def register_user(call: Call, request: pb.RegisterUserRequest) -> pb.User:
    """Registers a user; without an id, under a new one."""
    user_id = values.user_id(request.id, "id") if request.HasField("id") else None
    name: Name | None = None
    if request.HasField("name"):
        name = values.valid(request.name, NameValue, "name")
    return message(await call.service.register_user(user_id, name))


async def get_user(call: Call, request: pb.GetUserRequest) -> pb.User:
    """One registered user."""
    return message(await call.service.get_user(values.user_id(request.id, "id")))


async def list_users(call: Call, request: pb.ListUsersRequest) -> pb.ListUsersResponse:
    """A page of the registered users."""
    page = await call.service.list_users(values.limit(request.page_size), values.cursor(request.page_token))
    return pb.ListUsersResponse(users=map(message, page.items), next_page_token=page.next_cursor or "")


async def delete_user(call: Call, request: pb.DeleteUserRequest) -> pb.DeleteUserResponse:
    """Deletes a user; to erase the history too needs the role admin."""
    if request.erase:
        check(call.principal, "erase_user")
    user_id = values.user_id(request.id, "id")
    change = call.service.erase_user if request.erase else call.service.delete_user
    await change(user_id, call.actor)
    return pb.DeleteUserResponse()


METHODS: Final[Mapping[str, Method]] = {
    "RegisterUser": Method("register_user", register_user),
    "GetUser": Method("get_user", get_user),
    "ListUsers": Method("list_users", list_users),
    "DeleteUser": Method("delete_user", delete_user),
}
