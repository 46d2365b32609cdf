"""A scraped page, parsed as Prometheus parses it."""

from collections import Counter
from itertools import groupby
from typing import Final

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parsed_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parsed_text
from prometheus_client.samples import Sample

REQUESTS: Final = "segmentd_http_request_duration_seconds"


class Scrape:
    """Metric families by name, from a page that is checked against the rules of the format."""

    def __init__(self, page: str, *, openmetrics: bool = False) -> None:
        families: list[Metric] = [*(parsed_openmetrics if openmetrics else parsed_text)(page)]
        self.families = {family.name: family for family in families}
        assert len(self.families) == len(families), "a family stands on the page twice"
        announced = Counter(line.split()[2] for line in page.splitlines() if line.startswith("# TYPE "))
        assert announced.most_common(1)[0][1] == 1, announced
        for family in families:
            _check(family)

    @property
    def samples(self) -> list[Sample]:
        """All of them."""
        return [sample for family in self.families.values() for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The value of the one sample with this name and these labels, and no others."""
        [value] = [each.value for each in self.samples if each.name == name and each.labels == labels]
        return value

    def __contains__(self, name: object) -> bool:
        return any(sample.name == name for sample in self.samples)

    def of_each(self, name: str, label: str) -> dict[str, float]:
        """The values of a metric with one label, by that label's value."""
        return {each.labels[label]: each.value for each in self.samples if each.name == name}

    def buckets(self, name: str, **labels: str) -> dict[float, float]:
        """The cumulative buckets of a histogram, by their bounds."""
        return {
            float(each.labels["le"]): each.value
            for each in self.samples
            if each.name == f"{name}_bucket" and each.labels == labels | {"le": each.labels["le"]}
        }


def _check(family: Metric) -> None:
    assert family.documentation, family.name
    series = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
    assert len({*series}) == len(series), f"{family.name} has a series twice"
    if family.type != "histogram":
        return

    def identity(sample: Sample) -> tuple[tuple[str, str], ...]:
        return tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))

    for _, group in groupby(sorted(family.samples, key=identity), key=identity):
        samples = [*group]
        buckets = sorted(
            (float(each.labels["le"]), each.value) for each in samples if each.name.endswith("_bucket")
        )
        counts = [count for _, count in buckets]
        assert counts == sorted(counts), f"{family.name}: buckets are cumulative"
        [count] = [each.value for each in samples if each.name.endswith("_count")]
        assert buckets[-1] == (float("inf"), count)
        assert [each for each in samples if each.name.endswith("_sum")]
