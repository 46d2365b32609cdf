"""The send buffers of a process for its clients, and their bounds (docs/decisions/0037)."""

import math
import time
from collections.abc import Callable
from typing import Final, Self

import structlog
from prometheus_client import Gauge

from segmentd.observability.metrics import Metrics
from segmentd.observability.throttled import ThrottledLog

SMALL_ANSWER: Final = 2**14
"""An answer of up to so many bytes is always sent, and does not count while it waits for its client."""

_log = structlog.get_logger(__name__)


class SharedBytes(bytes):
    """Bytes that all answers share, so that an unread answer takes no memory of its own."""


class Bound:
    """How many of something a process has and may have; logs when the bound is reached."""

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
        """Whether the bound is reached."""
        return self.held >= self.most

    @property
    def is_exceeded(self) -> bool:
        """Whether the bound is exceeded."""
        return self.held > self.most

    def change(self, by: int) -> None:
        """Adds so many, or subtracts them."""
        self.held += by
        if self._gauge is not None:
            self._gauge.inc(by)

    def say(self) -> None:
        """Logs, once a minute, that something is refused because the bound is reached."""
        self._throttled.warning("a bound is reached", of=self._what, most=self.most)


class Room:
    """What a process holds for its clients: connections, and bytes of answers that they have not read yet."""

    def __init__(self, connections: Bound | None = None, unsent: Bound | None = None) -> None:
        self.connections = connections or Bound("connections", math.inf)
        self.unsent = unsent or Bound("unsent bytes", math.inf)

    @classmethod
    def of(cls, most_connections: int, most_unsent_bytes: int, metrics: Metrics) -> Self:
        """With their bounds, and shown by the metrics."""
        return cls(
            Bound("connections", most_connections, metrics.http_connections),
            Bound("unsent bytes", most_unsent_bytes, metrics.http_unsent_bytes),
        )
