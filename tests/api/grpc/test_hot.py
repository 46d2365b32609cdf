"""The hot call answers as the general handler does, or leaves the call to it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from segmentd.api.grpc.generated import segmentd_pb2 as pb
from segmentd.api.grpc.hot import HotReads
from segmentd.api.grpc.written import FIELDS, aged, look_up_response, written_id
from segmentd.auth.authenticator import AccessRules, Authenticator
from segmentd.config import Settings
from segmentd.domain.access import Role
from segmentd.domain.identifiers import INT64_MAX, UserId
from segmentd.replica.follower import Follower
from segmentd.replica.replica import Replica
from segmentd.replica.status import boot_time
from segmentd.serve.wiring import open_node, service
from segmentd.service import Service
from segmentd.storage.database import Database
from tests.support.client import Api
from tests.support.door import open_door
from tests.support.tokens import new_token

LEFT: Final = pb.UserSegments(segments=["left"])


class Context:
    """What the handler sees of a call."""

    def __init__(self, *metadata: tuple[str, str]) -> None:
        self._metadata = metadata
        self.trailing: Any = None

    def invocation_metadata(self) -> Any:  # noqa: ANN401 - grpcio's own
        return self._metadata

    def set_trailing_metadata(self, metadata: Any) -> None:  # noqa: ANN401 - grpcio's own
        self.trailing = metadata


class Hot:
    """The hot call of a node with access control."""

    def __init__(self, replica: Replica, authenticator: Authenticator, service: Service, token: str) -> None:
        self.replica = replica
        self.service = service
        self.token = ("authorization", f"Bearer {token}")
        self._handle = HotReads(replica, authenticator, {"traceparent"}).before(_general, None)

    async def ask(self, user_id: int, context: Context) -> pb.UserSegments:
        self.replica.status.fresh_at = boot_time()
        call: Any = context
        return pb.UserSegments.FromString(
            await self._handle(pb.ListUserSegmentsRequest(user_id=user_id), call)
        )


async def _general(_request: object, _context: object) -> bytes:
    return LEFT.SerializeToString()


@pytest.fixture
async def hot(database: Database, folder: Path) -> AsyncIterator[Hot]:
    settings = Settings(data_dir=str(folder.parent))
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(Api(await open_door(service(database, settings), database)))
        for slug, percent in {"PLAIN": None, "HALF": 50, "ALL": 100}.items():
            await api.create(slug, percent=percent)
        await api.change(1, add=["PLAIN"], remove=["ALL"])
        follower = Follower(database, folder)
        await follower.round()
        follower.close()
        node = await stack.enter_async_context(open_node(database, settings, folder))
        token = await new_token(database, "reader", Role.READER)
        authenticator = Authenticator(database, AccessRules(may_be_open=False, bound_seconds=50))
        await authenticator.look()
        yield Hot(node.replica, authenticator, service(database, settings, node), token)


async def test_a_plain_call_has_the_segments_of_the_use_case_and_its_request_id(hot: Hot) -> None:
    for user_id in (1, 2, 3, 4_000_000_000, INT64_MAX):
        context = Context(hot.token, ("x-request-id", "mine"), ("user-agent", "a test"))

        answer = await hot.ask(user_id, context)

        assert answer.user_id == user_id
        assert [*answer.segments] == (await hot.service.segments_of(UserId(user_id))).found
        assert answer.HasField("age")
        assert context.trailing == (("x-request-id", "mine"),)
    context = Context(hot.token)
    await hot.ask(1, context)
    [(_, made)] = context.trailing
    assert len(made) == 36


async def test_whatever_is_unusual_is_left_to_the_general_handler(hot: Hot) -> None:
    for user_id in (0, -1):
        assert await hot.ask(user_id, Context(hot.token)) == LEFT
    traced = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    for metadata in (
        (),
        (("authorization", "Bearer segmentd_bad"),),
        (hot.token, hot.token),
        (hot.token, traced),
    ):
        context = Context(*metadata)
        assert await hot.ask(1, context) == LEFT
        assert context.trailing is None
    assert await hot.ask(1, Context(hot.token)) != LEFT
    hot.replica.status.spoilt_at = 2**62
    assert await hot.ask(1, Context(hot.token)) == LEFT


def test_the_written_bytes_are_those_messages() -> None:
    slugs = [f"S{number}".encode() * (1 + number % 70) for number in range(300)]
    names = [slug.decode() for slug in slugs]
    quoted = [b'"%b"' % slug for slug in slugs]

    for age in (0, 61):
        fields = b"".join(map(FIELDS.piece, quoted))
        one = pb.UserSegments.FromString(written_id(2**62) + fields + aged(age))
        found = pb.LookUpResponse.FromString(
            look_up_response([1, 2, 2**62], [b"", b",".join(quoted[:2]), b",".join(quoted)], age)
        )

        assert (one.user_id, [*one.segments], one.age.seconds) == (2**62, names, age)
        assert one.HasField("age")
        assert [(each.user_id, [*each.segments]) for each in found.users] == [
            (1, []),
            (2, names[:2]),
            (2**62, names),
        ]
        assert (found.HasField("age"), found.age.seconds) == (True, age)
