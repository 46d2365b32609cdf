"""The fixtures of the tests about what operators see."""

import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from segmentd.observability.traces import Tracing, set_up_tracing
from tests.support.collector import Collector, collecting


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without those that the tests are run with."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture
def tracing(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracing]:
    """Tracing as one variable asks for it; what it sends is at the collector when it is closed."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    tracing = set_up_tracing("1.2.3")
    assert tracing is not None
    with closing(tracing):
        yield tracing
