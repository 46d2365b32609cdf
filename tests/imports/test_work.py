"""The background job of imports gives the replica of its node time to follow."""

import asyncio

from segmentd.imports.work import ImportWork
from segmentd.storage.database import Database
from tests.support.client import Api
from tests.support.importing import Importing


async def test_each_batch_waits_until_the_replica_has_kept_up(api: Api, database: Database) -> None:
    importing = Importing(api, database)
    await api.create("A")
    begun = await importing.begin("".join(f"{user_id},A\n" for user_id in range(1, 121)))
    kept_up = asyncio.Event()
    members: list[int] = []

    async def pace() -> None:
        members.append(len(await importing.members("A")))
        await kept_up.wait()

    importing.work = ImportWork(database, pace=pace)
    finishing = asyncio.create_task(importing.finish(begun))
    async with asyncio.timeout(60):
        while not members:  # noqa: ASYNC110 - the job comes to its first batch
            await asyncio.sleep(0.01)
    assert members == [0]
    assert await importing.members("A") == []

    kept_up.set()
    assert (await finishing)["status"] == "done"
    assert len(members) > 1
    assert members == sorted(set(members))
