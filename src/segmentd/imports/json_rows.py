"""Rows of NDJSON: one object a line."""

import json
import re
from collections.abc import Iterator
from typing import Final

import msgspec

from segmentd.domain.identifiers import SlugValue, UserIdText, UserIdValue
from segmentd.domain.imports import BadRow
from segmentd.domain.memberships import TtlValue
from segmentd.domain.wording import fault_of
from segmentd.imports.lines import Run, shortened
from segmentd.imports.rows import COLUMNS, OBJECTS, Block, Layout, parsed_row

_PLACE: Final = re.compile(r"\(byte (\d+)\)")
_KEYS: Final = [f'"{name}"' for name in COLUMNS]


class _Row(msgspec.Struct, gc=False):
    user_id: UserIdValue | UserIdText
    segment: SlugValue | None = None
    operation: str | None = None
    until: str | None = None
    ttl_seconds: TtlValue | None = None


_DECODER: Final = msgspec.json.Decoder(_Row)


class JsonRows:
    """Reads objects with the names of COLUMNS; other names are ignored, as in CSV."""

    layout: Layout | None = OBJECTS

    def take(self, run: Run) -> Iterator[Block | BadRow]:
        """What the lines contain."""
        lines = run.text.split("\n")
        content: list[str] = []
        for number, line in enumerate(lines, run.first_line):
            content.append("")
            if not line.strip():
                continue
            try:
                row = _DECODER.decode(line)
                # msgspec does not notice a name that stands twice, and names may be written with escapes.
                if "\\" in line or any(line.count(key) > 1 for key in _KEYS):
                    _check_names(line)
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                yield BadRow(number, _wording(error), shortened(line))
            else:
                content[-1] = _staged(row, line)
        yield Block(run.first_line, "\n".join(content), sum(map(bool, content)), parsed=True)

    def end(self) -> Iterator[Block | BadRow]:
        """Nothing: each line is complete."""
        yield from ()


def _staged(row: _Row, line: str) -> str:
    ttl = "" if row.ttl_seconds is None else str(row.ttl_seconds)
    values = (str(row.user_id), row.segment or "", row.operation or "", row.until or "", ttl)
    return parsed_row(values, shortened(line))


def _check_names(line: str) -> None:
    """Raises ValueError for an object in which a name stands twice."""

    def once(members: list[tuple[str, object]]) -> None:
        names = [name for name, _ in members]
        for name in COLUMNS:
            if names.count(name) > 1:
                raise ValueError(f"{name}: this key stands twice in one object")

    json.loads(line, object_pairs_hook=once)


def _wording(error: Exception) -> str:
    match error:
        case msgspec.ValidationError():
            fault = fault_of(str(error))
            return f"{fault.pointer[1:]}: {fault.detail}" if fault.pointer else fault.detail
        case msgspec.DecodeError():
            place = _PLACE.search(str(error))
            return "not well-formed JSON" + (f" at byte {place[1]}" if place else "")
        case RecursionError():
            return "not well-formed JSON: it is nested too deeply"
    return str(error)
