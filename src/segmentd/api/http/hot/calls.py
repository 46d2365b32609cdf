"""The hot calls themselves, in whichever protocol they come: a question, and its answer.

Only the plain case is answered: from a replica that is fresh enough, to a caller who may read it. Whatever is
unusual gives None, and goes to the framework's handlers (api/http/resources/memberships.py), which give the
same bytes for the plain case.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

import msgspec

from segmentd.api.http.edge.guard import AUTHORIZATION
from segmentd.api.http.edge.request_ids import HEADER, RequestIds
from segmentd.api.http.edge.send_buffer import SMALL_ANSWER, Room
from segmentd.api.http.hot.plain import USER_SEGMENTS, Noted, noted
from segmentd.api.http.resources.memberships import lookup_body
from segmentd.api.http.types import RequestBody
from segmentd.auth.authenticator import Authenticator
from segmentd.domain.errors import SegmentdError
from segmentd.domain.identifiers import INT64_MAX, UserId, UserIdValue
from segmentd.domain.memberships import UsersOfLookup
from segmentd.observability.metrics import Metrics
from segmentd.replica.behind import Outdated
from segmentd.replica.catalog import JSON
from segmentd.replica.files import Unusable
from segmentd.replica.replica import Replica

LOOKUP: Final = "/api/v1/lookup"

# A thousand ids take 21,000 bytes; a larger body has many blanks, or is too large.
_LONGEST_LOOKUP: Final = 2**16

# The rest of a lookup without its ids: this shows that it has no second key, and only whole numbers.
_IDS_ALONE: Final = b'{"user_ids":[]}'
_IN_IDS: Final = b"0123456789, \t\r\n"


class _PlainLookup(RequestBody, frozen=True):
    """A lookup whose ids are numbers."""

    user_ids: UsersOfLookup[UserIdValue]


class Question(msgspec.Struct, frozen=True, gc=False):
    """The users whose segments a lookup asks for, and the caller."""

    user_ids: Sequence[UserId]
    authorization: bytes | None
    request_id: bytes | None


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A 200 in JSON."""

    body: bytes
    age: int
    request_id: bytes

    def headers(self) -> list[tuple[bytes, bytes]]:
        """As headers of ASGI."""
        return [
            (HEADER, self.request_id),
            (b"age", b"%d" % self.age),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self.body)),
        ]

    def head(self, server_headers: bytes) -> bytes:
        """As HTTP/1.1 without the body, with the lines of these headers first."""
        return (
            b"HTTP/1.1 200 OK\r\n%bx-request-id: %b\r\n"
            b"age: %d\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            % (server_headers, self.request_id, self.age, len(self.body))
        )


class HotCalls:
    """Reads questions and answers them; requests with an `unusual` header are not for it."""

    def __init__(
        self,
        replica: Replica,
        authenticator: Authenticator,
        ids: RequestIds,
        metrics: Metrics | None,
        unusual: Collection[bytes] = (),
        room: Room | None = None,
    ) -> None:
        self._replica = replica
        self._authenticator = authenticator
        self._ids = ids
        self._lookups = msgspec.json.Decoder(_PlainLookup)
        self._unusual = frozenset(unusual)
        self.room = room or Room()
        self.reads = None if metrics is None else metrics.tally("GET", USER_SEGMENTS, "200")
        self.lookups = None if metrics is None else metrics.tally("POST", LOOKUP, "200")

    def noted(self, headers: Iterable[tuple[bytes, bytes]]) -> Noted | None:
        """The headers that matter here; None if one is unusual, or is there twice."""
        return noted(headers, self._unusual)

    def lookup_question(self, headers: Noted, body: bytes) -> Question | None:
        """The question of a lookup with these headers."""
        if len(body) > _LONGEST_LOOKUP or body.translate(None, _IN_IDS) != _IDS_ALONE:
            return None
        try:
            user_ids = self._lookups.decode(body).user_ids
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return Question(user_ids, headers.get(AUTHORIZATION), headers.get(HEADER))

    def read(self, user_id: int, authorization: bytes | None, request_id: bytes | None) -> Answer | None:
        """Answers for one user, whose id is positive."""
        moment = self._replica.moment()
        if moment is None or user_id > INT64_MAX:
            return None
        age, now = moment
        try:
            # Every role may read, so every known caller is admitted; the framework answers the refusals.
            self._authenticator.admit(authorization)
            before, after = b'{"user_id":%d,"segments":[' % user_id, b"]}"
            try:
                body = self._replica.segments(user_id, None, JSON, before, after, now)
            except Outdated as outdated:
                if (older := self._replica.older(outdated)) is None:
                    return None
                age = older.age
                body = self._replica.segments(user_id, older.version, JSON, before, after, now)
        except (SegmentdError, Unusable):
            return None
        return self._answer(request_id, body, age)

    async def look_up(self, question: Question) -> Answer | None:
        """Answers for all users of the question, in its order."""
        age = self._replica.age()
        if age is None:
            return None
        try:
            self._authenticator.admit(question.authorization)
            try:
                found = await self._replica.segments_of_many(question.user_ids)
            except Outdated as outdated:
                if (older := self._replica.older(outdated)) is None:
                    return None
                age = older.age
                found = await self._replica.segments_of_many(question.user_ids, older.version)
        except (SegmentdError, Unusable):
            return None
        return self._answer(question.request_id, lookup_body(question.user_ids, found), age)

    def _answer(self, request_id: bytes | None, body: bytes, age: int) -> Answer | None:
        if len(body) > SMALL_ANSWER and self.room.unsent.is_reached:
            return None
        return Answer(body, age, self._ids.id(request_id))
