"""How many users are in a segment, and whom another percentage would move; of the registered users."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from segmentd.domain.identifiers import Slug, UserId
from segmentd.domain.segments import Percent

MOST_SAMPLED: Final = 20
"""Users in each sample of a preview."""


class Tally(msgspec.Struct, frozen=True):
    """What is counted in one moment, under one percentage."""

    registered: int
    explicit: int
    """Overrides that include."""
    excluded: int
    """Overrides that exclude."""
    covered: int
    """Users whose buckets are below the threshold."""
    overridden: int
    """Those among the covered for whom an override decides."""

    @property
    def by_percentage(self) -> int:
        """Users who are in because of the percentage alone."""
        return self.covered - self.overridden

    @property
    def members(self) -> int:
        """All who are in: an override decides, else the percentage."""
        return self.explicit + self.by_percentage


class Counts(msgspec.Struct, frozen=True):
    """The figures of a segment at an instant."""

    slug: Slug
    at: datetime
    tally: Tally


class Preview(msgspec.Struct, frozen=True):
    """What a change of the percentage would do now.

    The users below the smaller threshold are below the larger one too, so a change lets users in or takes
    users out, never both.
    """

    percent_before: Percent | None
    percent_after: Percent | None
    before: Tally
    after: Tally
    sample: Sequence[UserId]
    """Some of those whom it moves."""

    @property
    def enter(self) -> int:
        """How many would get in."""
        return max(0, self.after.by_percentage - self.before.by_percentage)

    @property
    def leave(self) -> int:
        """How many would get out."""
        return max(0, self.before.by_percentage - self.after.by_percentage)

    @property
    def stay(self) -> int:
        """How many are in and would stay, the pinned too."""
        return min(self.before.members, self.after.members)
