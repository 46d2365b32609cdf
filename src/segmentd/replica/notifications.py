"""Change notifications between nodes: after commits, the follower of every node begins a round at once."""

import asyncio
import time
from typing import Final, NewType

import psycopg
import structlog

from segmentd.domain.errors import Unavailable
from segmentd.storage import replication
from segmentd.storage.database import Database
from segmentd.storage.sessions import Reachability, Session

# Notifications are combined: a NOTIFY in each transaction would halve the throughput of writes.
BUNDLE_SECONDS: Final = 0.02
PAUSE_SECONDS: Final = 1.0

Claim = NewType("Claim", int)
"""A notification that somebody sends: it tells of so many commits of this process."""

_log = structlog.get_logger(__name__)


class Notifier:
    """Notifies all nodes at once, and then at most every 20 ms, however many commits there were.

    A transaction can send the notification itself, which costs less than a transaction for it. Such a
    transaction claims the notification before it begins.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._commits = 0
        self._told = 0
        self._untold = asyncio.Event()
        self._due = 0.0

    def notify(self) -> None:
        """Call it after a commit; `run` then sends the notification, unless a transaction does."""
        self._commits += 1
        self._untold.set()

    def claim(self) -> Claim | None:
        """A claim if a notification is due: the caller sends it, and then calls `sent`."""
        now = time.monotonic()
        if now < self._due:
            return None
        self._due = now + BUNDLE_SECONDS
        return Claim(self._commits)

    def sent(self, claim: Claim) -> None:
        """Call it when the notification was sent; `run` sends what nobody has told."""
        self._told = max(self._told, claim)
        if self._told == self._commits:
            self._untold.clear()

    async def run(self) -> None:
        """Sends notifications through the database until it is cancelled."""
        while True:
            await self._untold.wait()
            if (claim := self.claim()) is None:
                await asyncio.sleep(self._due - time.monotonic())
                continue
            try:
                await replication.notify(self._database)
            except Unavailable:
                # Followers also check for changes by themselves, once a second.
                _log.info("could not notify, the database is away")
            self.sent(claim)


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
