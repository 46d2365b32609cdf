"""The hot calls straight on ASGI: `GET /users/{id}/segments` without a query, and `POST /lookup`.

Only the plain case is answered here, with a 200 from a copy that is fresh enough. Whatever is unusual falls
through to the framework's handlers (api/http/memberships.py), which give the same bytes for the plain case.
"""

from typing import Final

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send
from litestar.types.asgi_types import HTTPRequestEvent, ReceiveMessage

from segmentd.api.http.memberships import LookupRequest
from segmentd.domain.identifiers import INT64_MAX
from segmentd.replica.replica import Replica
from segmentd.replica.store import Unusable

BEFORE_ID: Final = "/api/v1/users/"
AFTER_ID: Final = "/segments"
LOOKUP: Final = "/api/v1/lookup"
USER_SEGMENTS: Final = f"{BEFORE_ID}{{user_id}}{AFTER_ID}"

_LONGEST_ID: Final = len(str(INT64_MAX))
# A thousand ids take 21,000 bytes; what is larger is full of blanks, or too large.
_LONGEST_LOOKUP: Final = 2**16


class HotPath:
    """An ASGI application in front of the framework's."""

    def __init__(self, app: ASGIApp, replica: Replica) -> None:
        self._app = app
        self._replica = replica
        self._lookups = msgspec.json.Decoder(LookupRequest)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["query_string"]:
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if scope["method"] == "GET" and path.endswith(AFTER_ID) and path.startswith(BEFORE_ID):
            answer = self.user(path[len(BEFORE_ID) : -len(AFTER_ID)])
            if answer is not None:
                scope["path_template"] = USER_SEGMENTS  # as the framework names the route
                await _send(send, *answer)
                return
        elif scope["method"] == "POST" and path == LOOKUP and _is_plain_json(scope):
            await self._look_up(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def user(self, text: str) -> tuple[bytes, int] | None:
        """The body and its age for the id in a path; None: it is for the framework to answer."""
        # Digits, no leading zero: everything else about ids is for the framework to judge.
        if not (text.isascii() and text.isdecimal() and text[0] != "0" and len(text) <= _LONGEST_ID):
            return None
        user_id = int(text)
        age = self._replica.age()
        if age is None or user_id > INT64_MAX:
            return None
        try:
            slugs = self._replica.segments(user_id)
        except Unusable:
            return None
        return b'{"user_id":%d,"segments":[%b]}' % (user_id, b",".join(slugs)), age

    async def _look_up(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        message = await receive()
        answer = self._users(message) if message["type"] == "http.request" else None
        if answer is not None:
            scope["path_template"] = LOOKUP
            await _send(send, *answer)
            return

        heard = False

        async def again() -> ReceiveMessage:
            nonlocal heard
            if heard:
                return await receive()
            heard = True
            return message

        await self._app(scope, again, send)

    def _users(self, message: HTTPRequestEvent) -> tuple[bytes, int] | None:
        age = self._replica.age()
        body = message["body"]
        if age is None or message["more_body"] or len(body) > _LONGEST_LOOKUP:
            return None
        try:
            user_ids = self._lookups.decode(body).user_ids
            found = self._replica.segments_of_many(user_ids)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Unusable):
            return None
        users = (
            b'{"user_id":%d,"segments":[%b]}' % (user_id, b",".join(slugs))
            for user_id, slugs in zip(user_ids, found, strict=True)
        )
        return b'{"users":[%b]}' % b",".join(users), age


def _is_plain_json(scope: HTTPScope) -> bool:
    """Whether the one media type is JSON, with no parameters."""
    types = [value for name, value in scope["headers"] if name == b"content-type"]
    return types == [b"application/json"]


async def _send(send: Send, body: bytes, age: int) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"age", b"%d" % age),
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})
