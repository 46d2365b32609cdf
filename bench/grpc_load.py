"""A gRPC client that costs its machine little: it writes prepared frames of HTTP/2 and counts the answers.

grpcio's own client takes more of the processor than a server, which would then wait for it most of the time,
and be measured as it works between long pauses.
"""

import asyncio
import random
import struct
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

from segmentd.api.grpc.generated import segmentd_pb2 as pb

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
_END_STREAM: Final = 1
_ACK: Final = 1
_END_HEADERS: Final = 4
_INITIAL_WINDOW_SIZE: Final = 4
_LARGEST_WINDOW: Final = 2**31 - 1
_FIRST_WINDOW: Final = 65_535
_HEAD_BYTES: Final = 9
_USERS_PREPARED: Final = 10_000


class Calls(NamedTuple):
    """Which calls: of this method, for random users up to this one."""

    method: str
    users: int
    connections: int = 4
    at_once: int = 8
    """On each connection."""


async def put_calls(port: int, calls: Calls, seconds: float, seed: int) -> int:
    """How many calls were answered; each answer is followed by the next call. Raises ValueError."""
    chance = random.Random(seed)
    requests = [_message(chance.randint(1, calls.users)) for _ in range(_USERS_PREPARED)]
    headers = _header_block(calls.method)
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        connections = []
        for _ in range(calls.connections):
            transport, connection = await loop.create_connection(
                lambda: _Connection(headers, lambda: chance.choice(requests)), "127.0.0.1", port
            )
            stack.callback(transport.close)
            connections.append(connection)
        for connection in connections:
            for _ in range(calls.at_once):
                connection.call()
        await asyncio.sleep(seconds)
        if failed := [each.failure for each in connections if each.failure]:
            raise ValueError(failed[0])
        return sum(connection.answered for connection in connections)


class _Connection(asyncio.Protocol):
    def __init__(self, headers: bytes, request: Callable[[], bytes]) -> None:
        self._headers = headers
        self._request = request
        self._received = bytearray()
        self._stream = -1
        self._unanswered: set[int] = set()
        self.answered = 0
        self.failure = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a connection of TCP")
        self._transport = transport
        windows = struct.pack(">HL", _INITIAL_WINDOW_SIZE, _LARGEST_WINDOW)
        more = struct.pack(">L", _LARGEST_WINDOW - _FIRST_WINDOW)
        transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, windows) + _frame(_WINDOW_UPDATE, 0, 0, more))

    def call(self) -> None:
        """Sends one more request."""
        self._stream += 2
        self._unanswered.add(self._stream)
        headers = _frame(_HEADERS, _END_HEADERS, self._stream, self._headers)
        self._transport.write(headers + _frame(_DATA, _END_STREAM, self._stream, self._request()))

    def data_received(self, data: bytes) -> None:
        self._received += data
        begin = 0
        while len(self._received) - begin >= _HEAD_BYTES:
            head = bytes(self._received[begin : begin + _HEAD_BYTES])
            end = begin + _HEAD_BYTES + int.from_bytes(head[:3], "big")
            if end > len(self._received):
                break
            self._take(head[3], head[4], int.from_bytes(head[5:], "big"), begin + _HEAD_BYTES, end)
            begin = end
        del self._received[:begin]

    def _take(self, kind: int, flags: int, stream: int, begin: int, end: int) -> None:
        if kind == _DATA:
            self._unanswered.discard(stream)
        elif kind == _HEADERS and flags & _END_STREAM:
            if stream in self._unanswered:
                self.failure = "a call was answered with an error"
            self.answered += 1
            self.call()
        elif kind in {_SETTINGS, _PING} and not flags & _ACK:
            payload = bytes(self._received[begin:end]) if kind == _PING else b""
            self._transport.write(_frame(kind, _ACK, 0, payload))
        elif kind == _GOAWAY:
            self.failure = f"the server left: {bytes(self._received[begin:end])!r}"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">BHBBL", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def _message(user_id: int) -> bytes:
    message = pb.ListUserSegmentsRequest(user_id=user_id).SerializeToString()
    return struct.pack(">BL", 0, len(message)) + message


def _header_block(method: str) -> bytes:
    """Of RFC 7541: three fields by their static index, the others as they are, and nothing to remember."""
    return b"".join(
        (
            b"\x83\x86",  # :method: POST, :scheme: http
            b"\x04" + _text(method),  # :path
            b"\x01" + _text("127.0.0.1"),  # :authority
            b"\x0f\x10" + _text("application/grpc"),  # content-type
            b"\x00" + _text("te") + _text("trailers"),
            b"\x00" + _text("user-agent") + _text("bench"),
        )
    )


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()
