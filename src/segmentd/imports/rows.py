"""Rows of a file, as they are staged: where each value stands, and rows that cannot be read."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from segmentd.domain.imports import BadRow
from segmentd.imports.lines import Run

COLUMNS: Final[Sequence[str]] = ("user_id", "segment", "operation", "until", "ttl_seconds")
"""The names that mean something in a header or in an object; others are ignored."""

SEPARATOR: Final = "\x1f"
"""Between the values of a parsed row: no value that means something contains it."""


class Layout(NamedTuple):
    """How the values of a plain line are separated, and the place of each one that means something."""

    separator: str
    """Empty: a line is one value."""
    width: int
    places: Mapping[str, int]
    """From 1 on."""


OBJECTS: Final = Layout("", 0, {})
"""Of a file of objects: it has no plain lines."""


class Block(NamedTuple):
    """A run of lines as it is staged. An empty line is no row.

    A plain block has the lines as they came. In a parsed one each row has the values of COLUMNS and then the
    text that they came from, with SEPARATOR between them; rows of several lines are followed by empty ones.
    """

    first_line: int
    content: str
    rows: int
    parsed: bool


class Reader(Protocol):
    """Reads the rows of one format."""

    layout: Layout | None
    """None until there is a row."""

    def take(self, run: Run) -> Iterator[Block | BadRow]:
        """What the lines contain. Raises BadFile."""

    def end(self) -> Iterator[Block | BadRow]:
        """What was incomplete until now. Raises BadFile."""


def parsed_row(values: Sequence[str], text: str) -> str:
    """One line of a parsed block."""
    return SEPARATOR.join([*map(_on_one_line, values), _on_one_line(text)])


def _on_one_line(value: str) -> str:
    """Without what separates lines and values; a value that contains it is no good anyway."""
    return value.replace("\n", "\N{RETURN SYMBOL}").replace(SEPARATOR, "\N{REPLACEMENT CHARACTER}")


def count_rows(text: str) -> int:
    """How many lines are not empty."""
    if "\n\n" in text or text.startswith("\n") or text.endswith("\n") or not text:
        return sum(map(bool, text.split("\n")))
    return text.count("\n") + 1
