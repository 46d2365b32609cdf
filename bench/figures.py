"""Figures: what was measured in each round, its median and spread, and the target."""

from collections.abc import Sequence
from statistics import median
from typing import Final, Literal, NamedTuple

import msgspec

Verdict = Literal["aim", "reached", "missed", "–"]

JUDGED: Final = ("aim", "reached", "missed")


class Spread(NamedTuple):
    """The middle one of some rounds, and the lowest and highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Needs at least one value."""
        return cls(median(values), min(values), max(values))


class Target(msgspec.Struct, frozen=True):
    """The value that a figure must reach, and the one that it aims at."""

    must: float
    aim: float
    at_most: bool = False


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table: a value for each round and, if there is a reference, its value too.

    A ratio is the speed of the subject against the reference, whatever the unit: 0.5 is half as fast.
    """

    name: str
    work: str
    unit: str
    values: Sequence[float]
    rate: bool = True
    """Whether a higher value is better, as with requests a second."""
    reference: str = "–"
    reference_values: Sequence[float] = ()
    target: Target | None = None
    """The target of the ratio if there is a reference, else of the value."""
    note: str = ""

    @property
    def ratios(self) -> Sequence[float]:
        """Subject against reference, round by round, so that noise of the machine falls on both."""
        pairs = zip(self.values, self.reference_values, strict=bool(self.reference_values))
        return [ours / theirs if self.rate else theirs / ours for ours, theirs in pairs]

    @property
    def judged(self) -> Spread:
        """The value that the target is about."""
        return Spread.of(self.ratios or self.values)

    @property
    def verdict(self) -> Verdict:
        """Whether the median is good enough."""
        if self.target is None:
            return "–"
        found, target = self.judged.median, self.target
        if self.score(found) >= self.score(target.aim):
            return "aim"
        return "reached" if self.score(found) >= self.score(target.must) else "missed"

    def score(self, value: float) -> float:
        """How good a value is: 1 is what must be reached, 2 is twice as good."""
        if self.target is None:
            raise ValueError(f"{self.name} has no target")
        must = self.target.must
        return must / value if self.target.at_most else value / must


class Skipped(msgspec.Struct, frozen=True):
    """A row that failed, or that this machine cannot measure."""

    name: str
    reason: str
    failed: bool = False


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share of all values lies: 0.99 for p99. Needs at least one value."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def shown(value: float) -> str:
    """Three significant digits, with thin groups for large numbers."""
    if value == 0:
        return "0"
    if abs(value) >= 100:  # noqa: PLR2004 - from here on a fraction is noise
        return f"{value:,.0f}"
    return f"{value:.3g}"
