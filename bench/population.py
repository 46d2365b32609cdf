"""Made-up users, segments and overrides, always the same for a seed.

Segments are ranked by popularity: their sizes follow Zipf's law with Mandelbrot's flat head (the weight of
rank r is 1 / (r + 8)), so the largest holds a good quarter of the users and the smallest one in two hundred.
Every fifth has a percentage. Each user has ten overrides. Rows about other shapes say so.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

SEGMENTS: Final = 500
OVERRIDES: Final = 10
ROLLOUT_EVERY: Final = 5
PERCENTS: Final = (1, 5, 10, 25, 50)
FIRST_NUMBER: Final = 1000
FLAT_HEAD: Final = 8
EXCLUDED_SHARE: Final = 0.1
TERM_SHARE: Final = 0.05
BATCH_USERS: Final = 50_000

_POSTGRES_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_DAY: Final = 86_400_000_000


class Shape(NamedTuple):
    """How many segments there are, which have a percentage, and how many overrides each user has."""

    segments: int = SEGMENTS
    rollout_every: int = ROLLOUT_EVERY
    """Each so many-th has a percentage; 0: none."""
    percents: Sequence[int] = PERCENTS
    """Of those with one, in turn."""
    overrides: int = OVERRIDES


USUAL: Final = Shape()


class Segment(NamedTuple):
    """A segment; `percent` is None where it has no percentage."""

    id: int
    slug: str
    salt: int
    percent: int | None


class Users(NamedTuple):
    """Some users by id; times are microseconds since 2000, as PostgreSQL has them."""

    ids: NDArray[np.int64]
    registered_at: NDArray[np.int64]


class Overrides(NamedTuple):
    """Some overrides, by user; `until` is 0 where there is no term."""

    user_ids: NDArray[np.int64]
    segment_ids: NDArray[np.int64]
    included: NDArray[np.bool_]
    since: NDArray[np.int64]
    until: NDArray[np.int64]


class Calendar(NamedTuple):
    """The times of the data: first the segments, then the registrations, then the month of events."""

    segments_made: int
    month_begins: int
    month_ends: int
    now: int

    @classmethod
    def before(cls, now: datetime) -> "Calendar":
        """The month is the last whole one before `now`; the segments were made two years before it."""
        month_ends = datetime(now.year, now.month, 1, tzinfo=UTC)
        month_begins = (month_ends - timedelta(days=1)).replace(day=1)
        made = month_begins - timedelta(days=730)
        return cls(*map(postgres_time, (made, month_begins, month_ends, now)))


def postgres_time(instant: datetime) -> int:
    """Microseconds since 2000."""
    return (instant - _POSTGRES_EPOCH) // timedelta(microseconds=1)


def instant_of(postgres_time: int) -> datetime:
    """The inverse of that."""
    return _POSTGRES_EPOCH + timedelta(microseconds=postgres_time)


def segments(seed: int, shape: Shape = USUAL) -> list[Segment]:
    """The segments, the most popular first."""
    salts = np.random.default_rng([seed, 0]).integers(-(2**63), 2**63 - 1, shape.segments)
    every, percents = shape.rollout_every, shape.percents
    return [
        Segment(
            rank + 1,
            f"campaign-{FIRST_NUMBER + rank}",
            int(salts[rank]),
            percents[rank // every % len(percents)] if every and rank % every == 0 else None,
        )
        for rank in range(shape.segments)
    ]


def batches(
    size: int, calendar: Calendar, seed: int, shape: Shape = USUAL
) -> Iterator[tuple[Users, Overrides]]:
    """The users 1 to `size` with their overrides, batch by batch."""
    for first in range(1, size + 1, BATCH_USERS):
        ids = np.arange(first, min(first + BATCH_USERS, size + 1), dtype=np.int64)
        yield _batch(ids, calendar, np.random.default_rng([seed, first]), shape)


def _batch(
    ids: NDArray[np.int64], calendar: Calendar, rng: np.random.Generator, shape: Shape
) -> tuple[Users, Overrides]:
    # A day after the segments, so that no user is older than a percentage.
    registered_at = rng.integers(calendar.segments_made + _DAY, calendar.month_begins - 2 * _DAY, len(ids))
    count = len(ids) * shape.overrides
    segment_ids = _popular(rng, len(ids), shape).ravel()
    on_rollout = np.zeros(count, np.bool_)
    if shape.rollout_every:
        on_rollout = (segment_ids - 1) % shape.rollout_every == 0
    included = ~(on_rollout & (rng.random(count) < EXCLUDED_SHARE))
    begun = np.repeat(registered_at, shape.overrides)
    since = begun + 1 + (rng.random(count) * (calendar.month_begins - _DAY - begun)).astype(np.int64)
    ends = calendar.now + rng.integers(30 * _DAY, 365 * _DAY, count)
    until = np.where(included & (rng.random(count) < TERM_SHARE), ends, 0)
    return Users(ids, registered_at), Overrides(
        np.repeat(ids, shape.overrides), segment_ids, included, since, until
    )


def _popular(rng: np.random.Generator, users: int, shape: Shape) -> NDArray[np.int64]:
    """Segment ids, a row for each user and a column for each override, ascending and distinct in each row.

    The ranks are divided into as many strata of about the same weight, and each stratum gives one. So no draw
    repeats another, and a segment's size still follows its weight.
    """
    cumulative = np.cumsum(1.0 / (np.arange(shape.segments) + 1 + FLAT_HEAD))
    bounds = np.searchsorted(cumulative, np.linspace(0, cumulative[-1], shape.overrides + 1)[1:-1])
    begins = np.concatenate([[0], bounds])
    ends = np.concatenate([bounds, [shape.segments]])
    lowest = np.where(begins > 0, cumulative[begins - 1], 0.0)
    drawn = lowest + rng.random((users, shape.overrides)) * (cumulative[ends - 1] - lowest)
    ranks = np.searchsorted(cumulative, drawn, side="right").clip(begins, ends - 1)
    ids: NDArray[np.int64] = ranks.astype(np.int64) + 1
    return ids
