"""The page that Prometheus scrapes: the metrics of all processes of a node, added up."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.samples import Sample
from prometheus_client.utils import INF, floatToGoString

from segmentd.observability.tally import BUCKETS_S, Counted


class Page(NamedTuple):
    """The answer to a scrape."""

    content: bytes
    content_type: str


def written(families: Iterable[Metric], accept: str) -> Page:
    """The families by name, as text or, where the header `Accept` asks for it, as OpenMetrics."""
    encode, content_type = choose_encoder(accept)
    return Page(encode(_Families(sorted(families, key=lambda family: family.name))), content_type)


def added_up(folder: Path) -> Iterable[Metric]:
    """The metric families that prometheus_client stores in the files of the processes."""
    # A file that another process is just creating is still empty, and the library fails on an empty file.
    files = [str(path) for path in folder.glob("*.db") if _size(path)]
    families: Iterable[Metric] = MultiProcessCollector.merge(files)
    return families


def add_tally(histogram: Metric, labels: Mapping[str, str], counted: Counted) -> None:
    """Adds the counts of a tally to the histogram's series with these labels, which already exists."""
    added = {_key(sample): sample.value for sample in _samples(histogram.name, labels, counted)}
    histogram.samples = [
        sample._replace(value=sample.value + added.get(_key(sample), 0)) for sample in histogram.samples
    ]


class _Families(NamedTuple):
    """The one method of a registry that an encoder calls."""

    families: Iterable[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families


def _samples(name: str, labels: Mapping[str, str], counted: Counted) -> Iterator[Sample]:
    for bound, count in zip((*BUCKETS_S, INF), accumulate(counted.buckets), strict=True):
        yield Sample(f"{name}_bucket", {**labels, "le": floatToGoString(bound)}, count)
    yield Sample(f"{name}_count", {**labels}, sum(counted.buckets))
    yield Sample(f"{name}_sum", {**labels}, counted.nanoseconds / 1_000_000_000)


def _key(sample: Sample) -> tuple[str, frozenset[tuple[str, str]]]:
    return sample.name, frozenset(sample.labels.items())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # of a process that has just ended
        return 0
