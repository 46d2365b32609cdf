"""Rows of CSV: the first line shows what separates values; quotes are undone; other lines stay."""

import csv
import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from segmentd.domain.imports import BadRow
from segmentd.imports.lines import LONGEST_LINE, BadFile, Run, shortened
from segmentd.imports.rows import COLUMNS, Block, Layout, count_rows, parsed_row

_SEPARATORS: Final = (";", "\t", ",")
_QUOTED: Final = re.compile('"(?:[^"]|"")*"?')
_NUMBER: Final = re.compile(r"[+-]?\d+(?:\.\d*)?")
# The columns of a file without a header: those of a report.
_OF_A_REPORT: Final = ("user_id", "segment", "operation", "time")


class _Record(NamedTuple):
    """A row: how many lines it takes, and its values or what is wrong with it."""

    lines: int
    values: Sequence[str]
    fault: str | None = None


class CsvRows:
    """Reads CSV (RFC 4180) with the separator `;`, a tab or `,`, with a header or without."""

    layout: Layout | None = None

    def __init__(self) -> None:
        # The lines of a row whose quote was still open when the run ended, and the number of the first.
        self._open = Run(1, "")

    def take(self, run: Run) -> Iterator[Block | BadRow]:
        """What the lines contain. Raises BadFile."""
        if self._open.text:
            run = Run(self._open.first_line, f"{self._open.text}\n{run.text}")
            self._open = Run(1, "")
        if self.layout is None or '"' in run.text:
            yield from self._read(run, at_end=False)
        else:
            yield Block(run.first_line, run.text, count_rows(run.text), parsed=False)

    def end(self) -> Iterator[Block | BadRow]:
        """The row whose quote is still open, if there is one. Raises BadFile."""
        if self._open.text:
            yield from self._read(self._open, at_end=True)

    def _read(self, run: Run, *, at_end: bool) -> Iterator[Block | BadRow]:
        lines = run.text.split("\n")
        content: list[str] = []
        while len(content) < len(lines):
            begin = len(content)
            if not lines[begin]:
                content.append("")
                continue
            separator = _separator(lines[begin]) if self.layout is None else self.layout.separator
            record = _record(lines, begin, separator, at_end=at_end)
            if record is None:
                self._open = Run(run.first_line + begin, "\n".join(lines[begin:]))
                break
            text = shortened("\n".join(lines[begin : begin + record.lines]))
            staged = ""
            try:
                staged = self._staged(record, separator, text)
            except ValueError as fault:
                if self.layout is None:
                    raise BadFile(run.first_line + begin, str(fault), text) from None
                yield BadRow(run.first_line + begin, str(fault), text)
            # Empty lines have the places of the lines that the row takes.
            content += [staged, *[""] * (record.lines - 1)]
        yield Block(run.first_line, "\n".join(content), sum(map(bool, content)), parsed=True)

    def _staged(self, record: _Record, separator: str, text: str) -> str:
        """The row as one line; empty for the header. Raises ValueError, with what is wrong."""
        if record.fault is not None:
            raise ValueError(record.fault)
        if self.layout is None:
            is_header = not _NUMBER.fullmatch(record.values[0].strip())
            self.layout = (_of_header if is_header else _of_report)(record.values, separator)
            if is_header:
                return ""
        if len(record.values) != self.layout.width:
            raise ValueError(f"has {len(record.values)} columns, and the first line has {self.layout.width}")
        places = self.layout.places
        return parsed_row(
            [record.values[places[name] - 1] if name in places else "" for name in COLUMNS], text
        )


def _separator(line: str) -> str:
    """What separates the values of the first line; empty if it is one value."""
    plain = _QUOTED.sub("", line)
    most = max(map(plain.count, _SEPARATORS))
    return next(each for each in _SEPARATORS if plain.count(each) == most) if most else ""


def _of_header(names: Sequence[str], separator: str) -> Layout:
    """Raises ValueError for a header that does not say where the users are, or says a thing twice."""
    known = [name.strip().lower() for name in names]
    places = {name: known.index(name) + 1 for name in COLUMNS if name in known}
    for place, name in enumerate(known, 1):
        if places.get(name, place) != place:
            raise ValueError(f"column {place} ({name}): the header names it twice")
    if "user_id" not in places:
        raise ValueError(
            "column 1: the first line is neither a row, which begins with the id of a user, nor a header with"
            " the column user_id"
        )
    return Layout(separator, len(names), places)


def _of_report(values: Sequence[str], separator: str) -> Layout:
    """Raises ValueError for more columns than a report has."""
    if len(values) > len(_OF_A_REPORT):
        raise ValueError(
            f"column {len(_OF_A_REPORT) + 1}: a file without a header has at most the columns of a report,"
            f" {', '.join(_OF_A_REPORT)}; name the columns in a first line"
        )
    named = enumerate(_OF_A_REPORT[: len(values)], 1)
    return Layout(separator, len(values), {name: place for place, name in named if name in COLUMNS})


def _record(lines: Sequence[str], begin: int, separator: str, *, at_end: bool) -> _Record | None:
    """The row that begins in this line; None: it goes on beyond the last line."""
    line = lines[begin]
    if '"' not in line:
        return _Record(1, line.split(separator) if separator else [line])
    given: list[str] = []

    def give() -> Iterator[str]:
        size = 0
        for following in lines[begin:]:
            size += len(following)
            if given and size > LONGEST_LINE:
                return
            given.append(following)
            yield f"{following}\n"

    try:
        values = next(csv.reader(give(), delimiter=separator or _SEPARATORS[0], strict=True))
    except csv.Error:
        column, is_open = _broken_quote("\n".join(given), separator or _SEPARATORS[0])
        if is_open and len(given) == len(lines) - begin and not at_end:
            return None
        what = "the quote is not closed" if is_open else "there is more behind the closing quote"
        return _Record(1, (), f"column {column}: {what}")
    return _Record(len(given), values)


def _broken_quote(text: str, separator: str) -> tuple[int, bool]:
    """In which column a quote is broken, and whether it is still open at the end of the text."""
    column, place = 1, 0
    while True:
        if text.startswith('"', place):
            place = text.find('"', place + 1)
            while place >= 0 and text.startswith('""', place):
                place = text.find('"', place + 2)
            if place < 0:
                return column, True
            if not text.startswith(separator, place + 1):
                return column, False
        following = text.find(separator, place)
        if following < 0:
            return column, False
        column, place = column + 1, following + 1
