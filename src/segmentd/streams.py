"""The streams of events of one process, up to a bound."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import Gauge

from segmentd.domain.errors import Overloaded
from segmentd.observability.throttled import ThrottledLog

_log = structlog.get_logger(__name__)


class Streams:
    """Counts them."""

    def __init__(self, most: float = math.inf, gauge: Gauge | None = None) -> None:
        self._most = most
        self._gauge = gauge
        self._throttled = ThrottledLog(_log)
        self._count = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """One stream, while the context lives. Raises Overloaded."""
        if self._count >= self._most:
            self._throttled.warning("a bound is reached", of="streams", most=self._most)
            raise Overloaded("This process has too many streams of events; try again shortly.")
        self._change(+1)
        try:
            yield
        finally:
            self._change(-1)

    def _change(self, by: int) -> None:
        self._count += by
        if self._gauge is not None:
            self._gauge.inc(by)
