"""Exports: everybody in a segment at one instant, as a stream."""

import enum
from datetime import datetime

import msgspec

from segmentd.domain.identifiers import Slug


class ExportFormat(enum.StrEnum):
    """How the members are written: a line each."""

    CSV = "csv"
    NDJSON = "ndjson"


class ExportOrder(msgspec.Struct, frozen=True):
    """What is asked for. `at` None: now. `text_ids`: ids in NDJSON are strings."""

    slug: Slug
    at: datetime | None = None
    format: ExportFormat = ExportFormat.CSV
    header: bool = False
    text_ids: bool = False


class ExportLimits(msgspec.Struct, frozen=True):
    """How many exports a process sends at once, and for how long each may run."""

    at_once: int = 2
    seconds: float = 1800
