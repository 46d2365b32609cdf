"""The figures of a node's replica: its age, its size, and the progress of its follower."""

import asyncio
from contextlib import closing
from functools import partial
from pathlib import Path

from segmentd.observability.metrics import Metrics
from segmentd.replica.follower import Follower
from segmentd.replica.replica import Replica
from segmentd.replica.status import ReplicaStatus
from segmentd.storage.database import Database
from tests.support.client import Api
from tests.support.scraping import Scrape
from tests.support.workers import PATIENCE_S, Worker, eventually, replicas


def scraped(metrics: Metrics) -> Scrape:
    return Scrape(metrics.page([], "").content.decode())


async def test_rounds_are_counted_by_how_they_ended_and_a_good_one_ends_the_falling_behind(
    database: Database, database_url: str, folder: Path
) -> None:
    metrics = Metrics()

    def rounds(outcome: str) -> float:
        return scraped(metrics).of_each("segmentd_replica_rounds_total", "outcome")[outcome]

    async def thrice(outcome: str) -> bool:
        return rounds(outcome) >= 3

    away = Database(database_url)
    async with away:
        pass
    stop, wake = asyncio.Event(), asyncio.Event()
    with closing(Follower(away, folder, metrics)) as follower:
        following = asyncio.create_task(follower.follow(stop, wake, 0.001))
        await eventually(partial(thrice, "failed"))
        stop.set()
        await following
    failed = rounds("failed")
    assert scraped(metrics)("segmentd_replica_rounds_behind") == failed
    assert rounds("done") == scraped(metrics)("segmentd_replica_rebuilds_total") == 0

    stop.clear()
    with closing(Follower(database, folder, metrics)) as follower:
        following = asyncio.create_task(follower.follow(stop, wake, 0.001))
        await eventually(partial(thrice, "done"))
        stop.set()
        await following
    assert rounds("failed") == failed
    assert scraped(metrics)("segmentd_replica_rounds_behind") == 0
    assert scraped(metrics)("segmentd_replica_rebuilds_total") == 1


async def test_a_replica_shows_its_age_and_its_users(api: Api, follower: Follower, folder: Path) -> None:
    await api.create("A")
    for user_id in (1, 2, 3):
        await api.add(user_id, "A")
    with closing(Replica(folder, 60)) as replica:
        assert replica.measure() == (None, None, 0)

        # LMDB lets a process open a file once, so it is closed between a round and a look.
        await follower.round()
        follower.close()
        age, users, behind = replica.measure()

    assert age is not None
    assert 0 <= age < PATIENCE_S
    assert (users, behind) == (3, 0)


async def test_users_that_a_round_has_left_are_behind(status: ReplicaStatus, folder: Path) -> None:
    status.behind = 700
    with closing(Replica(folder, 60)) as replica:
        assert replica.measure().users_behind == 700


async def test_a_missing_replica_shows_no_users_and_is_no_error(
    api: Api, follower: Follower, folder: Path, worker: Worker
) -> None:
    await api.create("A")
    await follower.round()
    await worker.replicated(1)
    follower.close()
    for file in replicas(folder):
        file.unlink()

    with closing(Replica(folder, 60)) as replica:
        assert replica.measure().users is None
