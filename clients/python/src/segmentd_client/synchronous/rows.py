"""The body of an import, as a stream that can begin again if its source can."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

Rows = bytes | str | Path | Iterable[bytes]
"""The content (str and bytes), the file that has it, or its pieces as they come."""

CHUNK: Final = 65_536


def repeats(rows: Rows) -> bool:
    """Whether they can be read a second time."""
    return isinstance(rows, (bytes, str, Path))


def chunks(rows: Rows, sent: Callable[[int], None] | None) -> Iterator[bytes]:
    """The rows in pieces. `sent` is called with the number of bytes of each piece before it is sent."""
    for piece in _pieces(rows):
        if sent is not None:
            sent(len(piece))
        yield piece


def _pieces(rows: Rows) -> Iterator[bytes]:
    if isinstance(rows, Path):
        with rows.open("rb") as file:
            while piece := file.read(CHUNK):
                yield piece
    elif isinstance(rows, (bytes, str)):
        content = rows.encode() if isinstance(rows, str) else rows
        for begin in range(0, len(content), CHUNK):
            yield content[begin : begin + CHUNK]
    else:
        for piece in rows:
            yield piece
