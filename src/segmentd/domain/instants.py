"""Instants: RFC 3339 in UTC with microseconds, as clients see them."""

from datetime import UTC, datetime
from typing import Final

LAST_INSTANT: Final = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


def in_utc(instant: datetime) -> datetime:
    """The same instant in UTC.

    Raises ValueError for a time without an offset, and for one that falls out of the years 1 to 9999 in UTC.
    """
    if instant.tzinfo is None:
        raise ValueError("a time needs an offset, such as Z")
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time must be within the years 1 to 9999 in UTC") from None


def rfc3339(instant: datetime) -> str:
    """`2026-11-20T10:15:30.123456Z`, always with six digits of the second."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")
