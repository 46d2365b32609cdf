"""How data is shown: tables on a terminal, JSON otherwise, or as asked for."""

import csv
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
from rich.console import Console
from rich.table import Table

from segctl.connection import Form

Value = msgspec.Struct


def form_of(asked: Form | None) -> Form:
    """The form that was asked for, or the usual one."""
    return asked or ("table" if sys.stdout.isatty() else "json")


def show_all(items: Iterable[Value], columns: Sequence[str], asked: Form | None) -> None:
    """Writes many values, one after the other; a table only when all are there."""
    match form_of(asked):
        case "table":
            table = _table(*columns)
            for item in items:
                table.add_row(*(_cell(getattr(item, column)) for column in columns))
            _console().print(table)
        case "json":
            between = "["
            for item in items:
                _write(between + _json(item))
                between = ",\n"
            _write("[]\n" if between == "[" else "]\n")
        case "ndjson":
            for item in items:
                _write(_json(item) + "\n")
                sys.stdout.flush()
        case "csv":
            rows = csv.writer(sys.stdout, lineterminator="\n")
            rows.writerow(columns)
            for item in items:
                rows.writerow([_cell(getattr(item, column), "") for column in columns])


def show(item: Value, asked: Form | None) -> None:
    """Writes one value: in a table, a line for each field."""
    if form_of(asked) == "table":
        table = _table("", "")
        table.show_header = False
        for field in item.__struct_fields__:
            table.add_row(field, _cell(getattr(item, field)))
        _console().print(table)
    elif form_of(asked) == "json":
        _write(msgspec.json.format(_json(item), indent=2) + "\n")
    else:
        show_all([item], item.__struct_fields__, asked)


def say(line: str) -> None:
    """Writes a line for the reader, not for a program."""
    print(printable(line), file=sys.stderr)


def heading(line: str) -> None:
    """Writes a line above a table."""
    print(printable(line))


def printable(text: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False)


def _console() -> Console:
    # A name is shown as it is: rich would interpret [red] and :smile: as markup.
    return Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else 160)


def _cell(value: object, nothing: str = "–") -> str:
    if value is None:
        return nothing
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(each) for each in value)
    return printable(_text(value))


def _text(value: object) -> str:
    match value:
        case datetime():
            return value.isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
        case float():
            return f"{value:.10g}"
        case msgspec.Struct():
            return _json(value)
        case _:
            return str(value)


def _json(item: Value) -> str:
    return msgspec.json.encode(item).decode()


def _write(text: str) -> None:
    sys.stdout.write(text)
