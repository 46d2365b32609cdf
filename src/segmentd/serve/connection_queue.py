"""The queue of new connections of one HTTP process: the supervisor puts them in (docs/decisions/0058).

It is a pair of sockets, and a connection is a message with its descriptor. The kernel delivers each message
once, and keeps those of a process that has ended. So the supervisor can take back what a process does not
take, and a connection is neither lost nor served twice.
"""

import array
import fcntl
import math
import socket
import struct
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from segmentd.shared_memory import SharedMemory

# Since when the connection waits, in seconds of the supervisor's clock.
_MESSAGE: Final = struct.Struct("d")
# A message without a connection: whether it was read shows whether the process takes anything.
_PROBE: Final = _MESSAGE.pack(-math.inf)
# The queue's time of a connection that its process did not take in time.
OVERDUE: Final = 0.0


class ConnectionQueue:
    """The supervisor's side; it outlives the process, and the next one finds what waits."""

    def __init__(self, ended: "EndedConnections", number: int) -> None:
        self._ended = ended
        self._number = number
        self._given = 0
        self._last_put = 0.0
        self._putting, self.taking = socket.socketpair()
        for end in (self._putting, self.taking):
            end.settimeout(0)
        self.is_served = False
        """Whether a process is there that takes from it."""
        self.is_late = False
        """Whether the process has not taken for too long."""

    def begin(self) -> None:
        """Counts for a new process, which has only the connections that wait."""
        self.is_served = self.is_late = False
        self._given = 0
        self._ended.forget(self._number)
        for _, taken in zip(range(self._messages()), taken_from(self.taking), strict=False):
            if taken.connection is not None:
                with taken.connection as connection:
                    self.put(connection, taken.since)

    @property
    def load(self) -> tuple[int, float]:
        """The connections of the process, with those that wait, and when it was last given one."""
        return self._given - self._ended.of(self._number), self._last_put

    def put(self, connection: socket.socket, since: float) -> bool:
        """Gives a connection to the process; the caller closes its own copy. False if there is no room."""
        descriptor = array.array("i", [connection.fileno()])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)]
        try:
            self._putting.sendmsg([_MESSAGE.pack(since)], rights)
        except OSError:  # the buffer is full, or too many descriptors are on their way
            return False
        self._given += 1
        self._last_put = max(self._last_put, since)
        return True

    def take_back(self) -> socket.socket | None:
        """The connection that waits longest, if there is one; discards probes on the way."""
        for taken in taken_from(self.taking):
            if taken.connection is not None:
                self._given -= 1
                return taken.connection
        return None

    def probe(self) -> None:
        """The queue has something that is overdue until the process takes from it."""
        self._putting.send(_PROBE)

    def waits_since(self) -> float | None:
        """Since when the first connection waits; None if none does."""
        try:
            [since] = _MESSAGE.unpack(self.taking.recv(_MESSAGE.size, socket.MSG_PEEK))
        except BlockingIOError:
            return None
        return float(since)

    def close(self) -> None:
        """Resets the connections that wait."""
        self._putting.close()
        self.taking.close()

    def _messages(self) -> int:
        waiting = array.array("i", [0])
        fcntl.ioctl(self.taking, termios.FIONREAD, waiting)
        return waiting[0] // _MESSAGE.size


class Taken(NamedTuple):
    """What was taken from a queue: a connection; None for a probe, or where no descriptor was free."""

    connection: socket.socket | None
    since: float
    is_lost: bool


def taken_from(taking: socket.socket) -> Iterator[Taken]:
    """What waits in a queue, one by one. Raises EOFError after the last one where the supervisor has gone."""
    while True:
        try:
            message, descriptors, flags, _ = socket.recv_fds(taking, _MESSAGE.size, 1)
        except BlockingIOError:
            return
        if not message:
            raise EOFError
        [since] = _MESSAGE.unpack(message)
        connection = socket.socket(fileno=descriptors[0]) if descriptors else None
        yield Taken(connection, since, bool(flags & socket.MSG_CTRUNC))


class EndedConnections:
    """How many connections of each HTTP process have ended, in memory that the node's processes share.

    Where the disk has no room for it, the supervisor sees no counts, and gives each process equally many.
    """

    def __init__(self, folder: Path, workers: int) -> None:
        self.memory = SharedMemory(folder / "ended-connections", workers)

    def of(self, number: int) -> int:
        """The number for a process."""
        return self.memory.words[number]

    def forget(self, number: int) -> None:
        """Begins again for a new process."""
        self.memory.words[number] = 0

    def close(self) -> None:
        self.memory.close()


class EndedHere:
    """The count of one process, which it writes itself."""

    def __init__(self, folder: Path, number: int) -> None:
        self._all = EndedConnections(folder, number + 1)
        self._number = number
        self._ended = 0

    @property
    def memory(self) -> SharedMemory:
        """Where it is counted."""
        return self._all.memory

    def add(self) -> None:
        """Counts one more."""
        self._ended += 1
        self.memory.words[self._number] = self._ended

    def close(self) -> None:
        self._all.close()
