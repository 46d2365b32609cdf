"""The keys that sign links, known without a question to the database each time."""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from segmentd.domain.errors import Unavailable
from segmentd.observability.throttled import ThrottledLog
from segmentd.storage import reports
from segmentd.storage.database import Database

LOOK_EVERY_S: Final = 5.0

_log = structlog.get_logger(__name__)


class SigningKeys:
    """The keys under which links are valid, of the settings or of the database; the first one signs."""

    def __init__(self, database: Database, given: Sequence[bytes] = ()) -> None:
        self._database = database
        self._given = given
        self._throttled = ThrottledLog(_log)
        self.known: Sequence[bytes] = given
        """The latest that were seen; none before the first look."""

    async def look(self) -> Sequence[bytes]:
        """The present keys. Raises Unavailable."""
        if not self._given:
            self.known = await reports.signing_keys(self._database)
        return self.known

    async def watch(self) -> None:
        """Looks again and again, until it is cancelled."""
        while True:
            try:
                await self.look()
            except Unavailable as error:
                self._throttled.warning("cannot look for changes of the signing keys", error=error.detail)
            await asyncio.sleep(LOOK_EVERY_S)
