"""Starts the processes of a node, restarts those that die, and stops them in order."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import structlog
from prometheus_client.multiprocess import mark_process_dead

from segmentd.background import end
from segmentd.config import Settings
from segmentd.domain.errors import StartupFailed
from segmentd.observability import FOLDER_VARIABLE
from segmentd.serve.child import LEAVE, Assignment
from segmentd.serve.connection_queue import ConnectionQueue
from segmentd.serve.cores import usable_cores
from segmentd.serve.distributor import Distributor

SHORTEST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 10.0
# A process that ran for so long was healthy: the back-off before its next restart begins again.
HEALTHY_AFTER_S: Final = 30.0
# How often the supervisor checks that the embedded PostgreSQL runs.
LOOK_EVERY_S: Final = 0.5
# How long a child may take beyond the time for running requests before it is killed.
SPARE_SECONDS: Final = 2.5
# How long the gRPC worker of a killed service may have its port when the next service starts.
LEFTOVER_S: Final = 10.0

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
    False if it stopped because the embedded database was gone; then the port stays open. Raises StartupFailed
    if a process dies before it is ready.
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

    def __init__(self, module: str, assignment: Assignment, queue: ConnectionQueue | None = None) -> None:
        self._module = module
        self._assignment = assignment
        self._queue = queue
        self.ready = asyncio.Event()

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
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", self._module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=[] if self._assignment.connections is None else [self._assignment.connections],
            env=_environment(self._assignment),
        )  # fmt: skip
        assert process.stdin is not None  # noqa: S101 - asked for above
        process.stdin.write(msgspec.json.encode(self._assignment) + b"\n")
        ended = asyncio.create_task(process.wait())
        listening = asyncio.create_task(self._hear(process))
        telling = asyncio.create_task(_tell(process.stdin, stop))
        await asyncio.wait([ended, telling], return_when=asyncio.FIRST_COMPLETED)
        try:
            return await asyncio.wait_for(ended, self._assignment.settings.shutdown_seconds + SPARE_SECONDS)
        except TimeoutError:
            _log.warning("process did not stop in time, killing it", process=self._module, pid=process.pid)
            process.kill()
            return await process.wait()
        finally:
            await end(telling)
            process.stdin.close()
            await listening
            if self._queue is not None:
                self._queue.is_served = False
            if self._assignment.metrics_dir is not None:
                # Removes its gauges of requests and connections; its counters stay.
                mark_process_dead(process.pid, self._assignment.metrics_dir)

    async def _hear(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - asked for by the caller
        async for line in process.stdout:
            if line == b"ready\n":
                self.ready.set()
                if self._queue is not None:
                    self._queue.is_served = True


async def _tell(lifeline: asyncio.StreamWriter, stop: Stop) -> None:
    """Announces the stop to a child, and then stops it."""
    await stop.asked.wait()
    lifeline.write(LEAVE)
    await stop.now.wait()
    lifeline.close()


def _environment(assignment: Assignment) -> Mapping[str, str]:
    """Our environment with the child's folder of metric files, and without another one."""
    ours = {name: value for name, value in os.environ.items() if name.upper() != FOLDER_VARIABLE}
    return ours if assignment.metrics_dir is None else ours | {FOLDER_VARIABLE: assignment.metrics_dir}


def worker_count(settings: Settings) -> int:
    """The number of HTTP processes: the setting, or one for each core that this process may use."""
    return settings.workers or usable_cores()


def bind(settings: Settings) -> socket.socket:
    """A bound socket that does not listen yet.

    Raises StartupFailed for an address or port that it cannot have.
    """
    return _bound(settings.host, settings.port)


def bind_grpc(settings: Settings) -> socket.socket | None:
    """A socket that keeps the port of gRPC for the process that serves it, and never listens; None without.

    It shares the port (SO_REUSEPORT), so that the process can take it, and take it again after a restart. A
    socket that shares it with nobody finds out before whether somebody else has it: for some seconds that may
    be the worker of a service that was killed. Raises StartupFailed.
    """
    if settings.grpc_port == 0:
        return None
    give_up = time.monotonic() + LEFTOVER_S
    while True:
        try:
            _bound(settings.host, settings.grpc_port).close()
            break
        except StartupFailed as failed:
            is_in_use = isinstance(failed.__cause__, OSError) and failed.__cause__.errno == errno.EADDRINUSE
            if not is_in_use or time.monotonic() > give_up:
                raise
        time.sleep(0.05)
    return _bound(settings.host, settings.grpc_port, shared=True)


def _bound(host: str, port: int, *, shared: bool = False) -> socket.socket:
    try:
        [(family, kind, protocol, _, target), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with contextlib.ExitStack() as undo:
            bound = undo.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind(target)
            undo.pop_all()
    except OSError as error:
        raise StartupFailed(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error
    return bound


def listen(bound: socket.socket, backlog: int) -> None:
    """Starts to listen. Raises StartupFailed if another process listens on the same address already."""
    try:
        bound.listen(backlog)
    except OSError as error:
        host, port, *_ = bound.getsockname()
        raise StartupFailed(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None


def address(listener: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"
