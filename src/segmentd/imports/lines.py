"""From bytes to whole lines of text, in constant memory: codings, line ends, lines that are no text."""

import zlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

from segmentd.domain.imports import LONGEST_TEXT, BadRow

RUN_BYTES: Final = 2**15
"""Lines are handled in runs of about so many bytes: a millisecond or two of one processor."""

LONGEST_LINE: Final = 2**16
"""Bytes of one line, and characters of one row of several lines; a longer one is a bad row."""

# Real lists shrink to a tenth; only repetition goes beyond this.
MOST_EXPANSION: Final = 200
_ALWAYS_EXPANDED: Final = 2**20
_GZIP: Final = 16 + zlib.MAX_WBITS


class BadFile(Exception):
    """Nothing after this line can be read, so the import fails."""

    def __init__(self, line: int, detail: str, text: str = "") -> None:
        super().__init__(detail)
        self.row = BadRow(line, detail, shortened(text))


class Run(NamedTuple):
    """Some whole lines, separated by line feeds, and the number of the first."""

    first_line: int
    text: str


class Decoder(Protocol):
    """Undoes a content coding."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decoded bytes, in pieces. Raises ValueError, with what is wrong."""

    def end(self) -> None:
        """Raises ValueError if more bytes should have come."""


class Identity:
    """No coding."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bytes, in pieces."""
        for begin in range(0, len(data), RUN_BYTES):
            yield data[begin : begin + RUN_BYTES]

    def end(self) -> None:
        """Any end is an end."""


class Gunzip:
    """Undoes gzip, of several members too, in pieces: a small body cannot become a large one in memory."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._between = True
        self._taken = 0
        self._given = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decoded bytes, in pieces. Raises ValueError for damage, and for a bomb."""
        self._taken += len(data)
        while data:
            self._between = False
            try:
                piece = self._member.decompress(data, RUN_BYTES)
            except zlib.error:
                raise ValueError("the gzip data is damaged") from None
            self._given += len(piece)
            if self._given > max(_ALWAYS_EXPANDED, MOST_EXPANSION * self._taken):
                raise ValueError(f"the gzip data expands to more than {MOST_EXPANSION} times its size")
            yield piece
            data = self._member.unconsumed_tail
            if self._member.eof:
                data = self._member.unused_data
                self._member = zlib.decompressobj(_GZIP)
                self._between = True

    def end(self) -> None:
        """Raises ValueError where the last member is not complete."""
        if not self._between or not self._taken:
            raise ValueError("the gzip data ends before its end")


class Lines:
    """Cuts bytes into runs of whole lines; a line that is no text becomes an empty one and a bad row."""

    def __init__(self) -> None:
        self._line = 1  # the first one that is not in a run yet
        self._kept = bytearray()
        self._skipping = False
        self._begun = False

    @property
    def line(self) -> int:
        """The number of the line that is coming."""
        return self._line + self._kept.count(b"\n")

    def feed(self, piece: bytes) -> Iterator[Run | BadRow]:
        """What is complete by now. Raises BadFile."""
        self._kept += piece
        if len(self._kept) >= RUN_BYTES:
            yield from self._cut(self._kept.rfind(b"\n") + 1)

    def end(self) -> Iterator[Run | BadRow]:
        """The rest, whose last line may have no line feed. Raises BadFile."""
        if (self._kept or self._skipping) and not self._kept.endswith(b"\n"):
            self._kept += b"\n"
        yield from self._cut(len(self._kept))

    def _cut(self, end: int) -> Iterator[Run | BadRow]:
        self._check_beginning()
        if self._skipping:
            # The line feed stays, so that an empty line keeps the place of the skipped one.
            end -= self._skip()
        if end > 0:
            whole = bytes(self._kept[:end])
            del self._kept[:end]
            yield from self._run(whole)
        if len(self._kept) > LONGEST_LINE:
            yield self._too_long(self._line, bytes(self._kept[:LONGEST_LINE]))
            self._kept.clear()
            self._skipping = True

    def _skip(self) -> int:
        """Drops the rest of a line that is too long, as far as it has come; returns its bytes."""
        feed = self._kept.find(b"\n")
        self._skipping = feed < 0
        skipped = len(self._kept) if self._skipping else feed
        del self._kept[:skipped]
        return skipped

    def _check_beginning(self) -> None:
        if self._begun:
            return
        self._begun = True
        if self._kept.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            raise BadFile(1, "byte 1: the file is UTF-16; save it as UTF-8")
        if self._kept.startswith(BOM_UTF8):
            del self._kept[: len(BOM_UTF8)]

    def _run(self, whole: bytes) -> Iterator[Run | BadRow]:
        first, self._line = self._line, self._line + whole.count(b"\n")
        long_lines = [*_long_lines(whole)]
        for begin, end in long_lines:
            yield self._too_long(first + whole.count(b"\n", 0, begin), whole[begin:end])
        for begin, end in reversed(long_lines):
            whole = whole[:begin] + whole[end:]
        whole = whole.removesuffix(b"\n").replace(b"\r\n", b"\n").removesuffix(b"\r")
        try:
            text = whole.decode()
        except UnicodeDecodeError:
            text = None
        if text is None or "\0" in text:
            yield from self._mended(first, whole)
        else:
            yield Run(first, text)

    def _mended(self, first: int, whole: bytes) -> Iterator[Run | BadRow]:
        """Line by line, because some of them are no text."""
        lines: list[str] = []
        for number, line in enumerate(whole.split(b"\n"), first):
            lines.append("")
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                detail = f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8"
                yield BadRow(number, detail, _shown(line))
                continue
            if (nul := text.find("\0")) >= 0:
                yield BadRow(number, f"character {nul + 1} of the line is NUL", shortened(text))
            else:
                lines[-1] = text
        yield Run(first, "\n".join(lines))

    @staticmethod
    def _too_long(line: int, begun: bytes) -> BadRow:
        return BadRow(line, f"the line has more than {LONGEST_LINE} bytes", _shown(begun))


def _long_lines(whole: bytes) -> Iterator[tuple[int, int]]:
    """Where lines begin and end that are too long; a look at a few places suffices."""
    begin = 0
    while len(whole) - begin > LONGEST_LINE:
        feed = whole.rfind(b"\n", begin, begin + LONGEST_LINE + 1)
        if feed < 0:
            feed = whole.find(b"\n", begin)
            yield begin, feed
        begin = feed + 1


def shortened(text: str) -> str:
    """The beginning of a text, as it is shown of a bad row; without NUL, which PostgreSQL has not."""
    return text[:LONGEST_TEXT].replace("\0", "\N{REPLACEMENT CHARACTER}")


def _shown(line: bytes) -> str:
    return shortened(line[: 4 * LONGEST_TEXT].decode(errors="replace"))
