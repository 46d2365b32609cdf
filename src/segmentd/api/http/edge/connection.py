"""The limits of one connection to an HTTP process: bytes of headers, and time.

uvicorn by itself waits for ever for the rest of a request, and for a client that does not read its answer
(docs/decisions/0037).
"""

import asyncio
import math
from collections.abc import Callable
from typing import ClassVar, Self
from urllib.parse import unquote

import httptools
import msgspec
import structlog
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from segmentd.api.http.edge.broken_off import reset
from segmentd.api.http.edge.cors import Cors
from segmentd.api.http.edge.framing import MALFORMED, BadFraming, accepted, parser_after
from segmentd.api.http.edge.problem_documents import last_answer
from segmentd.api.http.edge.progress import MeasuredProtocol, ReadingFlow
from segmentd.api.http.edge.send_buffer import SMALL_ANSWER, Room
from segmentd.api.http.edge.streamed import STREAMED
from segmentd.api.problems import HTTP_PROBLEMS, Problem, problem_of
from segmentd.domain.errors import Overloaded, Unavailable
from segmentd.observability.metrics import Refusal

_log = structlog.get_logger(__name__)


class ConnectionLimits(msgspec.Struct, frozen=True):
    """The limits of a client; times in seconds."""

    max_header_bytes: int
    """Bytes of the request line and the headers together; also of trailers and anything else but the body."""
    receive_seconds: float
    """Time for a whole request, and before the first one."""
    send_seconds: float
    """Time over which the rate of a reader is averaged; then the next such time begins."""
    keep_alive_seconds: float
    """Time without a request after an answer."""
    least_bytes_per_second: float = 1024
    """The least rate at which a client reads an answer, averaged over `send_seconds`; and at which it sends a
    body of any length, averaged over `receive_seconds`."""

    @property
    def shortest_seconds(self) -> float:
        """The shortest of the times."""
        return min(self.receive_seconds, self.send_seconds, self.keep_alive_seconds)


class LimitedProtocol(MeasuredProtocol):
    """uvicorn's protocol for one connection, within limits.

    A refusal is a problem document, sent after the answers that are due before it. Then the connection is
    read and the bytes discarded, until the client closes it or its time is over: if it were closed at once,
    the kernel would discard the answer together with the unread bytes.
    """

    limits: ClassVar[ConnectionLimits]
    leaving: ClassVar[bool] = False
    """Whether each connection ends with its next answer, because the process is about to stop."""

    cors: ClassVar[Cors] = Cors()
    flow: ReadingFlow

    # The message that is being received: whether there is one, whether its headers are complete, and the
    # bytes since its last progress.
    _parsing = False
    _has_head = False
    _unfinished_bytes = 0
    _begun_at = 0.0
    # Whether the body of this message may have any length, and how many bytes of it came since `_begun_at`.
    _streams = False
    _streamed = 0
    # The time of the last answer; 0 before the first one.
    _answered_at = 0.0
    # Whether there is or was a refusal, and the refusal that waits for earlier answers.
    _refusing = False
    _refusal: bytes | None = None

    @classmethod
    def within(
        cls,
        limits: ConnectionLimits,
        refused: Callable[[Refusal], None] | None = None,
        room: Room | None = None,
        cors: Cors | None = None,
        ended: Callable[[], None] | None = None,
    ) -> type[Self]:
        """A subclass with these limits, which calls these functions instead of `refused` and `ended`."""
        members = {
            "limits": limits,
            "refused": staticmethod(refused or cls.refused),
            "room": room or cls.room,
            "cors": cors or cls.cors,
            "ended": staticmethod(ended or cls.ended),
        }
        return type(cls.__name__, (cls,), members)

    @staticmethod
    def refused(reason: Refusal) -> None:
        """Is called with the reason when a connection is cut off."""

    @staticmethod
    def ended() -> None:
        """Is called when a connection has ended."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=SMALL_ANSWER)
        self.flow = ReadingFlow(self.transport, self.loop.time)
        self._begun_at = self.loop.time()
        self._looking = self.loop.call_later(self.limits.shortest_seconds, self._look)
        self.room.connections.change(+1)
        if self.room.connections.is_exceeded:
            self._turn_away()

    def connection_lost(self, exc: Exception | None) -> None:
        self._looking.cancel()
        self.room.connections.change(-1)
        self.ended()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Passes the bytes to the parser, in pieces within the limit.

        A message that begins within a piece, after the end of another, is counted from the next piece on.
        """
        while data and not self._refusing:
            room = self.limits.max_header_bytes - self._unfinished_bytes
            if not room:
                self._cut(Refusal.HEADERS_TOO_LARGE)
                self._refuse(
                    HTTP_PROBLEMS[431], f"A request may have {self.limits.max_header_bytes} bytes of headers."
                )
                return
            self._unfinished_bytes += min(room, len(data))
            self._parse(data[:room])
            if not self._parsing:
                self._unfinished_bytes = 0
            data = data[room:]

    def _parse(self, data: bytes) -> None:
        try:
            while data:
                try:
                    self.parser.feed_data(data)
                except httptools.HttpParserUpgrade as stop:
                    keep_alive = self.parser.should_keep_alive()
                    parser_after([*self.scope["headers"]], self, keep_alive=keep_alive)
                    data = data[stop.args[0] :]
                else:
                    return
        except httptools.HttpParserError as error:
            fault = error.__context__
            if isinstance(fault, BadFraming):
                self._refuse(fault.problem, fault.detail)
            else:  # the parser's own messages would echo input
                self._refuse(HTTP_PROBLEMS[400], MALFORMED)

    def on_message_begin(self) -> None:
        """The headers are complete: all bytes up to the message's end belong to it."""
        self._parsing = True
        if self._answered_at:
            self._begun_at = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._unfinished_bytes = 0
        self.headers[:] = accepted(self.parser.get_http_version(), self.url, self.headers)
        super().on_headers_complete()
        self.headers = []  # for the trailers, which must not become headers of the request
        self._has_head = True
        self._streams = (self.scope["method"], self.scope["path"]) in STREAMED
        if self.leaving:
            self.cycle.keep_alive = False
        if self.expect_100_continue:
            # The client waits for the application, so its own time does not pass: see `ReadingFlow`.
            self.flow.pause_reading()

    def on_body(self, body: bytes) -> None:
        self._unfinished_bytes = 0
        if self._streams and not self.cycle.response_complete:
            self._streamed += len(body)
            if self._streamed >= self.limits.least_bytes_per_second * self.limits.receive_seconds:
                self._begun_at, self._streamed = self.loop.time(), 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The next byte begins another message, except after a head that asks for an upgrade."""
        if self.parser.should_upgrade():
            return
        self._unfinished_bytes = self._streamed = 0
        self._parsing = self._has_head = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._answered_at = self.loop.time()
        last = not self.pipeline
        super().on_response_complete()
        self._unset_keepalive_if_required()  # `_look` does it
        if last and self._refusal is not None and not self.transport.is_closing():
            self._send_refusal(self._refusal)

    def leave(self) -> None:
        """Ends the connection with the answer in progress, if there is one."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False

    def shutdown(self) -> None:
        """Ends the connection now if no answer is due, else with the answer."""
        if not self._parsing:
            super().shutdown()

    def cut_off(self) -> None:
        """Refuses what is being received, breaks off what is being sent, and ends the connection."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            reset(self.transport)
        elif self._parsing and not self._refusing and not self.transport.is_closing():
            self._refuse(problem_of(Unavailable), "The service stopped before it had the whole request.")
        else:
            self.transport.close()

    def _look(self) -> None:
        """Ends the connection if the client's time is over, and sets the timer for the next check.

        One timer for a connection is cheaper than one for each request. It is never late: the time of
        anything that begins after a check is not over before the next check.
        """
        now = self.loop.time()
        if self._takes_too_little(now, self.limits.least_bytes_per_second, self.limits.send_seconds):
            self._cut(Refusal.SLOW_CLIENT)
            self.transport.abort()
            return
        left = self._deadline() - now
        if left <= 0 and not self.transport.is_closing():
            self._end_overdue()
        shortest = self.limits.shortest_seconds
        self._looking = self.loop.call_later(left if 0 < left < shortest else shortest, self._look)

    def _deadline(self) -> float:
        """When the client's time is over; infinity while the client waits for us."""
        if not self._refusing:
            if self.flow.read_paused or self._is_behind():
                return math.inf
            if self._parsing or not self._answered_at:
                since = max(self._begun_at, self._answered_at, self.flow.resumed_at)
                return since + self.limits.receive_seconds
        if self._unsent or self._refusal is not None:
            return math.inf
        return max(self._answered_at, self._counted_from) + self.limits.keep_alive_seconds

    def _is_behind(self) -> bool:
        """Whether the next answer is due to an earlier message than the one that is being received."""
        cycle: RequestResponseCycle | None = self.cycle
        return bool(self.pipeline) if self._has_head else cycle is not None and not cycle.response_complete

    def _end_overdue(self) -> None:
        if self._parsing and not self._refusing:
            self._cut(Refusal.SLOW_CLIENT)
            self._refuse(
                HTTP_PROBLEMS[408],
                f"The request was not received within {self.limits.receive_seconds:g} seconds."
                if not self._streams
                else f"The body came with less than {self.limits.least_bytes_per_second:g} bytes a second.",
            )
        else:
            self.transport.close()

    def _refuse(self, problem: Problem, detail: str) -> None:
        """Answers the message that is being received with a problem, and accepts no other."""
        refusal = self._refusal_of(problem, detail)
        self._refusing = self._parsing = True  # for ever: no later byte is a request
        if not self._is_behind():
            self._send_refusal(refusal)
            return
        self._refusal = refusal
        if self._has_head:
            self.pipeline.popleft()  # the refused message, which waited for the earlier ones
            self._has_head = False

    def _refusal_of(self, problem: Problem, detail: str) -> bytes:
        received = self.scope["headers"] if self._parsing else ()
        headers = [*self.server_state.default_headers, *self.cors.headers(received)]
        return last_answer(self._path(), problem, detail, headers)

    def _path(self) -> str:
        """The path of the message that is being received, as far as it was received."""
        target = self.url if self._parsing else b""
        return unquote(target.partition(b"?")[0].decode("latin-1"))

    def _turn_away(self) -> None:
        """Answers at once that there are too many connections, and closes this one."""
        self.room.connections.say()
        self.refused(Refusal.CONNECTIONS)
        detail = "This process has too many connections; try again shortly."
        self.transport.write(self._refusal_of(problem_of(Overloaded), detail))
        self._refusing = self._parsing = True
        self.transport.close()

    def _send_refusal(self, refusal: bytes) -> None:
        self._refusal = None
        self._answered_at = self.loop.time()
        if self._has_head:
            self.cycle.disconnected = self.cycle.response_complete = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.close()
                return
        self.transport.write(refusal)
        self.transport.write_eof()
        self.flow.resume_reading()

    def _cut(self, reason: Refusal) -> None:
        _log.info("connection cut", reason=reason)
        self.refused(reason)
