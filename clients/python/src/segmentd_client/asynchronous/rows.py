"""The body of an import, as a stream that can begin again if its source can."""

from collections.abc import AsyncIterable, AsyncIterator, Callable
from pathlib import Path
from typing import Final

from anyio import open_file

Rows = bytes | str | Path | AsyncIterable[bytes]
"""The content (str and bytes), the file that has it, or its pieces as they come."""

CHUNK: Final = 65_536


def repeats(rows: Rows) -> bool:
    """Whether they can be read a second time."""
    return isinstance(rows, (bytes, str, Path))


async def chunks(rows: Rows, sent: Callable[[int], None] | None) -> AsyncIterator[bytes]:
    """The rows in pieces. `sent` is called with the number of bytes of each piece before it is sent."""
    async for piece in _pieces(rows):
        if sent is not None:
            sent(len(piece))
        yield piece


async def _pieces(rows: Rows) -> AsyncIterator[bytes]:
    if isinstance(rows, Path):
        async with await open_file(rows, "rb") as file:
            while piece := await file.read(CHUNK):
                yield piece
    elif isinstance(rows, (bytes, str)):
        content = rows.encode() if isinstance(rows, str) else rows
        for begin in range(0, len(content), CHUNK):
            yield content[begin : begin + CHUNK]
    else:
        async for piece in rows:
            yield piece
