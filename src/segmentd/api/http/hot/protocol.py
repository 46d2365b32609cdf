"""Answers the hot read in uvicorn's protocol: half of its cost would be an ASGI call.

This answers a complete plain request at once, if it is all that was received and no earlier request is in
progress. Every other byte goes to uvicorn's parser, unchanged (docs/decisions/0021).
"""

import re
import time
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Final

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from segmentd.api.http.edge.connection import LimitedProtocol
from segmentd.api.http.edge.framing import HOST_NAME, is_host
from segmentd.api.http.edge.guard import AUTHORIZATION
from segmentd.api.http.edge.request_ids import HEADER
from segmentd.api.http.hot.path import AFTER_ID, BEFORE_ID, HotPath
from segmentd.domain.identifiers import USER_ID_DIGITS

# The parser handles headers about the connection, the body or an expectation; others do not matter here. The
# outer repetition is not possessive: up to Python 3.11.4, a possessive one continues after a failed round.
_HEADERS: Final = (
    rb"(?:[ABDFGI-SV-Zabdfgi-sv-z0-9][!#$%&'*+\-.^_`|~0-9A-Za-z]*+:[\t\x20-\x7e\x80-\xff]*+\r\n"
    rb"|(?i:connection:[ \t]*keep-alive)\r\n"
    rb"|(?!(?i:host|connection|content-length|transfer-encoding|upgrade|expect)[ \t]*:)"
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*"
)
# The Host as nearly all clients send it: first, in one of two spellings, a name with a usual port.
_USUAL_HOST: Final = rb"[Hh]ost: %b(?::[1-5]?[0-9]{1,4})?\r\n" % HOST_NAME
# The groups are the id, and the one Host if it is not of the usual form.
PLAIN: Final = re.compile(
    rb"GET " + f"{BEFORE_ID}({USER_ID_DIGITS}){AFTER_ID}".encode() + rb" HTTP/1\.1\r\n"
    rb"(?:%b%b|%b(?i:host):[ \t]*+([^ \t\r\n\0]++)[ \t]*+\r\n%b)\r\n"
    % (_USUAL_HOST, _HEADERS, _HEADERS, _HEADERS)
)

_NAMES: Final = (AUTHORIZATION, HEADER, b"origin")
_NOTHING: Final[Mapping[bytes, bytes]] = {}


class HotProtocol(LimitedProtocol):
    """One connection."""

    hot_path: ClassVar[HotPath]
    unusual: ClassVar[Collection[bytes]]
    noted: ClassVar[re.Pattern[bytes]]
    """The headers, with their values, that the hot path needs."""

    _headers: Sequence[tuple[bytes, bytes]] | None = None
    _head = b""

    @classmethod
    def answering_by(cls, hot_path: HotPath, unusual: Collection[str] = ()) -> type["HotProtocol"]:
        """The protocol of a server whose hot reads `hot_path` answers, unless a header is unusual."""
        names = b"|".join([*_NAMES, *(re.escape(name).encode() for name in unusual)])
        return type(
            cls.__name__,
            (cls,),
            {
                "hot_path": hot_path,
                "room": hot_path.room,
                "unusual": frozenset(name.encode() for name in unusual),
                "noted": re.compile(rb"\r\n(?i:(%b)):[ \t]*([^\r\n]*)" % names),
            },
        )

    def data_received(self, data: bytes) -> None:
        """Answers a plain hot read, or passes everything to the parser."""
        small = len(data) <= self.limits.max_header_bytes and not self.leaving
        if small and not self._is_busy() and (plain := PLAIN.fullmatch(data)):
            begun = time.perf_counter_ns()
            hot_path = self.hot_path
            headers = self.noted.findall(data)
            noted = self._plain(headers) if headers else _NOTHING
            host = plain[2]
            if noted is not None and (host is None or is_host(host)):
                answer = hot_path.user(int(plain[1]), noted.get(AUTHORIZATION))
                if answer is not None:
                    self._answer(*answer, hot_path.ids.id(noted.get(HEADER)))
                    if hot_path.reads is not None:
                        hot_path.reads.add(time.perf_counter_ns() - begun)
                    return
        super().data_received(data)

    def _plain(self, found: Sequence[tuple[bytes, bytes]]) -> Mapping[bytes, bytes] | None:
        headers = [(name.lower(), value.rstrip(b" \t")) for name, value in found]
        if any(name in self.unusual for name, _ in headers):
            return None
        return self.hot_path.noted(headers)

    def _is_busy(self) -> bool:
        """Whether a message is partly received, or an answer partly sent."""
        cycle: RequestResponseCycle | None = self.cycle
        return self._parsing or self.flow.write_paused or (cycle is not None and not cycle.response_complete)

    def _answer(self, body: bytes, age: int, request_id: bytes) -> None:
        headers = self.server_state.default_headers
        if headers is not self._headers:  # uvicorn makes them again once a second, with the date
            self._headers = headers
            self._head = b"".join([b"%b: %b\r\n" % header for header in headers])
        answer = (
            b"HTTP/1.1 200 OK\r\n%bx-request-id: %b\r\n"
            b"age: %d\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (self._head, request_id, age, len(body), body)
        )
        self.transport.write(answer)
        self._written += len(answer)
        self._answered_at = self.loop.time()
