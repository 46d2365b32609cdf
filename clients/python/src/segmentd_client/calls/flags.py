"""Calls of OpenFeature's remote evaluation: a segment is a boolean flag under its slug."""

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote

import msgspec

from segmentd_client.core import Answer, Call, decoded, encoded

_BASE: Final = "/ofrep/v1/evaluate/flags"


class Flag(msgspec.Struct, frozen=True):
    """Whether a user is in a segment, as OpenFeature says it."""

    key: str
    value: bool
    variant: str
    reason: str
    metadata: Mapping[str, str | float | bool]


class Flags(msgspec.Struct, frozen=True):
    """The flags of every living segment for one user. `etag` names this state of them."""

    flags: Sequence[Flag]
    etag: str = ""


_FLAG: Final = decoded(Flag)
_FLAGS: Final = decoded(Flags)


def evaluate(slug: str, user_id: int) -> Call[Flag]:
    return Call("POST", f"{_BASE}/{quote(slug, safe='')}", _FLAG, body=_context(user_id), can_repeat=True)


def evaluate_all(user_id: int, etag: str | None) -> Call[Flags | None]:
    """None: they are still what they were under this tag."""
    headers = {} if etag is None else {"if-none-match": etag}
    return Call("POST", _BASE, _tagged, headers=headers, body=_context(user_id), can_repeat=True)


def _context(user_id: int) -> bytes:
    return encoded({"context": {"targetingKey": str(user_id)}})


def _tagged(answer: Answer) -> Flags | None:
    if answer.status == 304:  # noqa: PLR2004 - not modified
        return None
    return msgspec.structs.replace(_FLAGS(answer), etag=answer.headers.get("etag", ""))
