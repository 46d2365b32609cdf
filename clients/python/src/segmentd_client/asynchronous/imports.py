"""Imports: `client.imports`."""

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from uuid import uuid4

import msgspec
from anyio import sleep

from segmentd_client.asynchronous.rows import Rows, chunks, repeats
from segmentd_client.asynchronous.transport import AsyncTransport
from segmentd_client.calls import jobs as calls
from segmentd_client.calls.jobs import FileFormat, ImportOperation
from segmentd_client.core import query
from segmentd_client.errors import JobFailed
from segmentd_client.jobs import BadRow, Import, ImportPage
from segmentd_client.lines import Lines


class AsyncImports:
    """Changes any number of users by a list, in the background."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(  # noqa: PLR0913 - each is a parameter of the call
        self,
        rows: Rows,
        *,
        format: FileFormat = "csv",  # noqa: A002 - the parameter's name
        segment: str | None = None,
        operation: ImportOperation = "add",
        until: datetime | None = None,
        ttl_seconds: int | None = None,
        reason: str | None = None,
        dry_run: bool = False,
        skip_invalid: bool = False,
        idempotency_key: str | None = None,
        is_gzipped: bool = False,
        wait_s: int = 0,
        sent: Callable[[int], None] | None = None,
    ) -> Import:
        """Sends the rows and begins the import; the answer comes when all are received.

        The key is random unless given. A list from memory or from a file is sent again under its key if the
        connection breaks; pieces as they come are not. With `wait_s` (60 at most) the answer waits for the
        end.
        `sent` is called with the number of bytes of each piece.
        Raises SegmentNotFound, SegmentHasPercentage, IdempotencyKeyReused, TooManyImports, ImportStoreFull.
        """
        asked = query(
            segment=segment,
            operation=operation,
            until=until,
            ttl_seconds=ttl_seconds,
            reason=reason,
            dry_run=dry_run or None,
            skip_invalid=skip_invalid or None,
        )
        key = uuid4().hex if idempotency_key is None else idempotency_key
        call = calls.create_import(asked, format, key, is_gzipped=is_gzipped, wait_s=wait_s)
        if not repeats(rows):
            return await self._transport.send_once(call, lambda: chunks(rows, sent))
        return await self._transport.send(call, lambda: chunks(rows, sent))

    async def get(self, import_id: str) -> Import:
        """One import with its progress. Raises ImportNotFound."""
        return await self._transport.send(calls.get_import(import_id))

    async def wait(self, import_id: str, *, every_s: float = 1) -> Import:
        """Waits for the end, asking every so many seconds; the import that is done or canceled.

        Raises JobFailed if it failed, and ImportNotFound.
        """
        found = await self.get(import_id)
        while not found.is_final:
            await sleep(every_s)
            found = await self.get(import_id)
        if found.status == "failed":
            raise JobFailed(f"the import {import_id} failed: {found.detail}")
        return found

    async def list(self, *, limit: int | None = None) -> AsyncIterator[Import]:
        """All imports, the newest first."""
        cursor = None
        while True:
            page = await self.page(limit=limit, cursor=cursor)
            for each in page.imports:
                yield each
            if (cursor := page.next_cursor) is None:
                return

    async def page(self, *, limit: int | None = None, cursor: str | None = None) -> ImportPage:
        """One page of them."""
        return await self._transport.send(calls.import_page(limit, cursor))

    async def errors(self, import_id: str) -> AsyncIterator[BadRow]:
        """Every bad row, as a stream. Raises ImportNotFound."""
        lines = Lines()
        decoder = msgspec.json.Decoder(BadRow)
        async with self._transport.stream(calls.import_errors(import_id)) as pieces:
            async for piece in pieces:
                for line in lines.of(piece):
                    yield decoder.decode(line)

    async def cancel(self, import_id: str) -> Import:
        """Stops it after the batch in hand; what was applied stays. Raises ImportFinished, ImportNotFound."""
        return await self._transport.send(calls.cancel_import(import_id))
