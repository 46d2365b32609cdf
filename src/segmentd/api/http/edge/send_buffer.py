"""What a process holds for its clients, and how much of it there may be."""

import math
import time
from collections.abc import Callable
from typing import Final, Self

import structlog
from prometheus_client import Gauge

from segmentd.observability.metrics import Metrics
from segmentd.observability.throttled import ThrottledLog

SMALL_ANSWER: Final = 2**14
"""An answer of so many bytes is always sent, and not counted while it waits for its client."""

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
        self._throttled = ThrottledLog(_log, now)
        self.most = most
        self.held = 0

    @property
    def is_reached(self) -> bool:
        """Whether there may be no more."""
        return self.held >= self.most

    @property
    def is_exceeded(self) -> bool:
        """Whether there are more than there may be."""
        return self.held > self.most

    def change(self, by: int) -> None:
        """There are so many more, or less."""
        self.held += by
        if self._gauge is not None:
            self._gauge.inc(by)

    def say(self) -> None:
        """Something is refused because the bound is reached: into the log, once a minute."""
        self._throttled.warning("a bound is reached", of=self._what, most=self.most)


class Room:
    """What a process has for its clients: connections, and bytes of answers that they have not taken yet."""

    def __init__(self, connections: Bound | None = None, unsent: Bound | None = None) -> None:
        self.connections = connections or Bound("connections", math.inf)
        self.unsent = unsent or Bound("unsent bytes", math.inf)

    @classmethod
    def of(cls, most_connections: int, most_unsent_bytes: int, metrics: Metrics) -> Self:
        """Bounded, and shown by the metrics."""
        return cls(
            Bound("connections", most_connections, metrics.http_connections),
            Bound("unsent bytes", most_unsent_bytes, metrics.http_unsent_bytes),
        )
