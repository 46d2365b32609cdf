"""Evaluations answered without the framework, in whichever protocol they come.

Only the plain case is answered: a usual request of a known caller, from a replica that is fresh enough.
Whatever is unusual gives None, and goes to the framework's handlers (resources.py), which give the same bytes
for the plain case.
"""

import re
from collections.abc import Iterable
from functools import partial
from http import HTTPStatus
from typing import Final

import msgspec

from segmentd.api.http.edge.cors import Cors, Headers
from segmentd.api.http.edge.guard import API_KEY, AUTHORIZATION, bearer
from segmentd.api.http.edge.request_ids import HEADER, RequestIds
from segmentd.api.http.edge.send_buffer import SMALL_ANSWER, Room
from segmentd.api.http.hot.plain import EXPECT, Noted, noted
from segmentd.api.http.ofrep.answers import PRIVATE, is_named
from segmentd.api.http.ofrep.event_links import EventLinks
from segmentd.api.http.ofrep.failures import FLAGS
from segmentd.api.http.ofrep.flags import FlagWriter, written_flag
from segmentd.auth.authenticator import Authenticator
from segmentd.domain.errors import SegmentdError
from segmentd.domain.identifiers import INT64_MAX, USER_ID_DIGITS, UserId, UserIdText
from segmentd.observability.metrics import Metrics
from segmentd.observability.tally import Tally
from segmentd.replica.files import Unusable
from segmentd.replica.replica import Replica

FLAG: Final = f"{FLAGS}/{{key}}"

_KEY: Final = re.compile(rf"{FLAGS}/([A-Za-z0-9_.-]+)".encode())
_FLAGS: Final = FLAGS.encode()

_KEY_ALONE: Final = re.compile(
    rb'\{ ?"context": ?\{ ?"targetingKey": ?"(%b)" ?\} ?\}' % USER_ID_DIGITS.encode()
)

# The framework reads larger bodies.
_LONGEST_BODY: Final = 2**14
_JSON: Final = frozenset(
    {
        b"application/json",
        b"application/json; charset=utf-8",
        b"application/json;charset=utf-8",
        b"application/json;charset=UTF-8",
    }
)
_NONE_MATCH: Final = b"if-none-match"
_ORIGIN: Final = b"origin"
_SITE: Final = b"sec-fetch-site"
_UNUSUAL: Final = frozenset({b"content-encoding", b"x-forwarded-prefix", EXPECT})
NOTED: Final = (
    frozenset({AUTHORIZATION, API_KEY, HEADER, b"content-type", b"content-length", _NONE_MATCH, _ORIGIN})
    | {_SITE}
    | _UNUSUAL
)
"""The headers that matter here."""


class _PlainContext(msgspec.Struct, frozen=True):
    targeting_key: UserIdText = msgspec.field(name="targetingKey")


class _PlainRequest(msgspec.Struct, frozen=True):
    context: _PlainContext


class Evaluated(msgspec.Struct, frozen=True, gc=False):
    """A 200 or a 304."""

    body: bytes
    age: int
    request_id: bytes
    tally: Tally | None
    route: str
    etag: bytes | None = None
    status: int = HTTPStatus.OK
    more: Headers = ()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """As headers of ASGI."""
        return [
            (HEADER, self.request_id),
            *self.more,
            (b"age", b"%d" % self.age),
            (b"cache-control", PRIVATE),
            *([] if self.etag is None else [(b"etag", self.etag)]),
            *([] if self.status == HTTPStatus.NOT_MODIFIED else self._headers_of_body()),
        ]

    def _headers_of_body(self) -> Headers:
        return [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(self.body))]

    def head(self, server_headers: bytes) -> bytes:
        """As HTTP/1.1 without the body, with the lines of these headers first."""
        if self.status == HTTPStatus.NOT_MODIFIED or self.more:
            return b"HTTP/1.1 %b\r\n%b%b\r\n" % (
                b"304 Not Modified" if self.status == HTTPStatus.NOT_MODIFIED else b"200 OK",
                server_headers,
                b"".join([b"%b: %b\r\n" % header for header in self.headers()]),
            )
        return (
            b"HTTP/1.1 200 OK\r\n%bx-request-id: %b\r\nage: %d\r\ncache-control: %b\r\n%b"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
        ) % (
            server_headers,
            self.request_id,
            self.age,
            PRIVATE,
            b"" if self.etag is None else b"etag: %b\r\n" % self.etag,
            len(self.body),
        )


class Evaluations:
    """Reads plain requests and answers them."""

    def __init__(
        self,
        replica: Replica,
        authenticator: Authenticator,
        ids: RequestIds,
        metrics: Metrics | None,
        room: Room | None = None,
        cors: Cors | None = None,
        links: EventLinks | None = None,
        prefix: str = "",
    ) -> None:
        self._replica = replica
        self._authenticator = authenticator
        self._ids = ids
        self._room = room or Room()
        self._cors = cors or Cors()
        self._links = links
        self._prefix = prefix
        self._writer = FlagWriter()
        self._requests = msgspec.json.Decoder(_PlainRequest)
        tallied = metrics or Metrics()
        self._flag = tallied.tally("POST", FLAG, "200")
        self._flags = tallied.tally("POST", FLAGS, "200")
        self._unchanged = tallied.tally("POST", FLAGS, "304")

    @staticmethod
    def noted(headers: Iterable[tuple[bytes, bytes]]) -> Noted | None:
        """The headers that matter here; None if one is unusual, or is there twice."""
        return noted(headers, _UNUSUAL, NOTED)

    def answer(self, path: bytes, noted: Noted, body: bytes) -> Evaluated | None:
        """Answers a POST to this path, as it was sent, with these headers of `noted`."""
        user_id = self._user_id(noted, body)
        if user_id is None or user_id > INT64_MAX:
            return None
        key = None if path == _FLAGS else _KEY.fullmatch(path)
        if key is None and path != _FLAGS:
            return None
        more = self._headers_about_origin(noted)
        if more is None:
            return None
        try:
            # Every role may read, so every known caller is admitted; the framework answers the refusals.
            self._authenticator.admit(noted.get(AUTHORIZATION) or bearer(noted.get(API_KEY)))
            return self._replica.answer(
                partial(self._one, key[1], user_id, noted, more)
                if key
                else partial(self._all, user_id, noted, more)
            )
        except (SegmentdError, Unusable):
            return None

    def _headers_about_origin(self, noted: Noted) -> Headers | None:
        """None for a page that the framework has to judge."""
        origin = noted.get(_ORIGIN)
        if origin is None:
            return None if _SITE in noted else ()
        if not self._cors.allows(origin.decode("latin-1")):
            return None
        return self._cors.headers([(_ORIGIN, origin)])

    def _user_id(self, noted: Noted, body: bytes) -> UserId | None:
        if noted.get(b"content-type") not in _JSON:
            return None
        if alone := _KEY_ALONE.fullmatch(body):
            return UserId(int(alone[1]))
        # An escape, or a key that stands twice, is for a reader that looks more closely.
        if (
            len(body) > _LONGEST_BODY
            or b"\\" in body
            or body.count(b'"targetingKey"') != 1
            or body.count(b'"context"') != 1
        ):
            return None
        try:
            return UserId(int(self._requests.decode(body).context.targeting_key))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def _one(
        self,
        slug: bytes,
        user_id: UserId,
        noted: Noted,
        more: Headers,
        age: int,
        older: int | None,
    ) -> Evaluated | None:
        decision = self._replica.decision(slug, user_id, older)
        if decision is None:
            return None
        body = written_flag(b'"%b"' % slug, decision)
        request_id = self._ids.id(noted.get(HEADER))
        return Evaluated(body, age, request_id, self._flag, FLAG, more=more)

    def _all(
        self, user_id: UserId, noted: Noted, more: Headers, age: int, older: int | None
    ) -> Evaluated | None:
        decisions = self._replica.decisions(user_id, older)
        flags = self._writer.prepared(decisions)
        answer = flags.answer(user_id, decisions.codes, self._links, self._prefix)
        etag = answer.etag
        request_id = self._ids.id(noted.get(HEADER))
        none_match = noted.get(_NONE_MATCH)
        if none_match is not None and is_named(none_match.decode("latin-1"), etag):
            status = HTTPStatus.NOT_MODIFIED
            return Evaluated(b"", age, request_id, self._unchanged, FLAGS, etag, status, more)
        body = answer.body()
        if len(body) > SMALL_ANSWER and self._room.unsent.is_reached:
            return None
        return Evaluated(body, age, request_id, self._flags, FLAGS, etag, more=more)
