"""What a process holds for its clients, and how much of it there may be."""

import time
from collections.abc import Callable
from typing import Final

import structlog
from prometheus_client import Gauge

_SILENCE_S: Final = 60

_log = structlog.get_logger(__name__)


class SharedBytes(bytes):
    """Held once for all answers that send them, so that it takes no room when a client does not read one."""


class Bound:
    """How many of something a process has and may have; a line of the log says when that is reached."""

    def __init__(
        self, what: str, most: float, gauge: Gauge | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._what = what
        self._gauge = gauge
        self._now = now
        self._said_at = -float(_SILENCE_S)
        self.most = most
        self.held = 0

    @property
    def is_reached(self) -> bool:
        """Whether there may be no more."""
        return self.held >= self.most

    def change(self, by: int) -> None:
        """There are so many more, or less."""
        self.held += by
        if self._gauge is not None:
            self._gauge.inc(by)

    def say(self) -> None:
        """Something is refused because the bound is reached: into the log, once a minute."""
        if self._now() - self._said_at >= _SILENCE_S:
            self._said_at = self._now()
            _log.warning("a bound is reached", of=self._what, most=self.most)
