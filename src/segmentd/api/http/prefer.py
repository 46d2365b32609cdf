"""The header `Prefer: wait=N` (RFC 7240): for how long a client waits for what a background job makes."""

import re

from segmentd.domain.reports import LONGEST_WAIT_S


def preferred_wait(prefer: str | None) -> int:
    """The seconds, 0 without the header; other preferences are ignored."""
    match = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})", prefer or "", re.IGNORECASE)
    return min(int(match[1]), LONGEST_WAIT_S) if match else 0
