"""The checker of histories finds a planted fault of each kind, and none where there is none."""

import random
from collections.abc import Iterator

import pytest

from proof.checking import FeedEvent, History, Read, Segments, Write, linearized, violations

A, B, AB, NONE = frozenset("A"), frozenset("B"), frozenset("AB"), frozenset[str]()


def write(
    begin: float,
    end: float,
    add: Segments,
    after: Segments | None,
    remove: Segments = NONE,
    node: str = "one",
    reason: str = "",
) -> Write:
    return Write(1, node, begin, end, add, remove, after, reason)


def read(
    begin: float,
    seen: Segments,
    node: str = "one",
    age: int = 0,
    only: str | None = None,
    *,
    from_database: bool = False,
) -> Read:
    return Read(1, "client", node, "GET", begin, begin + 0.1, seen, age, only, from_database)


ADDED = write(0, 1, A, A, reason="r")
FEED = [FeedEvent(1, "A", adds=True, reason="r")]

GOOD = {
    "one after the other": History([ADDED, write(2, 3, B, AB)]),
    "at once, the later one first": History([write(0, 9, A, AB), write(1, 2, B, B)]),
    "one without an answer that took effect": History([write(0, 1, A, None), write(2, 3, B, AB)]),
    "one without an answer that never did": History([write(0, 1, A, None), write(2, 3, B, B)]),
    "one without an answer that did so late": History(
        [write(0, 1, A, None, reason="r"), write(2, 3, B, B, reason="s")],
        [read(4, B), read(50, AB)],
        {"follower": [FeedEvent(1, "B", adds=True, reason="s"), *FEED]},
    ),
    "a read beside a write sees either": History([ADDED], [read(0.5, NONE), read(0.6, A)]),
    "another node may be behind by its age": History([ADDED], [read(1.5, NONE, "two"), read(3, A, "two")]),
    "the more age, the older": History([ADDED], [read(9, NONE, "two", age=8)]),
    "two nodes are at two states": History([ADDED], [read(1.5, A), read(1.6, NONE, "two")]),
    "one segment of many": History(
        [ADDED, write(2, 3, B, AB)], [read(4, A, only="A"), read(4, NONE, only="C")]
    ),
    "two want the same, and one of them is told that it was there": History(
        [ADDED._replace(changed=A, reason="s"), ADDED._replace(changed=NONE)],
        (),
        {"follower": [FEED[0]._replace(reason="s")]},
    ),
    "the feed": History([ADDED], (), {"follower": FEED}),
}

PLANTED = {
    "linearizability: one change, and two are told that it was theirs": History(
        [ADDED._replace(changed=A), ADDED._replace(changed=A)]
    ),
    "linearizability: a lost change": History([ADDED, write(2, 3, B, B)]),
    "linearizability: a change that nobody made": History([write(0, 1, A, AB)]),
    "linearizability: a change before its request": History([write(0, 1, A, AB), write(2, 3, B, B)]),
    "linearizability: a change that came twice": History(
        [ADDED, write(2, 3, NONE, NONE, remove=A), write(4, 5, B, AB)]
    ),
    "unknown state: a read of what never was": History([ADDED], [read(2, B)]),
    "unknown state: a read of the future": History([ADDED], [read(-1, A)]),
    "unknown state: half of a change": History([write(0, 1, AB, AB)], [read(2, A)]),
    "own writes: a node without its own change": History([ADDED], [read(1.5, NONE)]),
    "own writes: for one segment too": History([ADDED], [read(1.5, NONE, only="A")]),
    "age: older than it says": History([ADDED], [read(9.5, NONE, "two", age=7)]),
    "age: the database is never behind": History([ADDED], [read(1.5, NONE, "two", from_database=True)]),
    "going back": History([ADDED], [read(1.2, A, "two"), read(1.4, NONE, "two")]),
    "feed: a change twice": History([ADDED], (), {"follower": FEED * 2}),
    "feed: a change is missing": History([ADDED], (), {"follower": []}),
    "feed: one of another user": History([ADDED], (), {"follower": [*FEED, FEED[0]._replace(user_id=2)]}),
    "feed: in another order": History(
        [ADDED, write(2, 3, B, AB, reason="s")],
        (),
        {"follower": [FeedEvent(1, "B", adds=True, reason="s"), *FEED]},
    ),
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_a_history_that_keeps_all_promises_passes(history: History) -> None:
    assert [*violations(history)] == []


@pytest.mark.parametrize(("name", "history"), PLANTED.items(), ids=PLANTED)
def test_a_planted_fault_is_found_by_its_name(name: str, history: History) -> None:
    assert [found.partition(":")[0] for found in violations(history)] == [name.partition(":")[0]]


def concurrent(chance: random.Random) -> Iterator[Write]:
    """Changes that overlap; each takes effect at some moment in its time."""
    state, moment = NONE, 0.0
    for number in range(60):
        moment += chance.random()
        add, remove = ({*chance.sample("ABCDEF", 2)} for _ in range(2))
        made = Write(1, "one", 0, 0, frozenset(add - remove), frozenset(remove - add), None, str(number))
        state = made.applied(state)
        answer = None if chance.random() < 0.1 else state
        yield made._replace(
            begin=moment - 2 * chance.random(), end=moment + 2 * chance.random(), after=answer
        )


@pytest.mark.parametrize("seed", range(20))
def test_what_was_made_one_by_one_is_found_to_be_linearizable_however_it_overlapped(seed: int) -> None:
    chance = random.Random(seed)
    writes = [*concurrent(chance)]
    chance.shuffle(writes)

    order = linearized(writes)

    assert order is not None
    assert {write.reason for write in order} >= {write.reason for write in writes if write.after is not None}
