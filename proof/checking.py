"""Checks recorded histories: what many clients asked of two nodes, when, and what they were answered.

Pure: histories are values, with times in seconds of one clock. Per user, the writes have to be linearizable:
each took effect at one moment between its request and its answer. Reads are then compared with the states
between the writes. A read's state may have held at any moment that its stated age allows.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

Segments = frozenset[str]
NOBODY: Final[Segments] = frozenset()


class Write(NamedTuple):
    """A change of one user. `after` is None where there was no answer: it took effect once or never."""

    user_id: int
    node: str
    begin: float
    end: float
    add: Segments
    remove: Segments
    after: Segments | None
    reason: str = ""
    changed: Segments | None = None
    """The segments that were answered as added or removed."""

    def explains(self, state: Segments) -> bool:
        """Whether this is the answer in that state."""
        if self.after is None:
            return True
        after = self.applied(state)
        return after == self.after and self.changed in {None, state ^ after}

    def applied(self, state: Segments) -> Segments:
        """The segments after it."""
        return (state | self.add) - self.remove


class Read(NamedTuple):
    """An answer about one user, by a door of a node."""

    user_id: int
    client: str
    node: str
    door: str
    begin: float
    end: float
    seen: Segments
    age: int = 0
    """In whole seconds: it is less than one more than this."""
    only: str | None = None
    """Where the answer was about one segment."""
    from_database: bool = False

    @property
    def oldest(self) -> float:
        """The state may have ended then, and not before."""
        return self.begin if self.from_database else self.begin - self.age - 1

    def shows(self, state: Segments) -> bool:
        """Whether this is the answer in that state."""
        return self.seen == (state if self.only is None else state & {self.only})


class FeedEvent(NamedTuple):
    """A change as the feed has it."""

    user_id: int
    segment: str
    adds: bool
    reason: str


class History(NamedTuple):
    """All that was recorded; each follower read the feed from its beginning to its end."""

    writes: Sequence[Write]
    reads: Sequence[Read] = ()
    feeds: Mapping[str, Sequence[FeedEvent]] = {}


class Line(NamedTuple):
    """The states of a user, one after the other, and the write that made each; the first is empty."""

    states: Sequence[Segments]
    writes: Sequence[Write]
    since: Sequence[float]
    """No state can have begun before."""
    until: Sequence[float]
    """No state can have held after."""


def violations(history: History) -> Iterator[str]:
    """What contradicts the promises; each begins with the name of one."""
    writes: dict[int, list[Write]] = defaultdict(list)
    reads: dict[int, list[Read]] = defaultdict(list)
    for write in history.writes:
        writes[write.user_id].append(write)
    for read in history.reads:
        reads[read.user_id].append(read)
    places = _places(history.feeds.values())
    if history.feeds:
        for (
            made
        ) in writes.values():  # what has no answer and is in no feed was never made, or changed nothing
            made[:] = [write for write in made if write.after is not None or write.reason in places]
    lines: dict[int, Line] = {}
    for user_id in writes.keys() | reads.keys():
        order = linearized(writes.get(user_id, []), places)
        if order is None:
            yield f"linearizability: no order explains the answers to the changes of user {user_id}"
            continue
        lines[user_id] = _line(order)
        yield from _of_reads(lines[user_id], reads.get(user_id, []))
    for follower, events in history.feeds.items():
        yield from _of_feed(follower, events, lines)


def _places(feeds: Iterable[Sequence[FeedEvent]]) -> dict[str, int]:
    """Where the changes of a reason come first in a feed."""
    places: dict[str, int] = {}
    for events in feeds:
        for place, event in enumerate(events):
            places.setdefault(event.reason, place)
    return places


def linearized(writes: Sequence[Write], places: Mapping[str, int] = {}) -> list[Write] | None:
    """An order in which each write leads to its answer and none is before one that ended before it began.

    It searches depth first (Wing and Gong), and visits no set of done writes twice in one state (Lowe). The
    order of the feed, if it is known, is tried first, because several orders may explain the answers. Of the
    writes without an answer, those that are in the feed were made; the others may be left out.
    """
    waiting = sorted(writes, key=lambda write: (places.get(write.reason, -1), write.begin))
    due = {place for place, write in enumerate(waiting) if write.after is not None or write.reason in places}
    order: list[int] = []
    states = [NOBODY]
    done = 0
    tried: set[tuple[int, Segments]] = set()
    choices = [_choices(waiting, done, NOBODY)]
    while True:
        if due <= {*order}:
            return [waiting[place] for place in order]
        for place in choices[-1]:
            state = waiting[place].applied(states[-1])
            if (done | 1 << place, state) not in tried:
                tried.add((done | 1 << place, state))
                done |= 1 << place
                order.append(place)
                states.append(state)
                choices.append(_choices(waiting, done, state))
                break
        else:
            choices.pop()
            if not order:
                return None
            done &= ~(1 << order.pop())
            states.pop()


def _choices(waiting: Sequence[Write], done: int, state: Segments) -> Iterator[int]:
    """The writes that may be next: no other one that is not done ended before they began."""
    rest = [place for place in range(len(waiting)) if not done >> place & 1]
    earliest = min((_end(waiting[place]) for place in rest), default=math.inf)
    for place in rest:
        write = waiting[place]
        if write.begin <= earliest and write.explains(state):
            yield place


def _end(write: Write) -> float:
    return math.inf if write.after is None else write.end


def _line(order: Sequence[Write]) -> Line:
    states, since = [NOBODY], [-math.inf]
    for write in order:
        states.append(write.applied(states[-1]))
        since.append(max(since[-1], write.begin))
    until = [math.inf]
    for write in reversed(order):
        until.append(min(until[-1], _end(write)))
    return Line(states, order, since, until[::-1])


def _of_reads(line: Line, reads: Sequence[Read]) -> Iterator[str]:
    """Each client's reads on a node, in their order; the earliest state that explains one is taken."""
    floors: dict[tuple[str, str], int] = {}
    for read in sorted(reads, key=lambda read: read.begin):
        where = read.client, read.node
        floor = 0 if read.from_database else floors.get(where, 0)
        own = max(
            (
                place
                for place, write in enumerate(line.writes, 1)
                if write.node == read.node and _end(write) < read.begin
            ),
            default=0,
        )
        fitting = [
            place
            for place, state in enumerate(line.states)
            if line.since[place] <= read.end and read.shows(state)
        ]
        fresh = [place for place in fitting if line.until[place] >= read.oldest]
        at_least_own = [place for place in fresh if place >= own]
        ahead = [place for place in at_least_own if place >= floor]
        if ahead:
            if not read.from_database:
                floors[where] = ahead[0]
            continue
        what = f"user {read.user_id}, {read.door} of {read.node}: {sorted(read.seen)}"
        if not fitting:
            yield f"unknown state: {what}"
        elif not fresh:
            yield f"age: {what} is older than {read.age} s"
        elif not at_least_own:
            yield f"own writes: {what} lacks a change that this node had acknowledged"
        else:
            yield f"going back: {what} was read by one who had read a later state there"


def _of_feed(follower: str, events: Sequence[FeedEvent], lines: Mapping[int, Line]) -> Iterator[str]:
    came: dict[int, list[FeedEvent]] = defaultdict(list)
    for event in events:
        came[event.user_id].append(event)
    for user_id, line in lines.items():
        due = zip(line.writes, line.states, line.states[1:], strict=False)
        expected = [
            (write.reason, frozenset((slug, slug in after) for slug in before ^ after))
            for write, before, after in due
            if before != after
        ]
        found: list[tuple[str, list[tuple[str, bool]]]] = []
        for event in came.pop(user_id, []):
            if not found or found[-1][0] != event.reason:
                found.append((event.reason, []))
            found[-1][1].append((event.segment, event.adds))
        if [(reason, sorted(changes)) for reason, changes in found] != [
            (reason, sorted(changes)) for reason, changes in expected
        ]:
            yield f"feed: {follower} has other changes of user {user_id} than were made, or in another order"
    for user_id in came:
        yield f"feed: {follower} has changes of user {user_id}, whom nobody changed"
