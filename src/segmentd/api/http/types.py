"""What appears in requests and answers: parameters, and values common to several bodies."""

from datetime import datetime
from typing import Annotated, Final

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import PathParameter, QueryParameter
from msgspec import Meta, Struct

from segmentd.api.http.wording import WRITE_A_TIME
from segmentd.domain.errors import Fault, Invalid
from segmentd.domain.identifiers import INT64_MAX, SLUG_PATTERN, Slug, UserId
from segmentd.domain.instants import in_utc, rfc3339
from segmentd.domain.pages import LARGEST_PAGE
from segmentd.service import Service

AnyRequest = Request[object, object, State]
# The only dependency of most handlers: Litestar makes a task for each where there are two.
UseCases = NamedDependency[Service]

UserIdValue = Annotated[UserId, Meta(ge=1, le=INT64_MAX, description="from 1 to 2^63 - 1", examples=[1000])]
SlugValue = Annotated[
    Slug,
    Meta(
        min_length=1,
        max_length=128,
        pattern=SLUG_PATTERN,
        description="1 to 128 of A-Z a-z 0-9 _ . -, beginning with a letter or a digit",
        examples=["AVITO_VOICE_MESSAGES"],
    ),
]
InstantText = Annotated[
    str, Meta(description="RFC 3339, UTC, microseconds", extra_json_schema={"format": "date-time"})
]

INSTANT: Final = "RFC 3339, with an offset"

UserIdParameter = Annotated[UserId, PathParameter(ge=1, le=INT64_MAX, description="from 1 to 2^63 - 1")]
SlugParameter = Annotated[
    Slug, PathParameter(min_length=1, max_length=128, pattern=SLUG_PATTERN, description="a segment's slug")
]
LimitParameter = Annotated[int, QueryParameter(ge=1, le=LARGEST_PAGE, description="rows of a page, at most")]
CursorParameter = Annotated[str | None, QueryParameter(description="next_cursor of the page before; opaque")]
InstantParameter = Annotated[str | None, QueryParameter(description=INSTANT)]


class RequestBody(Struct, frozen=True, forbid_unknown_fields=True):
    """A request's body: a field that nobody knows is a mistake, not a wish."""


def instant(name: str, text: str | None) -> datetime | None:
    """A query parameter as an instant in UTC. Raises Invalid."""
    if text is None:
        return None
    try:
        return in_utc(msgspec.convert(text, Annotated[datetime, Meta(tz=True)]))
    except ValueError:
        hint = "; mind that + is %2B in a URL" if " " in text else ""
        raise Invalid(Fault(f"/{name}", WRITE_A_TIME + hint)) from None


def instant_text(moment: datetime | None) -> str | None:
    """An instant as clients see it, None where there is none."""
    return None if moment is None else rfc3339(moment)
