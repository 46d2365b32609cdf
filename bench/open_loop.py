"""Load at a given rate: requests leave when they are due, whether earlier ones are answered or not.

A latency counts from the time at which a request was due, so a server that stalls cannot hide it by accepting
fewer requests. The loop sleeps for 0.2 ms at a time, to leave the cores to the server: latencies are up to
that much too high.
"""

import contextlib
import random
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterator
from typing import Final

from bench.programs import BenchError

_NAP_SECONDS: Final = 0.0002
_LAST_ANSWER_SECONDS: Final = 10.0
_GOOD: Final = b"HTTP/1.1 200 "
_END: Final = b"]}"  # ends the body, and appears nowhere else in an answer
# No answer is longer; a larger buffer would cost more than the rest of the loop.
_MOST_BYTES: Final = 1 << 13


class Answering:
    """A keep-alive connection with at most one request in flight."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(0)
        self.due = 0.0
        self._received = b""

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self.socket.send(request)

    def complete(self) -> bool:
        """Reads what has arrived; whether that is the whole answer. Raises BenchError unless it is a 200."""
        self._received += self.socket.recv(_MOST_BYTES)
        if not self._received.startswith(_GOOD[: len(self._received)]):
            raise BenchError(f"the answer under load was {self._received.splitlines()[0].decode()}")
        if not self._received.endswith(_END):
            return False
        self._received = b""
        return True


def latencies(address: tuple[str, int], users: int, rate: float, seconds: float, seed: int) -> list[float]:
    """Milliseconds of each hot read of random users, at `rate` a second. Raises BenchError."""
    chance = random.Random(seed)
    with contextlib.ExitStack() as undo, selectors.DefaultSelector() as ready:
        idle: deque[Answering] = deque()
        busy: set[Answering] = set()
        for _ in range(32):
            connection = Answering(*address)
            undo.callback(connection.socket.close)
            ready.register(connection.socket, selectors.EVENT_READ, connection)
            idle.append(connection)
        found: list[float] = []
        waiting: deque[float] = deque()
        due = _due_times(rate, seconds, chance)
        upcoming = next(due, None)
        give_up = time.perf_counter() + seconds + _LAST_ANSWER_SECONDS
        while upcoming is not None or waiting or busy:
            now = time.perf_counter()
            if now > give_up:
                raise BenchError(f"{len(waiting) + len(busy)} answers did not come in time")
            while upcoming is not None and upcoming <= now:
                waiting.append(upcoming)
                upcoming = next(due, None)
            while waiting and idle:
                connection = idle.popleft()
                connection.send(_request(1 + int(users * chance.random())), waiting.popleft())
                busy.add(connection)
            time.sleep(_NAP_SECONDS)
            for key, _ in ready.select(0):
                connection = key.data
                if connection.complete():
                    found.append(1000 * (time.perf_counter() - connection.due))
                    busy.remove(connection)
                    idle.append(connection)
    return found


def _due_times(rate: float, seconds: float, chance: random.Random) -> Iterator[float]:
    """Independent clients: the pauses between their requests are exponential."""
    due = time.perf_counter()
    end = due + seconds
    while (due := due + chance.expovariate(rate)) < end:
        yield due


def _request(user_id: int) -> bytes:
    return b"GET /api/v1/users/%d/segments HTTP/1.1\r\nHost: bench\r\n\r\n" % user_id
