"""The hot calls straight on ASGI: `GET /users/{id}/segments` without a query, and `POST /lookup`.

Only the plain case is answered here: a 200 from a replica that is fresh enough, for a caller who may read.
Every other request goes on to the framework's handlers (api/http/resources/memberships.py), which answer the
same bytes for the plain case.
"""

import re
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send
from litestar.types.asgi_types import HTTPRequestEvent, ReceiveMessage

from segmentd.api.http.edge.guard import AUTHORIZATION
from segmentd.api.http.edge.request_ids import HEADER, RequestIds
from segmentd.api.http.edge.send_buffer import SMALL_ANSWER, Room
from segmentd.api.http.resources.memberships import lookup_body
from segmentd.api.http.types import RequestBody
from segmentd.auth.authenticator import Authenticator
from segmentd.domain.errors import SegmentdError
from segmentd.domain.identifiers import INT64_MAX, USER_ID_DIGITS, UserIdValue
from segmentd.domain.memberships import UsersOfLookup
from segmentd.observability.metrics import Metrics
from segmentd.replica.replica import Replica
from segmentd.replica.store import Unusable

BEFORE_ID: Final = "/api/v1/users/"
AFTER_ID: Final = "/segments"
LOOKUP: Final = "/api/v1/lookup"
USER_SEGMENTS: Final = f"{BEFORE_ID}{{user_id}}{AFTER_ID}"

# The framework checks everything else about ids.
_PLAIN_ID: Final = re.compile(USER_ID_DIGITS)
# A thousand ids take 21,000 bytes; a larger body has many blanks, or is too large.
_LONGEST_LOOKUP: Final = 2**16

# The rest of a lookup without its ids: this shows that it has no second key, and only whole numbers.
_IDS_ALONE: Final = b'{"user_ids":[]}'
_IN_IDS: Final = b"0123456789, \t\r\n"

# The headers that the framework checks in a request with a body.
_UNUSUAL_WITH_A_BODY: Final = frozenset({b"content-encoding", b"origin", b"sec-fetch-site"})
_NOTED: Final = frozenset({AUTHORIZATION, b"content-type", HEADER}) | _UNUSUAL_WITH_A_BODY


class _PlainLookup(RequestBody, frozen=True):
    """A lookup whose ids are numbers."""

    user_ids: UsersOfLookup[UserIdValue]


class HotPath:
    """An ASGI application in front of the framework's; requests with an `unusual` header are not for it."""

    def __init__(
        self,
        app: ASGIApp,
        replica: Replica,
        authenticator: Authenticator,
        ids: RequestIds,
        metrics: Metrics | None,
        unusual: Collection[bytes] = (),
        room: Room | None = None,
    ) -> None:
        self._app = app
        self._replica = replica
        self._authenticator = authenticator
        self._lookups = msgspec.json.Decoder(_PlainLookup)
        self._unusual = frozenset(unusual)
        self.ids = ids
        self.room = room or Room()
        self.reads = None if metrics is None else metrics.hot_reads
        self._hot_lookups = None if metrics is None else metrics.hot_lookups

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["query_string"] or b"%" in scope["raw_path"]:
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if scope["method"] == "GET" and path.endswith(AFTER_ID) and path.startswith(BEFORE_ID):
            await self._read(scope, receive, send, path[len(BEFORE_ID) : -len(AFTER_ID)])
        elif scope["method"] == "POST" and path == LOOKUP:
            await self._look_up(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def noted(self, headers: Iterable[tuple[bytes, bytes]]) -> Mapping[bytes, bytes] | None:
        """The headers that matter here; None if one is unusual, or is there twice."""
        noted: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in self._unusual or name in noted:
                return None
            if name in _NOTED:
                noted[name] = value
        return noted

    def user(self, user_id: int, authorization: bytes | None) -> tuple[bytes, int] | None:
        """The body for a positive id, and its age; None: the framework has to answer or refuse it."""
        age = self._replica.age()
        if age is None or user_id > INT64_MAX:
            return None
        try:
            # Every role may read, so every known caller is admitted; the framework answers the refusals.
            self._authenticator.admit(authorization)
            slugs = self._replica.segments(user_id)
        except (SegmentdError, Unusable):
            return None
        body = b'{"user_id":%d,"segments":[%b]}' % (user_id, b",".join(slugs))
        if len(body) > SMALL_ANSWER and self.room.unsent.is_reached:
            return None
        return body, age

    async def _read(self, scope: HTTPScope, receive: Receive, send: Send, text: str) -> None:
        begun = time.perf_counter_ns()
        plain = self.noted(scope["headers"])
        answer = None
        if plain is not None and _PLAIN_ID.fullmatch(text):
            answer = self.user(int(text), plain.get(AUTHORIZATION))
        if plain is None or answer is None:
            await self._app(scope, receive, send)
            return
        scope["path_template"] = USER_SEGMENTS  # as the framework names the route
        await _send(send, *answer, self.ids.id(plain.get(HEADER)))
        if self.reads is not None:
            self.reads.add(time.perf_counter_ns() - begun)

    async def _look_up(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter_ns()
        plain = self.noted(scope["headers"])
        # One media type, JSON, with no parameters.
        if (
            plain is None
            or plain.get(b"content-type") != b"application/json"
            or not _UNUSUAL_WITH_A_BODY.isdisjoint(plain)
        ):
            await self._app(scope, receive, send)
            return
        message = await receive()
        answer = None
        if message["type"] == "http.request":
            answer = await self._users(message, plain.get(AUTHORIZATION))
        if answer is not None:
            scope["path_template"] = LOOKUP
            await _send(send, *answer, self.ids.id(plain.get(HEADER)))
            if self._hot_lookups is not None:
                self._hot_lookups.add(time.perf_counter_ns() - begun)
            return

        heard = False

        async def again() -> ReceiveMessage:
            nonlocal heard
            if heard:
                return await receive()
            heard = True
            return message

        await self._app(scope, again, send)

    async def _users(
        self, message: HTTPRequestEvent, authorization: bytes | None
    ) -> tuple[bytes, int] | None:
        age = self._replica.age()
        body = message["body"]
        if age is None or message["more_body"] or len(body) > _LONGEST_LOOKUP:
            return None
        if body.translate(None, _IN_IDS) != _IDS_ALONE:
            return None
        try:
            user_ids = self._lookups.decode(body).user_ids
            self._authenticator.admit(authorization)
            found = await self._replica.segments_of_many(user_ids)
        except (SegmentdError, msgspec.DecodeError, UnicodeDecodeError, RecursionError, Unusable):
            return None
        answer = lookup_body(user_ids, found)
        if len(answer) > SMALL_ANSWER and self.room.unsent.is_reached:
            return None
        return answer, age


async def _send(send: Send, body: bytes, age: int, request_id: bytes) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (HEADER, request_id),
                (b"age", b"%d" % age),
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})
