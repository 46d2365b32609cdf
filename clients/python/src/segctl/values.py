"""Values as people write them on a command line."""

import re
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Final

from segctl.failures import WrongUse

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def moment(flag: str, text: str | None) -> datetime | None:
    """A time such as 2026-12-01T00:00:00Z. Raises WrongUse."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise WrongUse(f"{flag}: {text!r} is not a time with an offset, such as 2026-12-01T00:00:00Z")
    return found


def seconds(flag: str, text: str | None) -> int | None:
    """A duration such as 2d, 12h, 30m or 90s, in seconds. Raises WrongUse."""
    if text is None:
        return None
    if match := re.fullmatch(r"([1-9][0-9]{0,9})([smhdw])", text):
        return int(match[1]) * _SECONDS[match[2]]
    raise WrongUse(f"{flag}: {text!r} is not a duration, such as 2d, 12h, 30m or 90s")


def percentage(flag: str, text: str) -> Decimal | None:
    """A percentage, or none. Raises WrongUse."""
    if text == "none":
        return None
    try:
        return Decimal(text)
    except InvalidOperation:
        raise WrongUse(f"{flag}: {text!r} is not a percentage, such as 12.5, and not none") from None
