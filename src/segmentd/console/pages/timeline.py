"""A user's segments as bars over time, and the same as a table."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import htpy as h

from segmentd.console.layout import empty, moment, sentence, table
from segmentd.console.visit import Visit
from segmentd.console.words import user as words
from segmentd.domain.identifiers import Slug
from segmentd.domain.instants import rfc3339
from segmentd.domain.memberships import Event, Membership, Operation, Source

DAYS: Final = (7, 30, 90, 365)
"""What the reader can choose."""
MOST_LANES: Final = 25

_WIDTH: Final = 1000
_LANE: Final = 26
_TOP: Final = 24
_LEFT: Final = 260
_TICKS: Final = 4
_WITH_HOURS: Final = timedelta(days=4)
_LONGEST_LABEL: Final = 34
_THINNEST: Final = 3.0


class Bar(NamedTuple):
    """A time that the user was in a segment; None: it began before, or has not ended."""

    begins: datetime | None
    ends: datetime | None
    source: Source


class Timeline(NamedTuple):
    """From `begin` to `end`: when the user was in which segment."""

    begin: datetime
    end: datetime
    lanes: Mapping[Slug, Sequence[Bar]]
    is_cut: bool

    @classmethod
    def of(
        cls,
        begin: datetime,
        end: datetime,
        at_begin: Sequence[Membership],
        events: Sequence[Event],
        *,
        is_cut: bool,
    ) -> "Timeline":
        """From the segments at the beginning, and all events after it, oldest first.

        Where nothing held at the beginning, the timeline begins shortly before the first event.
        """
        if events and not at_begin:
            begin = max(begin, events[0].at - (end - events[0].at) / 20)
        lanes: dict[Slug, list[Bar]] = {m.slug: [Bar(None, None, m.source)] for m in at_begin}
        for event in events:
            bars = lanes.setdefault(Slug(event.segment), [])
            if event.operation is Operation.ADD:
                bars.append(Bar(event.at, None, event.source))
            elif bars and bars[-1].ends is None:
                bars[-1] = bars[-1]._replace(ends=event.at)
        return cls(begin, end, {slug: lanes[slug] for slug in sorted(lanes)}, is_cut)

    def place(self, instant: datetime | None, otherwise: datetime) -> float:
        """Where an instant is between the left and the right, in units of the drawing."""
        share = ((instant or otherwise) - self.begin) / (self.end - self.begin)
        return _LEFT + min(1.0, max(0.0, share)) * (_WIDTH - _LEFT)


def drawn(visit: Visit, timeline: Timeline, choices: h.Node) -> h.Node:
    """The timeline as a drawing, and as a table that says the same."""
    lanes = [*timeline.lanes.items()]
    if not lanes:
        return [choices, empty(visit.say(words.NO_TIMELINE))]
    return [
        choices,
        timeline.is_cut
        and h.p[h.small[sentence(visit, words.TIMELINE_CUT, since=moment(visit, timeline.begin))]],
        len(lanes) > MOST_LANES
        and h.p[h.small[visit.say(words.LANES_CUT, shown=MOST_LANES, all=len(lanes))]],
        _drawing(visit, timeline, lanes[:MOST_LANES]),
        h.details[h.summary[visit.say(words.TIMELINE_AS_TABLE)], _table(visit, lanes[:MOST_LANES])],
    ]


def choices(visit: Visit, days: int, path: str, at: str | None) -> h.Element:
    """Links to other lengths of the timeline."""
    return h.p(".inline")[
        (
            h.a(
                href=visit.link(path, days=each, at=at) + "#timeline",
                aria_current="true" if each == days else None,
            )[visit.counted(each, words.DAYS)]
            for each in DAYS
        )
    ]


def _drawing(visit: Visit, timeline: Timeline, lanes: Sequence[tuple[Slug, Sequence[Bar]]]) -> h.Element:
    height = _TOP + len(lanes) * _LANE
    # Beside it is the table with the same for those who do not see it.
    return h.svg(
        ".chart", viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=visit.say(words.TIMELINE)
    )[
        (_tick(timeline, number, height) for number in range(_TICKS + 1)),
        (_lane(visit, timeline, index, slug, bars) for index, (slug, bars) in enumerate(lanes)),
    ]


def _tick(timeline: Timeline, number: int, height: int) -> h.Node:
    instant = timeline.begin + (timeline.end - timeline.begin) * number / _TICKS
    x = timeline.place(instant, instant)
    anchor = "start" if number == 0 else "end" if number == _TICKS else "middle"
    form = "%Y-%m-%d" if timeline.end - timeline.begin > _WITH_HOURS else "%m-%d %H:%M"
    return [
        h.line(".axis", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=str(_TOP - 6), y2=str(height)),
        h.text(".faint", x=f"{x:.1f}", y="12", text_anchor=anchor, data_time=rfc3339(instant))[
            f"{instant:{form}}"
        ],
    ]


def _lane(visit: Visit, timeline: Timeline, index: int, slug: Slug, bars: Sequence[Bar]) -> h.Node:
    top = _TOP + index * _LANE
    label = slug if len(slug) <= _LONGEST_LABEL else slug[: _LONGEST_LABEL - 1] + "…"
    return [
        h.text(x="0", y=str(top + 16))[h.title[slug], label],
        (_bar(visit, timeline, top, label, bar) for bar in bars),
    ]


def _bar(visit: Visit, timeline: Timeline, top: int, label: str, bar: Bar) -> h.Element:
    left = min(timeline.place(bar.begins, timeline.begin), _WIDTH - _THINNEST)
    right = timeline.place(bar.ends, timeline.end)
    return h.rect(
        f".bar.{bar.source.value}",
        x=f"{left:.1f}",
        y=str(top + 4),
        width=f"{max(_THINNEST, right - left):.1f}",
        height=str(_LANE - 8),
        rx="3",
    )[
        h.title[
            visit.say(
                words.BAR,
                slug=label,
                since=f"{bar.begins:%Y-%m-%d %H:%M} UTC" if bar.begins else visit.say(words.BEFORE),
                until=f"{bar.ends:%Y-%m-%d %H:%M} UTC" if bar.ends else visit.say(words.STILL),
            )
        ]
    ]


def _table(visit: Visit, lanes: Sequence[tuple[Slug, Sequence[Bar]]]) -> h.Element:
    columns = (words.SEGMENT, words.SOURCE, words.SINCE, words.UNTIL)
    return table(
        visit.say(words.TIMELINE),
        [visit.say(column) for column in columns],
        (
            (
                slug,
                visit.say(words.SOURCES[bar.source]),
                moment(visit, bar.begins, words.BEFORE),
                moment(visit, bar.ends, words.STILL),
            )
            for slug, bars in lanes
            for bar in bars
        ),
    )
