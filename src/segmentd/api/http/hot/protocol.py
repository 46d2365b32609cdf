"""Answers hot reads, evaluations and changes in uvicorn's protocol: half of their cost would be an ASGI call.

This answers a complete plain request at once, if it is all that was received and no earlier request is in
progress. Every other byte goes to uvicorn's parser, unchanged (docs/decisions/0021).
"""

import re
import time
from collections.abc import Collection, Sequence
from typing import ClassVar, Final, NamedTuple, cast

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from segmentd.api.http.edge.connection import LimitedProtocol
from segmentd.api.http.edge.framing import USUAL_HOST, is_host
from segmentd.api.http.edge.guard import AUTHORIZATION
from segmentd.api.http.edge.request_ids import HEADER
from segmentd.api.http.hot.calls import Answer, HotCalls
from segmentd.api.http.hot.direct_changes import DirectChanges, Headers, PendingChange
from segmentd.api.http.hot.plain import AFTER_ID, BEFORE_ID
from segmentd.api.http.hot.plain import NOTED as NOTED_IN_CHANGES
from segmentd.api.http.hot.posts import HEADS_REMEMBERED, LONGEST_REMEMBERED, PlainPost, PlainPosts
from segmentd.api.http.ofrep.failures import BELOW
from segmentd.api.http.ofrep.hot import NOTED, Evaluated, Evaluations
from segmentd.domain.identifiers import USER_ID_DIGITS

# The parser handles headers about the connection, the body or an expectation; others do not matter here. The
# outer repetition is not possessive: up to Python 3.11.4, a possessive one continues after a failed round.
_HEADERS: Final = (
    rb"(?:[ABDFGI-SV-Zabdfgi-sv-z0-9][!#$%&'*+\-.^_`|~0-9A-Za-z]*+:[\t\x20-\x7e\x80-\xff]*+\r\n"
    rb"|(?i:connection:[ \t]*keep-alive)\r\n"
    rb"|(?!(?i:host|connection|content-length|transfer-encoding|upgrade|expect)[ \t]*:)"
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*"
)
_LINE: Final = re.compile(f"GET {BEFORE_ID}({USER_ID_DIGITS}){AFTER_ID} HTTP/1\\.1\r\n".encode())
# The group is the one Host if it is not of the usual form.
PLAIN_HEAD: Final = re.compile(
    rb"(?:%b%b|%b(?i:host):[ \t]*+([^ \t\r\n\0]++)[ \t]*+\r\n%b)\r\n"
    % (USUAL_HOST, _HEADERS, _HEADERS, _HEADERS)
)

# A larger body is given to the kernel beside its head, and not copied behind it.
_WORTH_NO_COPY: Final = 2**13

# How many reads of one connection are answered before others get their turn: less than a millisecond.
_AT_ONCE: Final = 64

_NAMES: Final = (AUTHORIZATION, HEADER, b"origin")
_EVALUATION: Final = f"POST {BELOW}".encode()
_CHANGE: Final = f"POST {BEFORE_ID}".encode()


class Head(NamedTuple):
    """What a hot read needs of its headers."""

    authorization: bytes | None
    request_id: bytes | None


class HotProtocol(LimitedProtocol):
    """One connection."""

    calls: ClassVar[HotCalls]
    unusual: ClassVar[frozenset[bytes]]
    noted: ClassVar[re.Pattern[bytes]]
    """The headers, with their values, that the hot path needs."""
    heads: ClassVar[dict[bytes, Head]]
    """Plain headers by their bytes; those with an id of the request are not remembered."""
    evaluations: ClassVar[Evaluations | None] = None
    changes: ClassVar[DirectChanges | None] = None
    posts: ClassVar[PlainPosts]

    _headers: Sequence[tuple[bytes, bytes]] | None = None
    _head = b""
    # Answers that are sent together, while they are made.
    _together: list[bytes] | None = None
    # The change that is under way.
    _pending: PendingChange | None = None

    @classmethod
    def answering_by(
        cls,
        calls: HotCalls,
        unusual: Collection[str] = (),
        evaluations: Evaluations | None = None,
        changes: DirectChanges | None = None,
    ) -> type["HotProtocol"]:
        """The protocol of a server whose hot calls these answer, unless a header is unusual."""
        names = b"|".join([*_NAMES, *(re.escape(name).encode() for name in unusual)])
        return type(
            cls.__name__,
            (cls,),
            {
                "calls": calls,
                "room": calls.room,
                "unusual": frozenset(name.encode() for name in unusual),
                "noted": re.compile(rb"\r\n(?i:(%b)):[ \t]*([^\r\n]*)" % names),
                "heads": {},
                "evaluations": evaluations,
                "changes": changes,
                "posts": PlainPosts({*NOTED, *NOTED_IN_CHANGES, *(name.encode() for name in unusual)}),
            },
        )

    def data_received(self, data: bytes) -> None:
        """Answers a plain hot call, or passes everything to the parser."""
        if len(data) <= self.limits.max_header_bytes and not self.leaving and not self._is_busy():
            if line := _LINE.match(data):
                if self._take_read(int(line[1]), data[line.end() :]):
                    return
                if not (data := self._take_first(data)):
                    return
            elif data.startswith(b"POST ") and self._take_post(data):
                return
        super().data_received(data)

    def _take_read(self, user_id: int, headers: bytes) -> bool:
        """Answers a plain hot read; says whether it was one."""
        begun = time.perf_counter_ns()
        head = self.heads.get(headers) or self._head_of(headers)
        if head is None:
            return False
        answer = self.calls.read(user_id, head.authorization, head.request_id)
        if answer is None:
            return False
        self._answer(answer)
        if self.calls.reads is not None:
            self.calls.reads.add(time.perf_counter_ns() - begun)
        return True

    def _take_first(self, data: bytes) -> bytes:
        """Answers plain hot reads that came at once, up to the first other request; what is left.

        Their answers are sent together: most of what an answer costs here is its own write.
        """
        together: list[bytes] = []
        self._together = together
        for _ in range(_AT_ONCE):
            end = data.find(b"\r\n\r\n") + 4
            line = _LINE.match(data, 0, end)
            if line is None or self._is_busy() or not self._take_read(int(line[1]), data[line.end() : end]):
                break
            data = data[end:]
        self._together = None
        if together:
            self.transport.write(b"".join(together))
        return data

    def _head_of(self, headers: bytes) -> Head | None:
        """What matters of the headers, up to the end of the request; None if they are not plain."""
        if headers.find(b"\r\n\r\n") + 4 != len(headers):  # another request follows, or some of it is missing
            return None
        plain = PLAIN_HEAD.fullmatch(headers)
        if plain is None or not (plain[1] is None or is_host(plain[1])):
            return None
        found = self.noted.findall(b"\r\n" + headers)
        given = [(name.lower(), value.rstrip(b" \t")) for name, value in found]
        noted = self.calls.noted(given)
        if noted is None or not self.unusual.isdisjoint(name for name, _ in given):
            return None
        head = Head(noted.get(AUTHORIZATION), noted.get(HEADER))
        if head.request_id is None and len(headers) <= LONGEST_REMEMBERED:
            if len(self.heads) >= HEADS_REMEMBERED:
                self.heads.clear()
            self.heads[headers] = head
        return head

    def connection_lost(self, exc: Exception | None) -> None:
        if self._pending is not None:
            self._pending.abandon()
        super().connection_lost(exc)

    def _change(self, post: PlainPost) -> bool:
        pending = None if self.changes is None else self.changes.begin(post, self._answer_change)
        if pending is None:
            return False
        self._pending = pending
        # Whatever the client sends meanwhile waits, as behind any other request.
        self.cycle = cast("RequestResponseCycle", pending)
        return True

    def _answer_change(self, status_line: bytes, headers: Headers, body: bytes) -> None:
        ends = self._pending is not None and not self._pending.keep_alive
        self._pending = None
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        if ends:
            lines += b"connection: close\r\n"
        self.transport.write(b"%b%b%b\r\n%b" % (status_line, self._server_lines(), lines, body))
        self._written += len(body)
        if ends:
            self.transport.close()
        self.on_response_complete()

    def _take_post(self, data: bytes) -> bool:
        """Answers a plain evaluation, or begins a plain change; says whether it was one."""
        if data.startswith(_CHANGE):
            take = self._change
        elif data.startswith(_EVALUATION):
            take = self._evaluate
        else:
            return False
        post = self.posts.read(data)
        if post is None or not self.unusual.isdisjoint(name for name, _ in post.headers):
            return False
        return take(post)

    def _evaluate(self, post: PlainPost) -> bool:
        begun = time.perf_counter_ns()
        evaluations = self.evaluations
        noted = None if evaluations is None else evaluations.noted(post.headers)
        if evaluations is None or noted is None:
            return False
        answer = evaluations.answer(post.path, noted, post.body)
        if answer is None:
            return False
        self._answer(answer)
        if answer.tally is not None:
            answer.tally.add(time.perf_counter_ns() - begun)
        return True

    def _is_busy(self) -> bool:
        """Whether a message is partly received, or an answer partly sent."""
        cycle: RequestResponseCycle | None = self.cycle
        return self._parsing or self.flow.write_paused or (cycle is not None and not cycle.response_complete)

    def _server_lines(self) -> bytes:
        headers = self.server_state.default_headers
        if headers is not self._headers:  # uvicorn makes new ones once a second, with the date
            self._headers = headers
            self._head = b"".join([b"%b: %b\r\n" % header for header in headers])
        return self._head

    def _answer(self, answer: Answer | Evaluated) -> None:
        head, body = answer.head(self._server_lines()), answer.body
        if self._together is not None:
            self._together.append(head + body)
        elif len(body) < _WORTH_NO_COPY:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))
        self._written += len(head) + len(body)
        self._answered_at = self.loop.time()
