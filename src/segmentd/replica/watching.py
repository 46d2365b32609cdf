"""Wakes those who watch a user when the decisions about the user change, whatever changes them.

A process looks at its node's replica some fifty times a second while somebody watches: at the users that were
written since the last look, and at those for whom a term ended. What it costs depends on the changes, not on
the number of watched users, except where segments or percentages change: then each watched user is computed.
"""

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from segmentd.domain.errors import Unavailable
from segmentd.domain.identifiers import UserId
from segmentd.observability.throttled import ThrottledLog
from segmentd.replica.files import Unusable
from segmentd.replica.replica import Point, Replica
from segmentd.streams import Streams

LOOK_EVERY_S: Final = 0.02
# After a look that computed many users, for so many times as long as it took, up to a second.
REST_LOOKS: Final = 4
LONGEST_REST_S: Final = 1.0
# Users that are computed at once, in about a millisecond.
_USERS_AT_ONCE: Final = 64

_UNUSABLE: Final = "The node's replica is not usable now; try again shortly."

_log = structlog.get_logger(__name__)


class Watcher:
    """One who watches a user; `fingerprint` changes with the decisions about the user."""

    def __init__(self, user_id: UserId, fingerprint: bytes) -> None:
        self.user_id = user_id
        self.fingerprint = fingerprint
        self.ended = False
        """Whether the process is about to stop."""
        self._woken = asyncio.Event()

    async def wait(self, seconds: float) -> bool:
        """Waits for a change or the end, up to so many seconds; says whether there was one."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    def wake(self) -> None:
        """Ends the wait."""
        self._woken.set()


class Watchers:
    """Those of one process, up to a bound."""

    def __init__(self, replica: Replica, streams: Streams | None = None) -> None:
        self.streams = streams or Streams()
        self._replica = replica
        self._throttled = ThrottledLog(_log)
        self._of_user: dict[UserId, list[Watcher]] = {}
        self._ends: dict[UserId, int] = {}
        self._next_end: float = math.inf
        self._point: Point | None = None
        self._some = asyncio.Event()
        self._ended = False

    @contextmanager
    def watch(self, user_id: UserId) -> Iterator[Watcher]:
        """One who watches the user while the context lives. Raises Overloaded, Unavailable."""
        with self.streams.one():
            if self._ended or self._replica.age() is None:
                raise Unavailable(_UNUSABLE)
            try:
                watcher = Watcher(user_id, self._look_at(user_id))
            except Unusable as error:
                raise Unavailable(_UNUSABLE) from error
            self._of_user.setdefault(user_id, []).append(watcher)
            self._some.set()
            try:
                yield watcher
            finally:
                self._leave(watcher)

    @property
    def has_looked(self) -> bool:
        """Whether there was a look at the present replica."""
        return self._point is not None

    def end(self) -> None:
        """Before a stop: ends every wait, and takes no further watcher."""
        self._ended = True
        for watchers in self._of_user.values():
            for watcher in watchers:
                watcher.ended = True
                watcher.wake()

    async def run(self) -> None:
        """Looks for changes until it is cancelled, while somebody watches."""
        while True:
            await self._some.wait()
            begun = time.monotonic()
            try:
                await self._look()
            except Unusable as error:  # the follower builds another one
                self._throttled.warning("cannot look for changes of watched users", error=str(error))
                self._point = None
            rest = min(REST_LOOKS * (time.monotonic() - begun), LONGEST_REST_S)
            await asyncio.sleep(max(LOOK_EVERY_S, rest))

    async def _look(self) -> None:
        if self._replica.age() is None:
            return
        self._point, changed = self._replica.changed_since(self._point)
        users = {*self._of_user} if changed is None else self._of_user.keys() & changed
        if self._next_end <= (now := self._replica.status.now()):
            users |= {user_id for user_id, end in self._ends.items() if end <= now}
        if not users:
            return
        for number, user_id in enumerate(users, 1):
            self._wake_if_changed(user_id)
            if number % _USERS_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._next_end = min(self._ends.values(), default=math.inf)

    def _wake_if_changed(self, user_id: UserId) -> None:
        watchers = self._of_user.get(user_id)
        if watchers is None:  # gone meanwhile
            return
        fingerprint = self._look_at(user_id)
        for watcher in watchers:
            if watcher.fingerprint != fingerprint:
                watcher.fingerprint = fingerprint
                watcher.wake()

    def _look_at(self, user_id: UserId) -> bytes:
        fingerprint, end = self._replica.watched(user_id)
        if end is None:
            self._ends.pop(user_id, None)
        else:
            self._ends[user_id] = end
            self._next_end = min(self._next_end, end)
        return fingerprint

    def _leave(self, watcher: Watcher) -> None:
        watchers = self._of_user[watcher.user_id]
        watchers.remove(watcher)
        if not watchers:
            del self._of_user[watcher.user_id]
            self._ends.pop(watcher.user_id, None)
        if not self._of_user:
            self._some.clear()
