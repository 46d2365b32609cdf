"""Parameters, and values that several bodies share."""

import enum
from datetime import datetime
from typing import Annotated, Any, Final, get_args

from litestar import Request
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import PathParameter, QueryParameter
from msgspec import Meta, Struct

from segmentd.domain.errors import Fault, Invalid, read
from segmentd.domain.identifiers import Slug, SlugValue, UserId, UserIdText, UserIdValue, read_user_id
from segmentd.domain.instants import read_instant, rfc3339
from segmentd.domain.pages import Limit, LimitValue
from segmentd.service import Service

AnyRequest = Request[object, object, State]
# The only dependency of most handlers: with two of them Litestar makes a task for each.
UseCases = NamedDependency[Service]


def bounds(value_type: object) -> dict[str, Any]:
    """The bounds of a type of the domain, for a parameter: there Litestar does not look at msgspec's Meta."""
    [meta] = [found for found in get_args(value_type) if isinstance(found, Meta)]
    names = ("ge", "le", "min_length", "max_length", "pattern")
    return {name: bound for name in names if (bound := getattr(meta, name)) is not None}


_BEYOND_JAVASCRIPT: Final = (
    "from 1 to 2^63 - 1; above 2^53 a number of JavaScript loses its last digits: see ids=string"
)
UserIdNumber = Annotated[UserIdValue, Meta(description=_BEYOND_JAVASCRIPT)]
UserIdString = Annotated[UserIdText, Meta(description="with ids=string: the same in digits, as a string")]
# Said of both, for Litestar's document leaves out what is said of the parts of a union.
WrittenId = Annotated[UserIdNumber | UserIdString, Meta(description=_BEYOND_JAVASCRIPT)]
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
        return read(read_user_id, written, pointer)


INSTANT: Final = "RFC 3339, with an offset"

UserIdParameter = Annotated[UserId, PathParameter(**bounds(UserIdValue), description="from 1 to 2^63 - 1")]
SlugParameter = Annotated[Slug, PathParameter(**bounds(SlugValue), description="a segment's slug")]
LimitParameter = Annotated[Limit, QueryParameter(**bounds(LimitValue), description="rows of a page, at most")]
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
    """A request's body; an unknown field is an error."""


def instant(name: str, text: str | None) -> datetime | None:
    """A query parameter as an instant in UTC. Raises Invalid."""
    if text is None:
        return None
    try:
        return read_instant(text)
    except ValueError as error:
        hint = "; mind that + is %2B in a URL" if " " in text else ""
        raise Invalid(Fault(f"/{name}", f"{error}{hint}")) from None


def instant_text(moment: datetime | None) -> str | None:
    """An instant as clients see it, or None."""
    return None if moment is None else rfc3339(moment)
