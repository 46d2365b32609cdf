"""The use cases of imports: to bring a list, to look at one, to stop one."""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from segmentd.domain.access import Actor
from segmentd.domain.errors import TooManyImports
from segmentd.domain.imports import (
    IMPORT_KEYS,
    BadRow,
    IdempotencyKey,
    Import,
    ImportId,
    ImportLimits,
    ImportOrder,
)
from segmentd.domain.pages import Limit, Listing, Page
from segmentd.imports.receive import Upload, check_same_body, receive
from segmentd.observability.metrics import Metrics
from segmentd.storage import import_rows, imports
from segmentd.storage.database import Database
from segmentd.waiting import Waiting

# Of one process: each takes some megabytes of memory.
MOST_RECEIVED_AT_ONCE: Final = 8
_BAD_ROWS_AT_ONCE: Final = 1000


class ImportDesk:
    """Takes imports and shows them. Background jobs check and apply them (imports/work.py)."""

    def __init__(
        self,
        database: Database,
        enqueue: import_rows.Enqueue,
        metrics: Metrics,
        limits: ImportLimits,
        longest_wait_s: float,
    ) -> None:
        self._database = database
        self._enqueue = enqueue
        self._limits = limits
        self._longest_wait_s = longest_wait_s
        self._metrics = metrics
        self._received_at_once = 0
        self._waiting: Waiting[ImportId, Import] = Waiting(
            "imports", partial(imports.final, database), metrics.import_waiters
        )

    @property
    def store_bytes(self) -> int:
        """The limit for what all imports store; 0 is no limit."""
        return self._limits.store_bytes

    def end_waiting(self) -> None:
        """Before a stop: from now on no request waits for an import."""
        self._waiting.end()

    async def bring(
        self,
        order: ImportOrder,
        upload: Upload,
        actor: Actor,
        key: IdempotencyKey | None = None,
        wait_s: float = 0,
    ) -> Import:
        """Receives a list and lets it be applied; with a key that names an import, returns that one.

        Waits up to so many seconds until the import is final. A file that cannot be read gives an import that
        has failed. Raises Invalid, SegmentNotFound, SegmentHasPercentage, IdempotencyKeyReused,
        IdempotencyKeyInUse, TooManyImports, ImportStoreFull, BodyBrokeOff, Unavailable.
        """
        if self._received_at_once >= MOST_RECEIVED_AT_ONCE:
            raise TooManyImports(f"This process receives {MOST_RECEIVED_AT_ONCE} imports; try again shortly.")
        self._received_at_once += 1
        self._metrics.imports_received.set(self._received_at_once)
        try:
            begun, is_new = await imports.begin(
                self._database, order, actor, key, self._limits, upload.announced_bytes
            )
            if is_new:
                await self._receive(begun, order, upload, actor)
            else:
                await check_same_body(upload, begun.sha256 or "")
        finally:
            self._received_at_once -= 1
            self._metrics.imports_received.set(self._received_at_once)
        seconds = min(wait_s, self._longest_wait_s)
        found = await self._waiting.wait(begun.id, seconds) if seconds > 0 else None
        return found or await self.get(begun.id)

    async def _receive(self, begun: Import, order: ImportOrder, upload: Upload, actor: Actor) -> None:
        figures = await receive(self._database, begun, order.format, upload, self._limits)
        if figures is not None:
            with suppress(import_rows.Ended):  # canceled in this very moment
                await import_rows.received(self._database, begun.number, actor, figures, self._enqueue)

    async def get(self, import_id: ImportId) -> Import:
        """One import. Raises ImportNotFound."""
        return await imports.get(self._database, import_id)

    async def list(self, limit: Limit, cursor: str | None) -> Page[Import]:
        """A page of imports, the newest first; one with many bad rows may be shorter. Raises Invalid."""
        listing = Listing("imports", IMPORT_KEYS)
        found = await imports.list_before(self._database, listing.key_in(cursor), limit)
        return Page(found.items, listing.cursor_after(found.items[-1].number) if found.is_cut else None)

    async def cancel(self, import_id: ImportId, actor: Actor) -> Import:
        """Stops an import; what was applied stays. Raises ImportNotFound, ImportFinished."""
        return await imports.cancel(self._database, import_id, actor)

    async def bad_rows(self, import_id: ImportId) -> AsyncIterator[Sequence[BadRow]]:
        """All bad rows of an import, in the order of their lines, some at a time. Raises ImportNotFound."""
        number, line = (await imports.get(self._database, import_id)).number, 0
        while rows := await imports.bad_rows_after(self._database, number, line, _BAD_ROWS_AT_ONCE):
            yield rows
            line = rows[-1].line
