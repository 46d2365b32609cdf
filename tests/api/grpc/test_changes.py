"""FollowChanges gives the feed that the HTTP door gives."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format

from segmentd.api.grpc.generated import segmentd_pb2 as pb
from segmentd.config import Settings
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from segmentd.storage.feed import present
from segmentd.storage.positions import Position, read_position
from tests.support.client import Api, Json
from tests.support.door import middleware, open_to_all
from tests.support.grpc_door import Reflected, Refused, grpc_door, stub

FOLLOW = "Changes/FollowChanges"


class Doors:
    """Both doors of one service."""

    def __init__(self, api: Api, client: Reflected, channel: grpc.aio.Channel) -> None:
        self.api = api
        self.client = client
        self.channel = channel

    @asynccontextmanager
    async def following(self, **request: Json) -> AsyncIterator[AsyncIterator[pb.FeedChange]]:
        """The messages of a stream."""
        call = stub(self.channel, FOLLOW, pb.FeedChange, streams=True)(pb.FollowChangesRequest(**request))
        try:
            yield aiter(call)
        finally:
            call.cancel()


@pytest.fixture
async def doors(database: Database, tmp_path: Path) -> AsyncIterator[Doors]:
    use_cases = service(database, Settings(data_dir=str(tmp_path)))
    guard = await open_to_all(database)
    async with (
        Api(middleware(use_cases, guard)) as api,
        grpc_door(use_cases, guard) as client,
        grpc.aio.insecure_channel(client.address) as channel,
    ):
        yield Doors(api, client, channel)
        use_cases.leave()


def over_http(change: Json) -> Json:
    """A change of the HTTP door in the words of gRPC's JSON."""
    kind = change.pop("kind")
    words = {name: value for name, value in change.items() if value is not None and name != "position"}
    operation = words.pop("operation").upper()
    if kind == "segment":
        words["kind"] = f"KIND_{operation}"
    else:
        words["operation"] = f"OPERATION_{operation}"
        words["cause"] = "CAUSE_" + words["cause"].upper().replace("-", "_")
        words["user_id"] = str(words["user_id"])
    return {kind: words}


async def test_the_stream_has_what_the_pages_have_and_goes_on(doors: Doors) -> None:
    api = doors.api
    await api.create("A", percent=10)
    await api.change(7, add=[{"slug": "A", "until": "2040-01-01T00:00:00.000001Z"}], reason="ticket")
    await api.change_segment("A", slug="B", percent=12.5)
    await api.delete("users/7")
    pages = (await api.get("changes")).json()["changes"]
    async with doors.following() as coming:
        for expected in pages:
            got = json_format.MessageToDict(
                await asyncio.wait_for(anext(coming), 30), preserving_proto_field_name=True
            )
            assert read_position(got.pop("position"))
            assert got == over_http(expected)
        waiting = asyncio.ensure_future(anext(coming))
        await api.add(8, "B")
        assert (await asyncio.wait_for(waiting, 30)).membership.user_id == 8


async def test_a_position_a_segment_and_a_user_can_be_named(doors: Doors) -> None:
    for slug in ("A", "B"):
        await doors.api.create(slug)
    after = (await doors.api.get("changes")).json()["next"]
    await doors.api.add(1, "A", "B")
    await doors.api.add(2, "A", "B")
    async with doors.following(after=after, segment="B", user_id=2) as coming:
        change = (await asyncio.wait_for(anext(coming), 30)).membership
        assert (change.user_id, change.segment) == (2, "B")


async def test_bad_and_expired_positions_have_their_status(doors: Doors, database: Database) -> None:
    here = await present(database)
    expired = Position(here.log._replace(database=1), here.seen).text()
    bad = await doors.client.call(FOLLOW, {"after": "x"})
    gone = await doors.client.call(FOLLOW, {"after": expired})

    assert isinstance(bad, Refused)
    assert (bad.code, [*bad.fields]) == ("INVALID_ARGUMENT", ["after"])
    assert isinstance(gone, Refused)
    assert (gone.code, gone.reason) == ("OUT_OF_RANGE", "POSITION_EXPIRED")


async def test_a_client_that_leaves_early_leaves_nothing_behind(doors: Doors) -> None:
    for slug in ("A", "B", "C"):
        await doors.api.create(slug)
    async with doors.following() as coming:
        await asyncio.wait_for(anext(coming), 30)
