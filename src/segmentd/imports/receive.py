"""Receives the rows of an import: they are decoded, cut into lines and staged in constant memory."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from typing import Final, NamedTuple

import structlog

from segmentd.background import background
from segmentd.domain.errors import IdempotencyKeyReused, ImportStoreFull, SegmentdError, Unavailable
from segmentd.domain.imports import BadRow, FileFormat, Import, ImportLimits, ImportNumber
from segmentd.imports.csv_rows import CsvRows
from segmentd.imports.json_rows import JsonRows
from segmentd.imports.lines import BadFile, Decoder, Gunzip, Identity, Lines, Run
from segmentd.imports.rows import Block, Layout, Reader
from segmentd.storage import import_rows, imports
from segmentd.storage.database import Database
from segmentd.storage.import_rows import Ended, FileFigures, Piece, StagedBlock

PIECE_BYTES: Final = 2**20
"""About so many bytes are staged in one transaction; the memory of an import is a few times as much."""

MEASURED_BYTES: Final = 2**24
"""How often the room for the rows of all imports is looked at: after so many bytes of each."""

BEAT_S: Final = 10.0
"""How often the process shows that it is alive. One that is silent for six times as long counts as dead."""

# Of a stop of the process: its database connections are about to be closed.
_LAST_WORD_S: Final = 0.3

_log = structlog.get_logger(__name__)


class BodyBrokeOff(Exception):
    """The client has gone, or was cut off, before the body was complete."""


class Upload(NamedTuple):
    """A body on its way: its bytes, whether gzip has to be undone, and how many bytes are announced.

    The iterator raises BodyBrokeOff.
    """

    body: AsyncIterator[bytes]
    gzipped: bool = False
    announced_bytes: int = 0

    def decoder(self) -> Decoder:
        """Undoes the coding of the body."""
        return Gunzip() if self.gzipped else Identity()


async def receive(
    database: Database, begun: Import, file_format: FileFormat, upload: Upload, limits: ImportLimits
) -> FileFigures | None:
    """Stages all rows. None: the import has ended, because the file is no good or a caller canceled it.

    Raises Unavailable; then the import ends later, like one whose process died.
    """
    receiving = _Receiving(database, begun.number, file_format, upload, limits)
    try:
        async with background(_beat(database, begun.number), "show that an import is being received"):
            return await receiving.receive()
    except Ended:
        return None
    except BadFile as error:
        row = error.row
        await imports.fail(database, begun.number, f"Line {row.line}: {row.detail}.", row)
    except ImportStoreFull as error:
        await imports.fail(database, begun.number, error.detail, receiving.here(error.detail))
    except BodyBrokeOff:
        detail = "the body ends here, before its end"
        await imports.fail(database, begun.number, "The body broke off.", receiving.here(detail))
    except asyncio.CancelledError:
        with suppress(TimeoutError, SegmentdError):
            async with asyncio.timeout(_LAST_WORD_S):
                await imports.fail(
                    database, begun.number, "The service stopped before it had the whole body."
                )
        raise
    return None


async def check_same_body(upload: Upload, expected: str) -> None:
    """Reads a body to its end.

    Raises IdempotencyKeyReused if it is not the one with this hash, BodyBrokeOff.
    """
    decoder, digest = upload.decoder(), sha256()
    try:
        async for data in upload.body:
            for piece in decoder.feed(data):
                digest.update(piece)
                await asyncio.sleep(0)
        decoder.end()
    except ValueError:  # the first body was no damaged one
        raise IdempotencyKeyReused from None
    if digest.hexdigest() != expected:
        raise IdempotencyKeyReused


async def _beat(database: Database, number: ImportNumber) -> None:
    while True:
        await asyncio.sleep(BEAT_S)
        try:
            await import_rows.beat(database, number)
        except Unavailable:
            _log.info("cannot show that an import is being received, the database is away")


class _Receiving:
    """One import on its way."""

    def __init__(
        self,
        database: Database,
        number: ImportNumber,
        file_format: FileFormat,
        upload: Upload,
        limits: ImportLimits,
    ) -> None:
        self._database = database
        self._number = number
        self._upload = upload
        self._limits = limits
        self._decoder = upload.decoder()
        self._lines = Lines()
        self._reader: Reader = CsvRows() if file_format is FileFormat.CSV else JsonRows()
        self._digest = sha256()
        self._blocks: list[Block] = []
        self._bad_rows: list[BadRow] = []
        self._bytes = 0
        # How many bytes may come until the room for all imports is looked at again.
        self._unmeasured = 0
        # Of the whole file, until now.
        self._rows = self._bad = 0

    def here(self, detail: str) -> BadRow:
        """Something that is wrong at the present place of the file."""
        return BadRow(self._lines.line, detail, "")

    async def receive(self) -> FileFigures:
        """Stages everything. Raises BadFile, BodyBrokeOff, Ended, ImportStoreFull, Unavailable."""
        async for data in self._upload.body:
            pieces = self._decoder.feed(data)
            while (piece := self._next(pieces)) is not None:
                self._digest.update(piece)
                self._bytes += len(piece)
                self._keep(self._lines.feed(piece))
                if self._bytes >= PIECE_BYTES:
                    await self._stage()
                else:  # other requests of the process are answered between two pieces
                    await asyncio.sleep(0)
        try:
            self._decoder.end()
        except ValueError as error:
            raise BadFile(self._lines.line, str(error)) from None
        self._keep(self._lines.end())
        self._keep_rows(self._reader.end())
        await self._stage()
        layout = self._reader.layout or Layout("", 0, {})
        return FileFigures(layout.separator, layout.width, layout.places, self._digest.hexdigest())

    def _next(self, pieces: Iterator[bytes]) -> bytes | None:
        try:
            return next(pieces, None)
        except ValueError as error:
            raise BadFile(self._lines.line, str(error)) from None

    def _keep(self, items: Iterable[Run | BadRow]) -> None:
        for item in items:
            if isinstance(item, BadRow):
                self._keep_rows([item])
            else:
                self._keep_rows(self._reader.take(item))

    def _keep_rows(self, items: Iterable[Block | BadRow]) -> None:
        for item in items:
            if isinstance(item, BadRow):
                self._rows, self._bad = self._rows + 1, self._bad + 1
                self._bad_rows.append(item)
                line = item.line
            else:
                self._rows += item.rows
                self._blocks += [item] if item.rows else []
                line = item.first_line
            if self._rows > self._limits.most_rows:
                raise BadFile(line, f"the file has more than {self._limits.most_rows} rows")
            if self._bad > self._limits.most_bad_rows:
                raise BadFile(
                    line, f"more than {self._limits.most_bad_rows} rows are bad; is this the right file?"
                )

    async def _stage(self) -> None:
        blocks = [StagedBlock(block.first_line, block.parsed, block.content) for block in self._blocks]
        rows = sum(block.rows for block in self._blocks) + len(self._bad_rows)
        piece = Piece(blocks, self._bad_rows, self._bytes, rows)
        self._blocks, self._bad_rows, self._bytes = [], [], 0
        self._unmeasured -= piece.bytes
        looks = self._unmeasured < 0 and self._limits.store_bytes > 0
        await import_rows.stage(
            self._database, self._number, piece, self._limits.store_bytes if looks else None
        )
        if looks:
            self._unmeasured = MEASURED_BYTES
