"""Tallies: durations of the hot calls, counted in shared memory at a fifth of a microsecond each.

Each process has one file of tallies and is the only one that writes it. A scrape adds up the files of all
processes of the node, of those that have ended, too: what was counted once does not go away.
"""

import mmap
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

BUCKETS_S: Final = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""The upper bounds of the buckets of every latency of requests, in seconds, inclusive."""

_BOUNDS_NS: Final = tuple(round(bound * 1_000_000_000) for bound in BUCKETS_S)
# A word for each bucket and one for what is above all bounds, then the sum.
_SUM: Final = len(_BOUNDS_NS) + 1
_WORDS: Final = _SUM + 1
_WORD_BYTES: Final = 8


class Tally:
    """Counts durations by bucket. Each word is written whole, so that no reader sees half of one."""

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def add(self, nanoseconds: int) -> None:
        """Counts one duration."""
        words = self._words
        words[bisect_left(_BOUNDS_NS, nanoseconds)] += 1
        words[_SUM] += nanoseconds


class Counted(NamedTuple):
    """What was added to a tally."""

    buckets: Sequence[int]
    """How many durations fell into each bucket and none below it; the last is above all bounds."""
    nanoseconds: int
    """The sum of the durations."""


class Tallies:
    """The tallies of one process, `own`, and what all processes with the same folder have counted.

    Without a folder there is no other process. A process that gets the id of one that has ended goes on where
    that one stopped. Raises OSError.
    """

    def __init__(self, count: int, folder: Path | None = None) -> None:
        size = count * _WORDS * _WORD_BYTES
        self._folder = folder
        self._memory = (
            mmap.mmap(-1, size) if folder is None else _mapped(folder / f"tallies_{os.getpid()}", size)
        )
        words = memoryview(self._memory).cast("q")
        self.own = [Tally(words[begin : begin + _WORDS]) for begin in range(0, count * _WORDS, _WORDS)]

    def counted(self) -> list[Counted]:
        """What was added to each tally, in any process."""
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
            [self._memory[:]]
            if self._folder is None
            else map(Path.read_bytes, self._folder.glob("tallies_*"))
        )
        # A file that another process is just making is still empty.
        return (array("q", page) for page in pages)


def _mapped(path: Path, size: int) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.fstat(descriptor).st_size < size:
            # Not a hole: on a full disk this is refused, while writing into a hole would kill the process.
            os.pwrite(descriptor, bytes(size), 0)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
