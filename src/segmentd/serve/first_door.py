"""What answers at the port until the processes of a node can (docs/decisions/0100).

`/livez` says that the service lives while PostgreSQL is started and the schema is made; everything else is
503. It imports little: it is there before anything else of the service.
"""

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from segmentd.api.http.edge.problem_documents import SECURITY_HEADERS, last_answer
from segmentd.api.problems import PROBLEMS
from segmentd.config import Settings
from segmentd.domain.errors import Unavailable
from segmentd.serve.ports import bind, listen

# How many connections may wait while all workers are busy or starting again.
BACKLOG: Final = 2048
# How long a request may take to come whole, and its answer to be taken.
SECONDS: Final = 1.0
# How many connections are read from at once; one more ends the oldest.
MOST: Final = 256
MOST_BYTES: Final = 8192

_ALIVE: Final = b'{"status":"ok"}'
_STARTING: Final = "The service is starting; try again shortly."


class FirstDoor:
    """A listening socket, and a thread that answers there until `leave`."""

    def __init__(self, listener: socket.socket) -> None:
        listener.settimeout(0)
        self.listener = listener
        self._wake, self._woken = socket.socketpair()
        self._has_left = threading.Event()
        # By connection, the oldest first: what has come, None once it is answered; and when it ends.
        self._open: dict[socket.socket, tuple[bytearray | None, float]] = {}
        self._selector = selectors.DefaultSelector()
        for each in (listener, self._woken):
            self._selector.register(each, selectors.EVENT_READ)
        threading.Thread(target=self._serve, name="first-door", daemon=True).start()

    def leave(self) -> None:
        """Accepts nothing from now on; requests that are being read are answered all the same."""
        self._wake.close()
        self._has_left.wait()

    def _serve(self) -> None:
        try:
            with self._selector, self._woken:
                while self._open or not self._has_left.is_set():
                    for key, _ in self._selector.select(SECONDS / 4 if self._open else None):
                        self._go_on(key.fileobj)
                    now = time.monotonic()
                    for connection in [each for each, (_, end) in self._open.items() if end < now]:
                        self._end(connection)
        finally:
            self._has_left.set()  # whatever happens here, the start goes on

    def _go_on(self, ready: object) -> None:
        if ready is self.listener:
            self._accept()
        elif ready is self._woken:
            self._selector.unregister(self._woken)
            self._selector.unregister(self.listener)
            self._has_left.set()
        elif isinstance(ready, socket.socket) and ready in self._open:
            self._read(ready)

    def _accept(self) -> None:
        with suppress(OSError):  # it has gone, or no descriptor is free
            connection, _ = self.listener.accept()
            connection.settimeout(0)
            if len(self._open) == MOST:
                self._end(next(iter(self._open)))
            self._open[connection] = bytearray(), time.monotonic() + SECONDS
            self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        come, end = self._open[connection]
        try:
            some = connection.recv(MOST_BYTES)
        except OSError:
            some = b""
        if not some:
            self._end(connection)
        elif come is not None:
            come += some
            if b"\r\n\r\n" in come or len(come) >= MOST_BYTES:
                # What still comes is read: unread bytes would reset the connection, and the answer with it.
                self._open[connection] = None, end
                with suppress(OSError):
                    connection.send(answer(bytes(come)))
                    connection.shutdown(socket.SHUT_WR)

    def _end(self, connection: socket.socket) -> None:
        del self._open[connection]
        self._selector.unregister(connection)
        connection.close()


def answer(request: bytes) -> bytes:
    """The whole answer to the beginning of a request, after which the connection ends."""
    method, _, rest = request.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if path == b"/livez" and method in {b"GET", b"HEAD"}:
        headers = {
            **SECURITY_HEADERS,
            "Content-Type": "application/json",
            "Content-Length": str(len(_ALIVE)),
            "Connection": "close",
        }
        lines = "".join(f"{name.lower()}: {value}\r\n" for name, value in headers.items())
        whole = f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode() + _ALIVE
    else:
        whole = last_answer(path.decode("latin-1"), PROBLEMS[Unavailable], _STARTING, [])
    head, end, body = whole.partition(b"\r\n\r\n")
    return head + end + (b"" if method == b"HEAD" else body)


@contextmanager
def opened(settings: Settings) -> Iterator[FirstDoor]:
    """Listens where the settings say, and answers there until it leaves. Raises StartupFailed."""
    with bind(settings) as listener:
        listen(listener, BACKLOG)
        door = FirstDoor(listener)
        try:
            yield door
        finally:
            door.leave()
