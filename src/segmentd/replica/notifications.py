"""Change notifications between nodes: after commits, the follower of every node begins a round at once."""

import asyncio
from typing import Final

import psycopg
import structlog

from segmentd.domain.errors import Unavailable
from segmentd.storage import replication
from segmentd.storage.database import Database
from segmentd.storage.sessions import Reachability, Session

# Notifications are combined: a NOTIFY in each transaction would halve the throughput of writes. While commits
# come without a pause there are fewer: a follower rests for so long between its rounds.
BUNDLE_SECONDS: Final = 0.02
LONG_BUNDLE_SECONDS: Final = 0.05
PAUSE_SECONDS: Final = 1.0

_log = structlog.get_logger(__name__)


class Notifier:
    """Notifies all nodes at once, then every 20 ms at most; every 50 ms while commits come without pause."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._committed = asyncio.Event()

    def notify(self) -> None:
        """Call it after a commit; `run` then sends the notification."""
        self._committed.set()

    async def run(self) -> None:
        """Sends notifications through the database until it is cancelled."""
        while True:
            await self._committed.wait()
            self._committed.clear()
            try:
                await replication.notify(self._database)
            except Unavailable:
                # Followers also check for changes by themselves, once a second.
                _log.info("could not notify, the database is away")
            await asyncio.sleep(BUNDLE_SECONDS)
            if self._committed.is_set():
                await asyncio.sleep(LONG_BUNDLE_SECONDS - BUNDLE_SECONDS)


async def listen(database_url: str, wake: asyncio.Event, stop: asyncio.Event) -> None:
    """Sets `wake` at every notification until `stop`; connects again after a loss of the connection."""
    async with asyncio.TaskGroup() as group:
        hearing = group.create_task(_keep_hearing(database_url, wake))
        await stop.wait()
        hearing.cancel()


async def _keep_hearing(database_url: str, wake: asyncio.Event) -> None:
    reachability = Reachability()
    while True:
        try:
            await _hear(database_url, wake, reachability)
        except psycopg.Error as error:
            reachability.note_failure(error)
        await asyncio.sleep(PAUSE_SECONDS)


async def _hear(database_url: str, wake: asyncio.Event, reachability: Reachability) -> None:
    async with await Session.connect(
        database_url, autocommit=True, application_name="segmentd follower", reachability=reachability
    ) as connection:
        await connection.execute(f"LISTEN {replication.CHANNEL}")
        # There may have been a commit before this connection listened.
        wake.set()
        async for _ in connection.notifies():
            wake.set()
