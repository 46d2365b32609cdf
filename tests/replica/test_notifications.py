"""A node shows other nodes' commits at once after a change notification, and soon without one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest

from segmentd.domain.errors import Unavailable
from segmentd.replica import notifications
from segmentd.replica.follower import Follower
from segmentd.replica.notifications import Notifier, listen
from segmentd.storage import replication
from segmentd.storage.database import Database
from segmentd.storage.replication import Reading
from tests.support.changing import CHANGE
from tests.support.client import Api
from tests.support.rows import Rows
from tests.support.workers import PATIENCE_S, Worker, eventually

# Longer than any test: everything that a node shows within it comes from notifications.
NEVER = 3600.0

END_ALL = """
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


@asynccontextmanager
async def running(*tasks: Awaitable[None]) -> AsyncIterator[None]:
    """All of them, until the end of the context."""
    begun = [asyncio.ensure_future(task) for task in tasks]
    try:
        yield
    finally:
        for task in begun:
            task.cancel()
        for task in begun:
            with suppress(asyncio.CancelledError):
                await task


async def notified(wake: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await wake.wait()
    wake.clear()


async def test_a_notification_reaches_all_who_listen(database: Database, database_url: str) -> None:
    near, far, stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
    notifier = Notifier(database)
    async with running(listen(database_url, near, stop), listen(database_url, far, stop), notifier.run()):
        await notified(near)  # something may have come before it listened
        await notified(far)

        notifier.notify()

        await notified(near)
        await notified(far)


async def test_many_commits_are_one_notification(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried = 0
    notify = replication.notify

    async def counted(database: Database) -> None:
        nonlocal carried
        carried += 1
        await notify(database)

    monkeypatch.setattr(replication, "notify", counted)
    wake, notifier = asyncio.Event(), Notifier(database)
    async with running(listen(database_url, wake, asyncio.Event()), notifier.run()):
        await notified(wake)
        for _ in range(1000):
            notifier.notify()
        await notified(wake)

    assert carried == 1


async def test_the_first_commit_is_notified_at_once_and_later_ones_together(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "BUNDLE_SECONDS", NEVER)
    wake, notifier = asyncio.Event(), Notifier(database)
    async with running(listen(database_url, wake, asyncio.Event()), notifier.run()):
        await notified(wake)
        notifier.notify()

        await notified(wake)

        notifier.notify()
        await database.execute("SELECT")
        assert not wake.is_set()


async def test_a_notification_that_fails_does_not_end_later_ones(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    notify = replication.notify
    failed = asyncio.Event()

    async def away(_: Database) -> None:
        failed.set()
        raise Unavailable

    wake, notifier = asyncio.Event(), Notifier(database)
    async with running(listen(database_url, wake, asyncio.Event()), notifier.run()):
        await notified(wake)
        monkeypatch.setattr(replication, "notify", away)
        notifier.notify()
        await failed.wait()
        monkeypatch.setattr(replication, "notify", notify)
        notifier.notify()

        await notified(wake)


async def test_listening_ends_with_the_stop(database_url: str) -> None:
    wake, stop = asyncio.Event(), asyncio.Event()
    listening = asyncio.create_task(listen(database_url, wake, stop))
    await notified(wake)

    stop.set()

    async with asyncio.timeout(PATIENCE_S):
        await listening


async def test_a_follower_shows_at_once_what_another_node_notifies_of(
    api: Api, database: Database, database_url: str, follower: Follower, worker: Worker
) -> None:
    await api.create("A")
    wake, stop, notifier = asyncio.Event(), asyncio.Event(), Notifier(database)

    async def shown() -> bool:
        return await worker.age() is not None and await worker.replicated(1) == [["A"]]

    async with running(listen(database_url, wake, stop), follower.follow(stop, wake, NEVER), notifier.run()):
        await eventually(lambda: is_fresh(worker))
        await api.add(1, "A")
        notifier.notify()

        await eventually(shown)


async def is_fresh(worker: Worker) -> bool:
    return await worker.age() is not None


async def test_a_follower_looks_by_itself_without_a_notification(
    api: Api, follower: Follower, worker: Worker
) -> None:
    await api.create("A")

    async def shown() -> bool:
        return await worker.replicated(1) == [["A"]]

    async with running(follower.follow(asyncio.Event(), asyncio.Event(), 0.05)):
        await eventually(lambda: is_fresh(worker))
        await api.add(1, "A")
        await eventually(shown)


async def test_the_loss_of_all_connections_is_outlived(
    api: Api,
    database: Database,
    database_url: str,
    follower: Follower,
    worker: Worker,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notifications, "PAUSE_SECONDS", 0.05)
    await api.create("A")
    wake, stop, notifier = asyncio.Event(), asyncio.Event(), Notifier(database)

    async with running(listen(database_url, wake, stop), follower.follow(stop, wake, NEVER), notifier.run()):
        await eventually(lambda: is_fresh(worker))
        for user_id in (1, 2, 3):
            rows.run(END_ALL)
            rows.run(CHANGE, user_id, "A", "true", None)

            async def shown(user_id: int = user_id) -> bool:
                rows.run("SELECT pg_notify('segmentd_changes', '')")
                return await worker.replicated(user_id) == [["A"]]

            await eventually(shown)


@pytest.mark.parametrize(
    "error",
    [
        Unavailable(),
        psycopg.errors.LockNotAvailable("as behind a migration"),
        psycopg.errors.UndefinedTable("as before a migration"),
        psycopg.errors.IdleInTransactionSessionTimeout("as some operators set it"),
        OSError(28, "No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_round_that_fails_is_followed_by_another(
    api: Api, follower: Follower, worker: Worker, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    await api.create("A")
    await follower.round()
    await api.add(1, "A")
    failed = asyncio.Event()
    catalog_version = Reading.catalog_version

    async def failing(reading: Reading) -> int:
        if not failed.is_set():
            failed.set()
            raise error
        return await catalog_version(reading)

    async def shown() -> bool:
        return await worker.replicated(1) == [["A"]]

    monkeypatch.setattr(Reading, "catalog_version", failing)
    async with running(follower.follow(asyncio.Event(), asyncio.Event(), 0.01)):
        await eventually(shown)
    assert failed.is_set()
