"""Tallies: durations of the hot calls, collected in a list and flushed to shared memory some times a second.

Each process has one file of tallies and is the only one that writes it (docs/decisions/0031). A scrape adds
up the files of all processes of the node, ended ones included, so that counters never fall.
"""

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segmentd.shared_memory import SharedMemory

BUCKETS_S: Final = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""The upper bounds of the buckets of every latency of requests, in seconds, inclusive."""

_BOUNDS_NS: Final = np.array([round(bound * 1_000_000_000) for bound in BUCKETS_S])
# One word for each bucket, one for durations above all bounds, and one for the sum.
_SUM: Final = len(_BOUNDS_NS) + 1
_WORDS: Final = _SUM + 1


class Tally:
    """Counts durations by bucket. Each word is written in one piece, so that no reader sees half of it."""

    def __init__(self, words: NDArray[np.int64]) -> None:
        self._words = words
        self._noted: list[int] = []
        self.add: Callable[[int], None] = self._noted.append
        """Collects one duration, in nanoseconds."""

    def flush(self) -> None:
        """Adds up what was noted. In the thread that notes."""
        durations = np.array(self._noted, dtype=np.int64)
        self._noted.clear()
        self._words[:_SUM] += np.bincount(_BOUNDS_NS.searchsorted(durations), minlength=_SUM)
        self._words[_SUM] += durations.sum()


class Counted(NamedTuple):
    """The flushed counts of a tally."""

    buckets: Sequence[int]
    """How many durations fell into each bucket, not cumulative; the last is above all bounds."""
    nanoseconds: int
    """The sum of the durations."""


class Tallies:
    """The tallies of one process, `own`, and the sums over all processes with the same folder.

    Without a folder there is no other process. A process with the id of an ended one continues its counts.
    """

    def __init__(self, count: int, folder: Path | None = None) -> None:
        self._folder = folder
        self._words = (
            np.zeros(count * _WORDS, dtype=np.int64)
            if folder is None
            else np.frombuffer(
                SharedMemory(folder / f"tallies_{os.getpid()}", count * _WORDS).words, dtype=np.int64
            )
        )
        self.own = [Tally(self._words[begin : begin + _WORDS]) for begin in range(0, count * _WORDS, _WORDS)]

    def flush(self) -> None:
        """Adds up what this process has noted. In the thread that notes."""
        for tally in self.own:
            tally.flush()

    def counted(self) -> list[Counted]:
        """The flushed counts of each tally, summed over all processes."""
        totals = [0] * (len(self.own) * _WORDS)
        for words in self._pages():
            for place, word in enumerate(words):
                totals[place] += word
        return [
            Counted(totals[begin : begin + _SUM], totals[begin + _SUM])
            for begin in range(0, len(totals), _WORDS)
        ]

    def _pages(self) -> Iterator[Iterable[int]]:
        pages = (
            [self._words.tobytes()]
            if self._folder is None
            else map(Path.read_bytes, self._folder.glob("tallies_*"))
        )
        # A file that another process is just creating is still empty.
        return (array("q", page) for page in pages)
