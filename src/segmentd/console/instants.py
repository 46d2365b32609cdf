"""Times in fields: browsers send them without a zone, and then they are in UTC; our script sends the zone."""

import re
from typing import Final

_WITHOUT_ZONE: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(?P<seconds>:\d\d(\.\d{1,6})?)?")


def in_rfc3339(text: str) -> str:
    """The text of a field as a time with a zone; anything else as it is, for the reader to refuse."""
    match = _WITHOUT_ZONE.fullmatch(text)
    if match is None:
        return text
    return f"{text}Z" if match["seconds"] else f"{text}:00Z"
