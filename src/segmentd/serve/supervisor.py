"""Starts the processes of a node, restarts those that die, and stops them in order."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog
from msgspec.structs import replace

from segmentd.background import end
from segmentd.config import Settings
from segmentd.domain.errors import StartupFailed
from segmentd.serve.child import LEAVE, Assignment
from segmentd.serve.connection_queue import ConnectionQueue
from segmentd.serve.cores import usable_cores
from segmentd.serve.distributor import Distributor
from segmentd.serve.fork_server import ForkServer
from segmentd.serve.processes import Process, begun

SHORTEST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 10.0
# A process that ran for so long was healthy: the back-off before its next restart begins again.
HEALTHY_AFTER_S: Final = 30.0
# How often the supervisor checks that the embedded PostgreSQL runs.
LOOK_EVERY_S: Final = 0.5
# How long a child may take beyond the time for running requests before it is killed.
SPARE_SECONDS: Final = 2.5

_log = structlog.get_logger(__name__)


async def supervise(
    kept: Sequence["Kept"],
    ready_line: str | None,
    needed: Callable[[], bool],
    unready_seconds: float,
    distributor: Distributor | None = None,
) -> bool:
    """Keeps processes alive until SIGTERM or SIGINT; prints the line, if any, once all are ready.

    On SIGTERM they first answer for a while that they are not ready, and then stop; a second signal stops
    them at once. The distributor accepts connections meanwhile, and closes the port before they stop. Returns
    False if it stopped because what they need was gone; then the port stays open. Raises StartupFailed if a
    process dies before it is ready.
    """
    stop = Stop()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.ask)
    loop.add_signal_handler(signal.SIGINT, stop.order)
    async with asyncio.TaskGroup() as tasks:
        for process in kept:
            tasks.create_task(process.keep(stop))
        announcing = tasks.create_task(_announce(kept, ready_line))
        if distributor is not None:
            distributor.begin()
        while needed() and not stop.asked.is_set():
            await _within(LOOK_EVERY_S, stop.asked)
        was_asked = stop.asked.is_set()
        if was_asked:
            await _within(unready_seconds, stop.now)
        if distributor is not None:
            await _end_distribution(distributor, port_too=was_asked)
        stop.order()
        announcing.cancel()
    return was_asked


async def _end_distribution(distributor: Distributor, *, port_too: bool) -> None:
    if port_too:
        await distributor.close_port()
    else:
        distributor.pause()


class Stop:
    """A stop in two steps: first it is announced, and a while later it begins."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.now = asyncio.Event()

    def ask(self) -> None:
        """Announces the stop; a second call begins it."""
        if self.asked.is_set():
            self.now.set()
        self.asked.set()

    def order(self) -> None:
        """Begins the stop, announced or not."""
        self.asked.set()
        self.now.set()


async def _within(seconds: float, event: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


async def _announce(kept: Sequence["Kept"], ready_line: str | None) -> None:
    for process in kept:
        await process.ready.wait()
    if ready_line is not None:
        print(ready_line, flush=True)  # noqa: T201 - the promised line


class Kept:
    """One child process, kept alive until the stop."""

    def __init__(
        self,
        module: str,
        assignment: Assignment,
        queue: ConnectionQueue | None = None,
        server: ForkServer | None = None,
    ) -> None:
        self._module = module
        self._server = server
        self._assignment = assignment
        self._queue = queue
        self.ready = asyncio.Event()

    def can_start_again(self) -> bool:
        """False once the fork server has ended."""
        return self._server is None or self._server.is_running()

    async def keep(self, stop: Stop) -> None:
        """Starts the process again whenever it ends, until the stop; then stops it gracefully."""
        loop = asyncio.get_running_loop()
        pause = SHORTEST_PAUSE_S
        while not stop.now.is_set():
            started = loop.time()
            code = await self._run_once(stop)
            if stop.now.is_set():
                return
            if not self.ready.is_set():
                stopping = stop.asked.is_set()
                stop.order()
                if stopping:  # a signal to all processes ended it while it started
                    return
                raise StartupFailed(f"{self._module} ended with exit code {code} before it was ready")
            if loop.time() - started > HEALTHY_AFTER_S:
                pause = SHORTEST_PAUSE_S
            _log.warning(
                "process died, starting it again", process=self._module, exit_code=code, pause_s=pause
            )
            await _within(pause, stop.now)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _run_once(self, stop: Stop) -> int:
        if self._queue is not None:
            self._queue.begin()
        try:
            process, queue = await begun(self._server, self._module, self._assignment.connections)
        except OSError as error:
            _log.warning("process cannot be started", process=self._module, error=str(error))
            return 1
        process.tell(msgspec.json.encode(replace(self._assignment, connections=queue)) + b"\n")
        ended = asyncio.create_task(process.wait())
        listening = asyncio.create_task(self._hear(process))
        telling = asyncio.create_task(_tell(process, stop))
        await asyncio.wait([ended, telling], return_when=asyncio.FIRST_COMPLETED)
        try:
            return await asyncio.wait_for(ended, self._assignment.settings.shutdown_seconds + SPARE_SECONDS)
        except TimeoutError:
            _log.warning("process did not stop in time, killing it", process=self._module, pid=process.pid)
            process.kill()
            return await process.wait()
        finally:
            await end(telling)
            process.close()
            await listening
            if self._queue is not None:
                self._queue.is_served = False
            if self._assignment.metrics_dir is not None:
                _forget_gauges(process.pid, self._assignment.metrics_dir)

    async def _hear(self, process: Process) -> None:
        async for line in process.lines():
            if line == b"ready\n":
                self.ready.set()
                if self._queue is not None:
                    self._queue.is_served = True


def _forget_gauges(pid: int, metrics_dir: str) -> None:
    """Removes the gauges of requests and connections of a process that has ended; its counters stay."""
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 - a start does not need it

    mark_process_dead(pid, metrics_dir)


async def _tell(process: Process, stop: Stop) -> None:
    """Announces the stop to a child, and then stops it."""
    await stop.asked.wait()
    process.tell(LEAVE)
    await stop.now.wait()
    process.close()


def worker_count(settings: Settings) -> int:
    """The number of HTTP processes: the setting, or one for each core that this process may use."""
    return settings.workers or usable_cores()
