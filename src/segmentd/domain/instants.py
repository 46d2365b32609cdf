"""Instants: RFC 3339 in UTC with microseconds, as clients see them; and spans of time between two of them."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, NamedTuple

import msgspec

from segmentd.domain.errors import Fault, Invalid

_1970: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

LAST_INSTANT: Final = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)

WRITE_A_TIME: Final = (
    "a time is written like 2026-11-20T10:15:30Z, with an offset, within the years 1 to 9999"
)

InstantValue = Annotated[datetime, msgspec.Meta(tz=True)]
"""As it is in JSON. `in_utc` checks the rest."""


class Span(NamedTuple):
    """From `begins_at` to before `ends_at`; None: without an end on that side."""

    begins_at: datetime | None = None
    ends_at: datetime | None = None

    def check(self) -> None:
        """Raises Invalid for a span that is empty or reversed."""
        if self.begins_at is not None and self.ends_at is not None and self.ends_at <= self.begins_at:
            raise Invalid(Fault("/to", "the end of the period must be after its beginning"))


def in_utc(instant: datetime) -> datetime:
    """The same instant in UTC.

    Raises ValueError for a time without an offset, and for one outside of the years 1 to 9999 in UTC.
    """
    if instant.tzinfo is None:
        raise ValueError("a time needs an offset, such as Z")
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time must be within the years 1 to 9999 in UTC") from None


def read_instant(text: str) -> datetime:
    """The instant that a text of RFC 3339 names, in UTC. Raises ValueError."""
    try:
        return in_utc(msgspec.convert(text, InstantValue))
    except ValueError:
        raise ValueError(WRITE_A_TIME) from None


def rfc3339(instant: datetime) -> str:
    """`2026-11-20T10:15:30.123456Z`, always with six digits of the second."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


def microseconds(instant: datetime) -> int:
    """The whole microseconds from 1970 to the instant."""
    return (instant - _1970) // _MICROSECOND
