"""Calls of /segments."""

from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Final, Literal

from segmentd_client.core import Call, decoded, encoded, nothing, path, query
from segmentd_client.models import Counts, MemberPage, Preview, Segment, SegmentPage

Percent = float | Decimal
"""From 0 to 100, with at most four decimals."""


class Unset(Enum):
    """What stands for an argument that is not given, where None has a meaning."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
Given = Literal[Unset.UNSET]

_SEGMENT: Final = decoded(Segment)
_PAGE: Final = decoded(SegmentPage)
_MEMBERS: Final = decoded(MemberPage)
_COUNTS: Final = decoded(Counts)
_PREVIEW: Final = decoded(Preview)


def create(
    slug: str, description: str | None, percent: Percent | None, salt: int | str | None
) -> Call[Segment]:
    fields = {
        "description": description,
        "percent": _number(percent),
        "salt": None if salt is None else str(salt),
    }
    body = {"slug": slug, **{name: value for name, value in fields.items() if value is not None}}
    return Call("POST", path("segments"), _SEGMENT, body=encoded(body))


def page(limit: int | None, cursor: str | None) -> Call[SegmentPage]:
    return Call("GET", path("segments"), _PAGE, query(limit=limit, cursor=cursor), can_repeat=True)


def get(slug: str) -> Call[Segment]:
    return Call("GET", path("segments", slug), _SEGMENT, can_repeat=True)


def update(
    slug: str, new_slug: str | None, description: str | None, percent: Percent | Given | None
) -> Call[Segment]:
    body: dict[str, str | float | None] = {}
    if new_slug is not None:
        body["slug"] = new_slug
    if description is not None:
        body["description"] = description
    if percent is not UNSET:
        body["percent"] = _number(percent)
    # A rename that is sent again does not find the old slug any more.
    return Call("PATCH", path("segments", slug), _SEGMENT, body=encoded(body), can_repeat=new_slug is None)


def delete(slug: str) -> Call[None]:
    return Call("DELETE", path("segments", slug), nothing)


def members(slug: str, at: datetime | None, limit: int | None, cursor: str | None) -> Call[MemberPage]:
    asked = query(at=at, limit=limit, cursor=cursor)
    return Call("GET", path("segments", slug, "users"), _MEMBERS, asked, can_repeat=True)


def counts(slug: str, at: datetime | None) -> Call[Counts]:
    return Call("GET", path("segments", slug, "counts"), _COUNTS, query(at=at), can_repeat=True, wait_s=60)


def preview(slug: str, percent: Percent | None) -> Call[Preview]:
    body = encoded({"percent": _number(percent)})
    return Call("POST", path("segments", slug, "preview"), _PREVIEW, body=body, can_repeat=True, wait_s=60)


def export(slug: str, form: str, at: datetime | None, *, header: bool) -> Call[None]:
    """The answer is a stream, so only its refusals are read."""
    asked = query(format=form, at=at, header=header or None)
    accept = {"accept": "text/csv, application/x-ndjson, application/problem+json"}
    return Call("GET", path("segments", slug, "export"), nothing, asked, accept, can_repeat=True, wait_s=60)


def _number(percent: Percent | None) -> float | None:
    return float(percent) if isinstance(percent, Decimal) else percent
