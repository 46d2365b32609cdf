"""What appears in requests and answers: parameters, and values common to several bodies."""

import enum
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
from segmentd.domain.identifiers import INT64_MAX, SLUG_PATTERN, USER_ID_PATTERN, Slug, UserId
from segmentd.domain.instants import in_utc, rfc3339
from segmentd.domain.pages import LARGEST_PAGE
from segmentd.service import Service

AnyRequest = Request[object, object, State]
# The only dependency of most handlers: Litestar makes a task for each where there are two.
UseCases = NamedDependency[Service]

_BEYOND_JAVASCRIPT: Final = (
    "from 1 to 2^63 - 1; above 2^53 a number of JavaScript loses its last digits: see ids=string"
)
UserIdValue = Annotated[UserId, Meta(ge=1, le=INT64_MAX, description=_BEYOND_JAVASCRIPT, examples=[1000])]
UserIdText = Annotated[
    str,
    Meta(
        pattern=USER_ID_PATTERN,
        description="with ids=string: the same in digits, as a string",
        examples=["1000"],
    ),
]
# Said of both, for Litestar's document leaves out what is said of the parts of a union.
WrittenId = Annotated[UserIdValue | UserIdText, Meta(description=_BEYOND_JAVASCRIPT)]
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


class Ids(enum.StrEnum):
    """How the ids of users are written in the answer, and may be written in the body."""

    NUMBER = "number"
    STRING = "string"

    def write(self, user_id: UserId) -> WrittenId:
        """An id as the answer has it."""
        return str(user_id) if self is Ids.STRING else user_id

    def read(self, written: WrittenId, pointer: str) -> UserId:
        """An id of the body. Raises Invalid for a string that was not asked for, or is too large."""
        if not isinstance(written, str):
            return written
        if self is not Ids.STRING:
            raise Invalid(
                Fault(pointer, "must be an integer, not a string; with ids=string in the query it may be one")
            )
        if int(written) > INT64_MAX:
            raise Invalid(Fault(pointer, f"must be at most {INT64_MAX}"))
        return UserId(int(written))


INSTANT: Final = "RFC 3339, with an offset"

UserIdParameter = Annotated[UserId, PathParameter(ge=1, le=INT64_MAX, description="from 1 to 2^63 - 1")]
SlugParameter = Annotated[
    Slug, PathParameter(min_length=1, max_length=128, pattern=SLUG_PATTERN, description="a segment's slug")
]
LimitParameter = Annotated[int, QueryParameter(ge=1, le=LARGEST_PAGE, description="rows of a page, at most")]
CursorParameter = Annotated[str | None, QueryParameter(description="next_cursor of the page before; opaque")]
IdsParameter = Annotated[
    Ids,
    QueryParameter(
        description="string: ids of users are strings of digits in the answer, and may be in the body, "
        "for languages whose numbers lose digits above 2^53, such as JavaScript"
    ),
]
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
