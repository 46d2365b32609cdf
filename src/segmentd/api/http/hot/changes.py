"""Plain changes of one user's segments, answered without the framework (docs/decisions/0056).

This stands behind the request middleware, so ids, limits, metrics and the log line are those of every other
request; only the way to the use case and back is short. Whatever is unusual goes, before anything is changed,
to the framework's handler (api/http/resources/memberships.py), which gives the same bytes for the plain case.
"""

from typing import Final

import msgspec
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from segmentd.api.http.edge.errors import ProblemAnswer, failure, refusal
from segmentd.api.http.edge.guard import admit
from segmentd.api.http.hot.plain import (
    ACTS_FOR,
    EXPECT,
    USER_SEGMENTS,
    Noted,
    is_plain_address,
    is_plain_json,
    noted,
    replayed,
    user_in,
    whole_body,
)
from segmentd.api.http.resources.memberships import ChangedBody, MembershipChange, change_user_segments
from segmentd.api.http.strict_json import check_unambiguous
from segmentd.api.http.types import Ids
from segmentd.auth.authenticator import Authenticator
from segmentd.domain.access import Actor
from segmentd.domain.errors import Invalid, SegmentdError
from segmentd.domain.identifiers import INT64_MAX, UserId
from segmentd.domain.memberships import Change, Changed
from segmentd.service import Service

OPERATION: Final = change_user_segments.handler_name

# A thousand slugs of usual length take 25,000 bytes; the framework reads larger bodies.
_LONGEST_CHANGE: Final = 2**16

_UNUSUAL: Final = frozenset({ACTS_FOR, EXPECT})


class PlainChanges:
    """Reads the bodies of plain changes, and writes those of their answers."""

    def __init__(self) -> None:
        self._bodies = msgspec.json.Decoder(MembershipChange)
        self._encode = msgspec.json.Encoder().encode

    def read(self, body: bytes) -> Change | None:
        """The change in a body; None where the framework has to read it and to say what is wrong."""
        if len(body) > _LONGEST_CHANGE:
            return None
        try:
            wanted = self._bodies.decode(body)
            if not _has_each_key_once(body, wanted):
                check_unambiguous(body)
            return wanted.to_change()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Invalid):
            return None

    def encoded(self, changed: Changed) -> bytes:
        """The body of an answer."""
        return self._encode(ChangedBody.of(changed, Ids.NUMBER))


class HotChanges:
    """An ASGI application in front of the framework's, to which all falls through that is not plain."""

    def __init__(self, app: ASGIApp, service: Service, authenticator: Authenticator) -> None:
        self._app = app
        self._service = service
        self._authenticator = authenticator
        self._plain = PlainChanges()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_plain_address(scope) and scope["method"] == "POST":
            headers = noted(scope["headers"])
            user_id = None if headers is None else user_to_change(scope["path"], headers)
            if user_id is not None:
                await self._take(scope, receive, send, user_id)
                return
        await self._app(scope, receive, send)

    async def _take(self, scope: HTTPScope, receive: Receive, send: Send, user_id: UserId) -> None:
        scope["path_template"] = USER_SEGMENTS  # as the framework names the route
        try:
            caller = admit(scope, self._authenticator, OPERATION)
        except SegmentdError as error:
            await _refuse(send, refusal(scope, error))
            return
        message = await receive()
        body = whole_body(message)
        if body is None or (change := self._plain.read(body)) is None:
            await self._app(scope, replayed(message, receive), send)
            return
        try:
            changed = await self._service.change_memberships(user_id, change, Actor(caller.name))
        except SegmentdError as error:
            await _refuse(send, refusal(scope, error))
        except Exception as error:  # noqa: BLE001 - a bug, which is answered as the framework does
            await _refuse(send, failure(scope, error))
        else:
            body = self._plain.encoded(changed)
            await _send(send, 200, [(b"content-type", b"application/json"), length_of(body)], body)


def user_to_change(path: str, headers: Noted) -> UserId | None:
    """The user, if path and headers are those of a plain change."""
    user_id = user_in(path)
    if user_id is None or user_id > INT64_MAX:
        return None
    return user_id if is_plain_json(headers) and _UNUSUAL.isdisjoint(headers) else None


def _has_each_key_once(body: bytes, wanted: MembershipChange) -> bool:
    """Whether counting colons shows that no key is there twice (docs/decisions/0038).

    Without escapes and terms, a colon ends a key or is part of the reason: slugs have none.
    """
    if b"\\" in body or not {*map(type, wanted.add)} <= {str}:
        return False
    keys = bool(wanted.add) + bool(wanted.remove) + (wanted.reason is not None)
    return body.count(b":") == keys + (wanted.reason or "").count(":")


async def _refuse(send: Send, answer: ProblemAnswer) -> None:
    await _send(send, answer.document.status, headers_of(answer), answer.document.body)


def headers_of(answer: ProblemAnswer) -> list[tuple[bytes, bytes]]:
    """The headers of a refusal, those of its body included."""
    lines = {"Content-Type": answer.document.media_type, **answer.headers}.items()
    headers = [(name.lower().encode(), value.encode()) for name, value in lines]
    return [*headers, length_of(answer.document.body)]


def length_of(body: bytes) -> tuple[bytes, bytes]:
    """The header with the length of a body."""
    return b"content-length", b"%d" % len(body)


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
