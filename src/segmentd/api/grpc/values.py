"""Values of messages in the words of the domain, with the domain's own bounds."""

from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp

from segmentd.domain.errors import Fault, Invalid, read
from segmentd.domain.identifiers import Slug, SlugValue, UserId, UserIdValue
from segmentd.domain.instants import in_utc
from segmentd.domain.pages import USUAL_PAGE, Limit, LimitValue
from segmentd.domain.wording import fault_of

Value = TypeVar("Value")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def valid(value: object, value_type: type[Value], field: str) -> Value:
    """The value, if it is within the bounds of its type. Raises Invalid."""
    try:
        return msgspec.convert(value, value_type)
    except msgspec.ValidationError as error:
        fault = fault_of(str(error))
        raise Invalid(Fault(f"{'/' if field else ''}{field}{fault.pointer}", fault.detail)) from None


def user_id(value: int, field: str = "user_id") -> UserId:
    """The id of a user. Raises Invalid."""
    found: UserId = valid(value, UserIdValue, field)
    return found


def slug(value: str, field: str = "slug") -> Slug:
    """The slug of a segment. Raises Invalid."""
    found: Slug = valid(value, SlugValue, field)
    return found


def limit(page_size: int) -> Limit:
    """How many items a page has; 0 is the usual number. Raises Invalid."""
    if page_size == 0:
        return USUAL_PAGE
    found: Limit = valid(page_size, LimitValue, "page_size")
    return found


def cursor(page_token: str) -> str | None:
    """Where a page begins; None: at the first item."""
    return page_token or None


def instant(given: Timestamp, field: str) -> datetime:
    """An instant, to the microsecond. Raises Invalid for one out of the years 1 to 9999."""

    def parse(stamp: Timestamp) -> datetime:
        try:
            moment = _EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1000)
        except OverflowError:
            raise ValueError("must be a time of the years 1 to 9999") from None
        return in_utc(moment)

    return read(parse, given, f"/{field}")


def stamp(moment: datetime) -> Timestamp:
    """An instant as a message."""
    since = moment - _EPOCH
    return Timestamp(seconds=since // timedelta(seconds=1), nanos=since.microseconds * 1000)
