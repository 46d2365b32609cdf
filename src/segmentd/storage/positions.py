"""Positions in the feed: what a follower has seen, as an opaque text."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, NamedTuple

import msgspec

from segmentd.domain.errors import Fault, Invalid
from segmentd.domain.identifiers import INT64_MAX
from segmentd.domain.pages import decode_cursor, encode_cursor
from segmentd.storage.snapshots import Snapshot

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_Number = Annotated[int, msgspec.Meta(ge=0, le=INT64_MAX)]
# Until the year 9999; an event can be as old as the year 1.
_Instant = Annotated[int, msgspec.Meta(ge=-(10**17) // 2, le=25 * 10**16)]


class Log(NamedTuple):
    """A place in the write-ahead log: of which database, on which timeline, at how many bytes."""

    database: int
    timeline: int
    place: int


class Place(NamedTuple):
    """The last change of a window that was given; changes are ordered so. `part` is 0 for erasures."""

    part: int
    at: datetime
    user_id: int
    segment_id: int
    number: int


class Position(NamedTuple):
    """All up to a snapshot; or up to a place in the window that ends there and begins at an earlier one."""

    log: Log
    seen: Snapshot
    earlier: Snapshot | None = None
    place: Place | None = None

    @property
    def since(self) -> Snapshot:
        """The snapshot up to which everything was given."""
        return self.earlier or self.seen

    def stops_at(self, other: "Position") -> bool:
        """Whether it is after the same changes, and in the middle of no window."""
        return self.earlier is None and self.seen == other.seen

    def text(self) -> str:
        """As clients get it. It grows with the number of transactions that were running."""
        earlier, place = self.earlier, self.place
        return encode_cursor(
            _NAME,
            (
                self.log,
                _packed(self.seen),
                None if earlier is None else _packed(earlier),
                None if place is None else PackedPlace.of(place),
            ),
        )


class PackedPlace(NamedTuple):
    """A place with its instant in microseconds since 1970."""

    part: Annotated[int, msgspec.Meta(ge=0, le=1)]
    at: _Instant
    user_id: _Number
    segment_id: _Number
    number: Annotated[int, msgspec.Meta(ge=0, le=9)]

    @classmethod
    def of(cls, place: Place) -> "PackedPlace":
        return cls(place.part, (place.at - _EPOCH) // _MICROSECOND, *place[2:])

    def unpacked(self) -> Place:
        return Place(self.part, _EPOCH + self.at * _MICROSECOND, *self[2:])


class _PackedLog(NamedTuple):
    database: _Number
    timeline: Annotated[int, msgspec.Meta(ge=0, le=2**32)]
    place: _Number


class _Packed(NamedTuple):
    log: _PackedLog
    seen: list[_Number]
    earlier: list[_Number] | None
    place: PackedPlace | None


_NAME: Final = "feed"
_PACKED: Final = msgspec.msgpack.Decoder(_Packed)


def read_position(text: str) -> Position:
    """The position in a text. Raises Invalid."""
    try:
        return _position(decode_cursor(_NAME, text, _PACKED))
    except (Invalid, ValueError):
        raise Invalid(
            Fault("/after", "not a position of this feed; take next of an answer, or begin, or now")
        ) from None


def _position(packed: _Packed | None) -> Position:
    """Raises ValueError."""
    if packed is None or (packed.earlier is None) != (packed.place is None):
        raise ValueError("no position")
    earlier, place = packed.earlier, packed.place
    return Position(
        Log(*packed.log),
        _unpacked(packed.seen),
        None if earlier is None else _unpacked(earlier),
        None if place is None else place.unpacked(),
    )


def _packed(snapshot: Snapshot) -> list[int]:
    """Running transactions as differences, which are small: after `xmax`, downwards."""
    packed, before = [snapshot.xmax], snapshot.xmax
    for xid in sorted(snapshot.xip, reverse=True):
        packed.append(before - xid)
        before = xid
    return packed


def _unpacked(packed: list[int]) -> Snapshot:
    """Raises ValueError for what `_packed` does not make."""
    xmax, *differences = packed or [0]
    xip, before = [], xmax
    for difference in differences:
        before -= difference
        xip.append(before)
    if not packed or 0 in differences or before < 0:
        raise ValueError("not a snapshot")
    return Snapshot(xmax, xip[::-1])
