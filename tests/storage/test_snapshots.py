"""The windows between snapshots have every transaction once, in whatever order they begin and end."""

from collections import Counter
from random import Random
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentd.storage.snapshots import Snapshot, Window

FIRST_XID: Final = 7


def has(window: Window, xid: int) -> bool:
    """As the conditions NEW and LATE decide."""
    return (window.first <= xid < window.end and xid not in window.running) or xid in window.late


@given(st.lists(st.sampled_from(["begin", "end", "look"]), max_size=60), st.randoms(use_true_random=False))
def test_whatever_is_visible_at_last_came_in_exactly_one_window(steps: list[str], chance: Random) -> None:
    running: list[int] = []
    ended: list[int] = []
    upcoming = FIRST_XID
    seen = Snapshot(FIRST_XID, [])
    came = Counter[int]()
    for step in [*steps, "look"]:
        if step == "begin":
            running.append(upcoming)
            upcoming += 1
        elif step == "end" and running:
            ended.append(running.pop(chance.randrange(len(running))))
        else:
            now = Snapshot(upcoming, sorted(running))
            window = now.since(seen)
            came.update(xid for xid in range(FIRST_XID, upcoming) if has(window, xid))
            seen = now

    assert came == Counter(ended)


def test_a_snapshot_is_read_as_postgresql_writes_it() -> None:
    assert Snapshot.parsed("3:9:3,7") == (9, [3, 7])
    assert Snapshot.parsed("3:3:") == (3, [])
    for wrong in ("", "3:9", "3:9:x", "3:9:3,7;"):
        with pytest.raises(ValueError, match="is not a snapshot"):
            Snapshot.parsed(wrong)


def test_a_transaction_that_goes_on_is_in_no_window() -> None:
    assert Snapshot(20, [5, 12]).since(Snapshot(10, [5, 6])) == Window(10, 20, running=[12], late=[6])
