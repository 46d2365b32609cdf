"""What makes a request plain: its address, its headers, and its body in one message."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final, TypeGuard

from litestar.enums import ScopeType
from litestar.types import HTTPScope, Receive, Scope
from litestar.types.asgi_types import ReceiveMessage

from segmentd.api.http.edge.guard import AUTHORIZATION, ON_BEHALF_OF
from segmentd.api.http.edge.request_ids import HEADER
from segmentd.domain.identifiers import USER_ID_DIGITS, UserId

BEFORE_ID: Final = "/api/v1/users/"
AFTER_ID: Final = "/segments"
USER_SEGMENTS: Final = f"{BEFORE_ID}{{user_id}}{AFTER_ID}"

Noted = Mapping[bytes, bytes]

EXPECT: Final = b"expect"
# The headers that the framework checks in a request with a body. It does not ask for the body of a client
# that it refuses (Expect).
_UNUSUAL_WITH_A_BODY: Final = frozenset({b"content-encoding", b"origin", b"sec-fetch-site", EXPECT})
ACTS_FOR: Final = ON_BEHALF_OF.lower().encode()
NOTED: Final = frozenset({AUTHORIZATION, b"content-type", HEADER, ACTS_FOR}) | _UNUSUAL_WITH_A_BODY
"""The headers that matter in a request with a body."""

# The framework checks everything else about ids.
_PLAIN_ID: Final = re.compile(USER_ID_DIGITS)


def is_plain_address(scope: Scope) -> TypeGuard[HTTPScope]:
    """Whether this is a request whose address has no query and no escapes."""
    return scope["type"] == ScopeType.HTTP and not scope["query_string"] and b"%" not in scope["raw_path"]


def user_in(path: str) -> UserId | None:
    """The user whose segments have this address; None if it is another address, or the id is not plain."""
    if not (path.endswith(AFTER_ID) and path.startswith(BEFORE_ID)):
        return None
    text = path[len(BEFORE_ID) : -len(AFTER_ID)]
    return UserId(int(text)) if _PLAIN_ID.fullmatch(text) else None


def noted(
    headers: Iterable[tuple[bytes, bytes]], unusual: Collection[bytes] = (), which: Collection[bytes] = NOTED
) -> Noted | None:
    """The headers that matter, `which`; None if one is `unusual`, or is there twice."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in unusual or name in found:
            return None
        if name in which:
            found[name] = value
    return found


def is_plain_json(headers: Noted) -> bool:
    """Whether a body with these headers is JSON, with no parameters, and nothing about it is unusual."""
    return headers.get(b"content-type") == b"application/json" and _UNUSUAL_WITH_A_BODY.isdisjoint(headers)


def whole_body(message: ReceiveMessage) -> bytes | None:
    """The body, if this message has all of it."""
    return message["body"] if message["type"] == "http.request" and not message["more_body"] else None


def replayed(message: ReceiveMessage, receive: Receive) -> Receive:
    """Receives this message again, and then those after it."""
    received = False

    async def again() -> ReceiveMessage:
        nonlocal received
        if received:
            return await receive()
        received = True
        return message

    return again
