"""Accepts the connections of a node, and gives each to the HTTP process that has the fewest.

A connection stays where it is, and all other ways leave them uneven (docs/decisions/0058).
"""

import asyncio
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import structlog

from segmentd.observability.throttled import ThrottledLog
from segmentd.serve.connection_queue import OVERDUE, ConnectionQueue, EndedConnections

# How long a connection may wait at a process before another one gets it. A process that is merely busy takes
# its connections much sooner.
LONGEST_WAIT_S: Final = 0.2
# How often the queues are checked, as long as connections wait in them.
LOOK_EVERY_S: Final = 0.05
# The pause where no process has room for a connection, or the system for its descriptor.
PAUSE_S: Final = 0.005
# How many are accepted at a time: the supervisor has other duties.
AT_A_TIME: Final = 64
# For how long the stop waits until there is room for the last connections.
_LAST_SECONDS: Final = 0.25

_log = structlog.get_logger(__name__)


class Distributor:
    """Accepts connections at a listening socket from `begin` until `pause` or `close_port`."""

    def __init__(self, listener: socket.socket, folder: Path, workers: int) -> None:
        listener.settimeout(0)
        self._listener = listener
        self._ended = EndedConnections(folder, workers)
        self.queues: Sequence[ConnectionQueue] = [
            ConnectionQueue(self._ended, number) for number in range(workers)
        ]
        # A connection for which no process had room.
        self._held: socket.socket | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._throttled = ThrottledLog(_log)

    def begin(self) -> None:
        """Accepts from now on, in the running event loop."""
        self._accept_again()
        self._look_later()

    def pause(self) -> None:
        """Leaves new connections in the backlog of the socket."""
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    async def close_port(self) -> None:
        """Gives away what waits in the backlog, also to late processes, and closes the listening socket."""
        self.pause()
        loop = asyncio.get_running_loop()
        give_up = loop.time() + _LAST_SECONDS
        while (connection := self._next()) is not None:
            with connection:
                while not self._give(connection, self._usable()) and not self._give(connection, self.queues):
                    if loop.time() > give_up:
                        _log.warning("connections were reset by the stop: no process took them")
                        self._listener.close()
                        return
                    await asyncio.sleep(PAUSE_S)
        self.pause()
        self._listener.close()

    def close(self) -> None:
        """Resets the connections that wait; the listening socket is the caller's."""
        for queue in self.queues:
            queue.close()
        if self._held is not None:
            self._held.close()
        self._ended.close()

    def _accept_again(self) -> None:
        self._timers.pop("accept", None)
        asyncio.get_running_loop().add_reader(self._listener, self._distribute)
        self._distribute()

    def _distribute(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(AT_A_TIME):
            if (connection := self._next()) is None:
                return
            if not self._give(connection, self._usable()):
                self._held = connection
                loop.remove_reader(self._listener)
                self._timers["accept"] = loop.call_later(PAUSE_S, self._accept_again)
                return
            connection.close()

    def _next(self) -> socket.socket | None:
        """The connection that waits longest; None if none does."""
        if (held := self._held) is not None:
            self._held = None
            return held
        while True:
            try:
                return self._listener.accept()[0]
            except BlockingIOError:
                return None
            except ConnectionAbortedError:
                continue
            except OSError as error:  # no descriptor or no memory is free; the event loop asks again
                self._throttled.warning("cannot accept a connection", error=error.strerror)
                return None

    def _usable(self) -> list[ConnectionQueue]:
        return [queue for queue in self.queues if queue.is_served and not queue.is_late]

    def _give(self, connection: socket.socket, queues: Iterable[ConnectionQueue]) -> bool:
        """Gives it to the process with the fewest connections that has room for it; False if none has."""
        now = asyncio.get_running_loop().time()
        if any(queue.put(connection, now) for queue in sorted(queues, key=lambda each: each.load)):
            self._look_later()
            return True
        return False

    def _look_later(self) -> None:
        if "look" not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers["look"] = loop.call_later(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        """Finds the processes that take no connections, and gives theirs to others."""
        del self._timers["look"]
        self._ended.memory.share()
        now = asyncio.get_running_loop().time()
        for queue in self.queues:
            since = queue.waits_since()
            queue.is_late = since is not None and since < now - LONGEST_WAIT_S
            if since is not None:
                self._look_later()
        for queue in self.queues:
            if queue.is_late or not queue.is_served:
                self._give_to_others(queue)

    def _give_to_others(self, queue: ConnectionQueue) -> None:
        if not (others := self._usable()):
            return
        while (connection := queue.take_back()) is not None:
            with connection:
                if not self._give(connection, others):
                    queue.put(connection, OVERDUE)
                    return
        queue.probe()
