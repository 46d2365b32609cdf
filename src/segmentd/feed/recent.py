"""The latest changes, kept for all who are level."""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

from segmentd.domain.feed import FeedChange, Wanted
from segmentd.storage.positions import Position

MOST_CHANGES: Final = 4096
# Positions after which nothing came yet; a follower gets one with an empty answer.
_MOST_QUIET: Final = 256


class Entry(NamedTuple):
    """A change, and the position after it."""

    position: str
    change: FeedChange


class Recent:
    """Up to so many changes, in the order of the feed; older ones make room."""

    def __init__(self, most: int = MOST_CHANGES) -> None:
        self._most = most
        self._entries: deque[Entry] = deque()
        self._quiet: deque[str] = deque()
        self._dropped = 0
        self._after: dict[str, int] = {}

    def begin(self, position: Position) -> None:
        """Forgets everything; from now on changes after this position are kept."""
        self._entries.clear()
        self._quiet.clear()
        self._after = {}
        self._dropped = 0
        self.note(position.text())

    def note(self, position: str) -> None:
        """Notes a position after all changes that there are."""
        if position in self._after:
            return
        self._after[position] = self._end
        self._quiet.append(position)
        if len(self._quiet) > _MOST_QUIET:
            self._after.pop(self._quiet.popleft(), None)

    def add(self, changes: Sequence[tuple[Position, FeedChange]]) -> None:
        """Adds changes at the end."""
        for position, change in changes:
            entry = Entry(position.text(), change)
            self._entries.append(entry)
            self._after[entry.position] = self._end
        while len(self._entries) > self._most:
            self._after.pop(self._entries.popleft().position, None)
            self._dropped += 1

    def place_of(self, position: str) -> int | None:
        """Where the changes after a position begin; None if they are not all here."""
        place = self._after.get(position)
        return None if place is None or place < self._dropped else place

    def after(self, place: int, limit: int, wanted: Wanted) -> tuple[list[Entry], str | None]:
        """Up to so many wanted changes from a place on; and the position after all that it looked at."""
        found: list[Entry] = []
        last = None
        for entry in islice(self._entries, place - self._dropped, None):
            if len(found) == limit:
                break
            last = entry.position
            if wanted.has(entry.change):
                found.append(entry)
        return found, last

    @property
    def _end(self) -> int:
        return self._dropped + len(self._entries)
