"""Warnings about what is tried again and again: each is logged once a minute, however often it fails."""

import time
from collections.abc import Callable
from typing import Final

from structlog.typing import FilteringBoundLogger

AGAIN_AFTER_S: Final = 60.0


class ThrottledLog:
    """Logs a warning unless it logged the same one, with the same values, within this minute."""

    def __init__(self, log: FilteringBoundLogger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._logged_at: dict[str, float] = {}

    def warning(self, event: str, **values: object) -> None:
        now = self._clock()
        self._logged_at = {line: at for line, at in self._logged_at.items() if now - at < AGAIN_AFTER_S}
        line = f"{event} {values}"
        if line not in self._logged_at:
            self._logged_at[line] = now
            self._log.warning(event, **values)
