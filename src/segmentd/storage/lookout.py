"""Whether the database answers, known without waiting for it."""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
import psycopg

from segmentd.domain.errors import Unavailable
from segmentd.storage.database import Database
from segmentd.storage.sessions import reason_of

# Together they bound the age of the answer: less than three seconds.
LOOK_EVERY_S: Final = 0.75
LONGEST_LOOK_S: Final = 1.5
# If the database is up, a broken connection is replaced at once: one failure is not yet a reason.
_AGAIN_AFTER_S: Final = 0.2


class Lookout:
    """Checks again and again while `watch` runs; otherwise each time that `reason` is called."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watched = False
        self._reason: str | None = None

    async def reason(self) -> str | None:
        """Why the database does not answer; None where it does."""
        if not self._watched:
            await self._look()
        return self._reason

    async def watch(self, note: Callable[[str | None], None] = lambda _: None) -> None:
        """Checks until it is cancelled, and notes the reason each time; None at the end."""
        try:
            while True:
                await self._look()
                self._watched = True
                note(self._reason)
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            self._watched = False
            note(None)

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        give_up = begun + LONGEST_LOOK_S
        reason: str | None = None
        while (left := give_up - loop.time()) > 0:
            try:
                await self._database.one_within(
                    left, _Answer, "SELECT version AS catalog_version FROM catalog"
                )
            except psycopg.Error as error:  # it is there, without segmentd's tables
                self._reason = f"The database cannot be used: {reason_of(error)}"
                return
            except Unavailable as error:
                said = self._database.last_failure
                reason = error.detail if said is None else f"The database cannot be reached: {said}"
                await asyncio.sleep(_AGAIN_AFTER_S)
            else:
                reason = None
                break
        # If others got answers meanwhile, all connections are in use, and the database is up.
        answered = self._database.silent_seconds() < loop.time() - begun
        self._reason = None if answered else reason


class _Answer(msgspec.Struct, frozen=True):
    catalog_version: int
