"""The core: a call as a value, and how its answer is read. It does no I/O; both clients are around it."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Generic, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from segmentd_client import errors

Result = TypeVar("Result")
Body = TypeVar("Body")

API: Final = "/api/v1"
JSON: Final = "application/json"


class Answer(NamedTuple):
    """What came back. The names of `headers` are in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def age_s(self) -> int:
        """How many seconds old it may be."""
        age = self.headers.get("age", "")
        return int(age) if age.isdecimal() else 0


@dataclass(frozen=True)
class Call(Generic[Result]):
    """A request and how its answer is read.

    `can_repeat`: sent twice, it does what it does once, and has the same answer. `wait_s`: how long the
    service may hold the answer back, in seconds, on top of the client's own time limit.
    """

    method: str
    path: str
    read: Callable[[Answer], Result]
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    can_repeat: bool = False
    wait_s: float = 0

    @property
    def all_headers(self) -> dict[str, str]:
        """The headers, with that of a JSON body."""
        accept = {"accept": f"{JSON}, application/problem+json", **self.headers}
        return accept if self.body is None else {"content-type": JSON, **accept}


def path(*parts: str | int) -> str:
    """A path below the API's base; whatever a part contains, it stays one part.

    Raises ValueError for a part that no address can have.
    """
    quoted = [quote(str(part), safe="") for part in parts]
    if any(part in {"", ".", ".."} for part in quoted):
        raise ValueError(f"{parts!r} cannot stand in an address")
    return "/".join([API, *quoted])


def query(**parameters: str | float | datetime | bool | None) -> dict[str, str]:
    """A query without what is None. Raises ValueError for a time without an offset."""
    return {name.rstrip("_"): written(value) for name, value in parameters.items() if value is not None}


def written(value: str | float | datetime | bool) -> str:  # noqa: FBT001 - a value, not a switch
    """A value as it stands in a query."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return in_utc(value).isoformat() if isinstance(value, datetime) else str(value)


def in_utc(moment: datetime) -> datetime:
    """The moment, which must have an offset. Raises ValueError."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no offset: give it a time zone, such as UTC")
    return moment


def encoded(value: object) -> bytes:
    """A body in JSON."""
    return msgspec.json.encode(value)


def decoded(kind: type[Body]) -> Callable[[Answer], Body]:
    """Reads an answer's body as a value of this type."""
    decoder = msgspec.json.Decoder(kind)

    def read(answer: Answer) -> Body:
        check(answer)
        try:
            return decoder.decode(answer.body)
        except msgspec.DecodeError as error:
            raise errors.UnexpectedAnswer(f"the answer cannot be read: {error}") from None

    return read


def nothing(answer: Answer) -> None:
    """Reads an answer without a body."""
    check(answer)


def check(answer: Answer) -> None:
    """Raises the Problem of an answer that is a refusal, and UnexpectedAnswer for a redirection."""
    if answer.status >= 400:  # noqa: PLR2004 - where HTTP's errors begin
        raise problem(answer)
    if answer.status >= 300 and answer.status != 304:  # noqa: PLR2004 - and its redirections, but "not modified"
        raise errors.UnexpectedAnswer(f"the answer has the status {answer.status}; is the address right?")


def problem(answer: Answer) -> errors.ClientError:
    """The exception for a refusal."""
    try:
        members = msgspec.json.decode(answer.body, type=dict[str, Any])
    except msgspec.DecodeError:
        members = {}
    after = answer.headers.get("retry-after", "")
    retry_after_s = float(after) if after.isdecimal() else None
    kind = str(members.get("type", "")).removeprefix("/problems/")
    if kind in errors.KINDS:
        return errors.KINDS[kind](answer.status, members, retry_after_s)
    if "errorCode" in members:  # OpenFeature's form
        return errors.Problem(
            answer.status, {**members, "detail": members.get("errorDetails")}, retry_after_s
        )
    if answer.status in {502, 503, 504}:  # a proxy on the way to the service
        members = {"title": "Unavailable", "detail": f"the answer has the status {answer.status}"}
        return errors.Unavailable(answer.status, members, retry_after_s)
    return errors.UnexpectedAnswer(f"the answer has the status {answer.status}, and is not this service's")


_REFUSED: Final = (errors.TooManyRequests, errors.IdempotencyKeyInUse)
"""Nothing was done, so any call may be sent again."""

_PASSING: Final = (errors.Unavailable, errors.AnswerLost)
"""It may pass, but something may have been done."""


@dataclass(frozen=True)
class Retries:
    """When a call is sent again: up to `most` times, after pauses that double from `first_s` to `longest_s`.

    Each pause is between half of that and all of it, by chance, so that many clients do not come back at
    once. `Retry-After` is honoured; where it asks for more than `longest_wait_s`, the problem is raised.
    A call whose first sending may have been carried out is sent again only if that is safe.
    """

    most: int = 4
    first_s: float = 0.1
    longest_s: float = 5
    longest_wait_s: float = 60

    def may_pass(self, error: errors.ClientError, *, can_repeat: bool) -> bool:
        """Whether it is safe to send the call again, and may help."""
        if isinstance(error, (errors.NotSent, *_REFUSED)):
            return True
        return can_repeat and isinstance(error, _PASSING)

    def pause_s(self, attempt: int, error: errors.ClientError, *, can_repeat: bool) -> float | None:
        """How many seconds to wait after failure number `attempt` (from 0 on); None: give up."""
        if attempt >= self.most or not self.may_pass(error, can_repeat=can_repeat):
            return None
        return self.backed_off(attempt, error)

    def backed_off(self, attempt: int, error: errors.ClientError) -> float | None:
        """The pause before a repetition; None if the service asks for a longer one than it may be."""
        asked = error.retry_after_s or 0 if isinstance(error, errors.Problem) else 0
        if asked > self.longest_wait_s:
            return None
        own: float = min(self.longest_s, self.first_s * 2.0 ** min(attempt, 30))
        return asked + own * random.uniform(0.5, 1)  # noqa: S311 - it spreads clients, it guards nothing


NO_RETRIES: Final = Retries(most=0)
"""Every call is sent once."""
