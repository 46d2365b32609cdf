"""What happens to a call whose client has gone."""

import asyncio
from contextlib import closing
from pathlib import Path

import grpc
import psycopg
import pytest
from google.protobuf.message import Message

from segmentd.api.grpc.calls import Limits
from segmentd.api.grpc.generated import segmentd_pb2 as pb
from segmentd.config import Settings
from segmentd.domain.access import Actor
from segmentd.domain.identifiers import Salt, Slug, UserId
from segmentd.domain.segments import NewSegment
from segmentd.domain.texts import Description
from segmentd.replica.follower import Follower
from segmentd.serve.wiring import open_node, service
from segmentd.storage.database import Database
from tests.support.door import open_to_all
from tests.support.grpc_door import Reflected, grpc_door, stub

WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"


async def waiting_for(connection: psycopg.AsyncConnection, table: str) -> int:
    row = await (await connection.execute(WAITING, [table])).fetchone()
    return 0 if row is None else int(row[0])


async def give_up(client: Reflected, method: str, request: Message) -> None:
    """Calls with a deadline that passes."""
    async with grpc.aio.insecure_channel(client.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub(channel, method, pb.User)(request, timeout=0.5)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_deadline_ends_the_statement(database_url: str, database: Database, tmp_path: Path) -> None:
    use_cases = service(database, Settings(data_dir=str(tmp_path)))
    async with (
        grpc_door(use_cases, await open_to_all(database), Limits(grace=0.1)) as client,
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as own,
    ):
        async with own.transaction():
            await own.execute("LOCK users")
            await give_up(client, "Users/RegisterUser", pb.RegisterUserRequest(id=5))
            async with asyncio.timeout(60):
                while await waiting_for(own, "users"):  # noqa: ASYNC110 - another process ends it
                    await asyncio.sleep(0.05)
        found = await (await own.execute("SELECT count(*) FROM users")).fetchone()
        assert found == (0,)


async def test_a_change_that_ends_after_its_client_has_gone_is_shown_at_once(
    database_url: str, database: Database, folder: Path
) -> None:
    settings = Settings(data_dir=str(folder.parent))
    segment = NewSegment(Slug("A"), Description(""), None, Salt(1))
    await service(database, settings).create_segment(segment, Actor("test"))
    with closing(Follower(database, folder)) as follower:
        await follower.round()
    async with open_node(database, settings, folder) as node:
        authenticator = await open_to_all(database)
        async with (
            grpc_door(service(database, settings, node), authenticator, Limits(grace=60)) as client,
            await psycopg.AsyncConnection.connect(database_url, autocommit=True) as own,
        ):
            async with own.transaction():
                await own.execute("LOCK memberships IN SHARE MODE")
                wanted = pb.ChangeUserSegmentsRequest(user_id=5, add=[pb.Addition(slug="A")])
                await give_up(client, "Memberships/ChangeUserSegments", wanted)
                assert await waiting_for(own, "memberships")

            # Nothing but the call itself can show it: there is no follower.
            async with asyncio.timeout(60):
                while not node.replica.segments(UserId(5)):  # noqa: ASYNC110 - another task ends it
                    await asyncio.sleep(0.05)
