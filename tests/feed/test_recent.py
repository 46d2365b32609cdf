from datetime import UTC, datetime
from typing import Final

import pytest

from segmentd.domain.feed import EVERYTHING, SegmentChange, SegmentOperation, Wanted
from segmentd.domain.identifiers import Slug
from segmentd.feed.recent import Recent
from segmentd.storage.positions import Log, Position
from segmentd.storage.snapshots import Snapshot

SLUGS: Final = ("A", "B", "A", "B")


def position(xmax: int) -> Position:
    return Position(Log(1, 1, 0), Snapshot(xmax, []))


@pytest.fixture
def recent() -> Recent:
    """Has four changes, after the positions 0 to 3."""
    recent = Recent()
    recent.begin(position(0))
    at = datetime(2026, 11, 28, tzinfo=UTC)
    recent.add(
        [
            (
                position(place),
                SegmentChange(Slug(slug), SegmentOperation.CREATED, at, "somebody", None, None, None),
            )
            for place, slug in enumerate(SLUGS, 1)
        ]
    )
    return recent


@pytest.mark.parametrize("wanted", [EVERYTHING, Wanted(Slug("A"), None)])
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_pages_of_any_size_have_every_wanted_change_once(recent: Recent, limit: int, wanted: Wanted) -> None:
    found, at = [], position(0).text()
    while (place := recent.place_of(at)) is not None:
        entries, last = recent.after(place, limit, wanted)
        if last is None:
            break
        found += [(entry.position, entry.change.segment) for entry in entries]
        at = last

    expected = [(position(place).text(), slug) for place, slug in enumerate(SLUGS, 1)]
    assert found == [each for each in expected if wanted == EVERYTHING or each[1] == "A"]
