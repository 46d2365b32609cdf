"""Arrays as PostgreSQL's literals, for parameters with many elements (docs/decisions/0055)."""

from collections.abc import Iterable
from datetime import datetime


def texts(values: Iterable[str | None]) -> str:
    """Of type text[]; no text has the character NUL."""
    return _literal("NULL" if value is None else _quoted(value) for value in values)


def numbers(values: Iterable[int | None]) -> str:
    """Of a type of whole numbers."""
    return _literal("NULL" if value is None else str(value) for value in values)


def flags(values: Iterable[bool]) -> str:
    """Of type boolean[]."""
    return _literal("t" if value else "f" for value in values)


def instants(values: Iterable[datetime | None]) -> str:
    """Of type timestamptz[]; every instant has an offset."""
    return _literal("NULL" if value is None else f'"{value.isoformat()}"' for value in values)


def _literal(elements: Iterable[str]) -> str:
    return f"{{{','.join(elements)}}}"


def _quoted(text: str) -> str:
    """A text without quotes might be a NULL, or end the array."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
