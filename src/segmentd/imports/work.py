"""Works on an import whose rows are all here: checks them as a set, then changes the users in batches."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final

import structlog

from segmentd.background import background, end
from segmentd.domain.errors import Unavailable
from segmentd.domain.imports import ImportLimits, ImportNumber, Status
from segmentd.observability.metrics import Metrics
from segmentd.storage import import_work, imports
from segmentd.storage.database import Database

Pace = Callable[[], Awaitable[None]]
"""Returns when the replica of this node has kept up with the changes so far."""

Turn = Callable[[], AbstractAsyncContextManager[None]]
"""Within it a batch may be applied."""

# The work gives way to other imports after so long.
TURN_S: Final = 10.0

# A batch holds the shared catalog lock, for which a change of a segment waits.
BATCH_S: Final = 0.02
LEAST_ROWS: Final = 200
MOST_ROWS: Final = 2_000

# How often a check looks whether the import was canceled.
ASK_EVERY_S: Final = 1.0

_log = structlog.get_logger(__name__)


async def at_once() -> None:
    """The pace where there is no replica to wait for."""


class ImportWork:
    """What the background job of imports does."""

    def __init__(
        self,
        database: Database,
        metrics: Metrics | None = None,
        pace: Pace = at_once,
        turn: Turn = nullcontext,
        limits: ImportLimits | None = None,
        turn_s: float = TURN_S,
    ) -> None:
        self._database = database
        self._metrics = metrics or Metrics()
        self._pace = pace
        self._turn = turn
        self._limits = limits or ImportLimits()
        self._turn_s = turn_s

    async def advance(self, number: ImportNumber) -> bool:
        """Works on an import for a while; returns whether it is final. Raises Unavailable."""
        status = await import_work.status(self._database, number)
        if status is Status.CHECKING:
            status = await self._check(number)
        if status is Status.APPLYING:
            status = await self._apply(number)
        if not status.final:
            return False
        await import_work.drop_tables(self._database, number)
        return True

    async def fail(self, number: ImportNumber, detail: str) -> None:
        """Ends an import that cannot go on. Raises Unavailable."""
        await imports.fail(self._database, number, detail)
        self._metrics.import_ended(Status.FAILED)

    async def _check(self, number: ImportNumber) -> Status:
        begun = time.monotonic()
        checking = asyncio.create_task(
            import_work.check(self._database, number, self._limits.most_bad_rows), name="check an import"
        )
        async with background(self._cancel_with(number, checking), "look whether an import was canceled"):
            await asyncio.wait([checking])
        if not checking.cancelled():
            await checking
        status = await import_work.status(self._database, number)
        _log.info("import checked", number=number, status=status, seconds=round(time.monotonic() - begun, 1))
        if status is Status.FAILED:
            self._metrics.import_ended(status)
        return status

    async def _cancel_with(self, number: ImportNumber, checking: asyncio.Task[None]) -> None:
        """Ends the statement of a check whose import was canceled."""
        while True:
            await asyncio.sleep(ASK_EVERY_S)
            try:
                canceled = (await import_work.status(self._database, number)).final
            except Unavailable:
                continue
            if canceled and not checking.done():
                checking.cancel()

    async def _apply(self, number: ImportNumber) -> Status:
        give_way = time.monotonic() + self._turn_s
        places = await import_work.unfinished_ranges(self._database, number)
        ranges = [
            asyncio.create_task(self._apply_range(number, place, give_way), name=f"apply range {place}")
            for place in places
        ]
        try:
            statuses = await asyncio.gather(*ranges)
        finally:
            await end(*ranges)
        # Without a range, a worker died before it could end the import.
        status = next(
            (each for each in statuses if each.final),
            Status.APPLYING if ranges else await import_work.end_if_over(self._database, number),
        )
        if status.final:
            _log.info("import ended", number=number, status=status)
            self._metrics.import_ended(status)
        return status

    async def _apply_range(self, number: ImportNumber, place: int, give_way: float) -> Status:
        rows = LEAST_ROWS
        while True:
            waited = time.monotonic()
            await self._pace()
            async with self._turn():
                begun = time.monotonic()
                batch = await import_work.apply_batch(self._database, number, place, rows)
                took = time.monotonic() - begun
            self._metrics.import_paused(begun - waited)
            self._metrics.import_batch(batch.users)
            if batch.is_over or time.monotonic() > give_way:
                return batch.status
            rows = next_rows(rows, took)


def next_rows(rows: int, took_s: float) -> int:
    """How many rows the next batch has, so that it takes about BATCH_S."""
    wanted = rows * BATCH_S / max(took_s, BATCH_S / 4)
    return round(min(max(wanted, LEAST_ROWS), MOST_ROWS))
