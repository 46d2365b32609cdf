"""Those who follow the feed: each keeps its own copy of who is in which segment."""

from collections import Counter
from datetime import datetime

from segmentd.domain.feed import FeedChange, MembershipChange, SegmentOperation
from segmentd.domain.memberships import Operation
from segmentd.storage.database import Database
from segmentd.storage.feed import read
from segmentd.storage.positions import Position, read_position


class Copy:
    """The explicit members of each segment, with their terms, as the sum of all changes says."""

    def __init__(self) -> None:
        self.members: dict[str, dict[int, datetime | None]] = {}

    def apply(self, change: FeedChange) -> None:
        """As a follower outside would."""
        if isinstance(change, MembershipChange):
            if change.operation is Operation.ADD:
                self.members[change.segment][change.user_id] = change.until
            else:
                self.members.get(change.segment, {}).pop(change.user_id, None)
        elif change.operation is SegmentOperation.CREATED:
            assert change.segment not in self.members
            self.members[change.segment] = {}
        elif change.operation is SegmentOperation.RENAMED:
            assert change.slug_before is not None
            assert change.segment not in self.members
            self.members[change.segment] = self.members.pop(change.slug_before)
        elif change.operation is SegmentOperation.DELETED:
            del self.members[change.segment]


class Follower:
    """Reads the feed page by page; its position goes through the text that clients keep."""

    def __init__(self, database: Database, position: Position | None = None) -> None:
        self._database = database
        self.position = position
        self.copy = Copy()
        self.came: list[FeedChange] = []

    async def read(self, limit: int) -> bool:
        """One page; whether it is level with the database now."""
        reading = await read(self._database, self.position, limit)
        for _, change in reading.changes:
            self.copy.apply(change)
            self.came.append(change)
        self.position = read_position(reading.position.text())
        assert self.position == reading.position
        return reading.is_level

    async def catch_up(self, limit: int) -> None:
        """Reads until it is level."""
        while not await self.read(limit):
            pass

    def events(self) -> Counter[tuple[int, str, datetime]]:
        """How often each change of a membership came."""
        return Counter(
            (each.user_id, each.segment, each.at) for each in self.came if isinstance(each, MembershipChange)
        )
