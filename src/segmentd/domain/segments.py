"""A segment and its percentage."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Final, NewType

import msgspec

from segmentd.domain.identifiers import Salt, Slug
from segmentd.domain.texts import Description

Percent = Decimal
"""From 0 to 100, with at most four decimals."""

PercentValue = Annotated[
    float, msgspec.Meta(ge=0, le=100, description="with at most four decimals", examples=[10])
]
"""As it is in JSON. `exact_percent` checks the rest."""

Bucket = NewType("Bucket", int)
"""Where a user falls in a rollout: 0 to 2^32 - 1."""

Threshold = NewType("Threshold", int)
"""The first bucket that is outside of a rollout: 0 to 2^32."""


class NewSegment(msgspec.Struct, frozen=True):
    """A segment to make."""

    slug: Slug
    description: Description
    percent: Percent | None
    salt: Salt


class Segment(msgspec.Struct, frozen=True):
    """A named set of users. `percent` is None if it has no rollout."""

    slug: Slug
    description: Description
    percent: Percent | None
    salt: Salt
    created_at: datetime


class SegmentUpdate(msgspec.Struct, frozen=True):
    """The new values; UNSET leaves a value as it is, and `percent` None ends the rollout."""

    slug: Slug | msgspec.UnsetType = msgspec.UNSET
    description: Description | msgspec.UnsetType = msgspec.UNSET
    percent: Percent | msgspec.UnsetType | None = msgspec.UNSET


NOTHING_SEEN: Final = SegmentUpdate()
"""For a change that holds whatever the values were; else those that must not have changed meanwhile."""


def exact_percent(number: float) -> Percent:
    """A JSON number as a percentage. Raises ValueError unless it is 0 to 100 with at most four decimals."""
    percent = Decimal(repr(number))
    if not 0 <= percent <= 100:  # noqa: PLR2004 - a hundred per cent
        raise ValueError("a percentage is from 0 to 100")
    if percent != percent.quantize(Decimal("0.0001")):
        raise ValueError("a percentage has at most four decimals")
    return percent


def shortest(percent: Percent) -> int | float:
    """The JSON number for a percentage in its shortest form: 10 for 10.0000, 12.5 for 12.5000."""
    return int(percent) if percent == percent.to_integral_value() else float(percent)
