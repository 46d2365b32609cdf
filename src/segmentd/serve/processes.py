"""A process that was started for a node: forked where the system can, else with an interpreter of its own."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from typing import Protocol, Self

from segmentd.serve.fork_server import QUEUE, ForkServer


class Process(Protocol):
    """A child of the supervisor, with a pipe to it and one from it."""

    pid: int

    def tell(self, line: bytes) -> None:
        """Writes to its standard input, unless it has ended."""

    def close(self) -> None:
        """Ends its standard input."""

    def lines(self) -> AsyncIterator[bytes]:
        """Its standard output."""

    def kill(self) -> None:
        """Ends it at once, unless it has ended."""

    async def wait(self) -> int:
        """Waits for its end; the exit code, below 0 the number of a signal."""


class Forked:
    """Forked by a fork server, which tells what became of it."""

    def __init__(
        self, pid: int, lifeline: int, said: asyncio.StreamReader, fate: asyncio.StreamReader
    ) -> None:
        self.pid = pid
        self._lifeline: int | None = lifeline
        self._said = said
        self._fate = fate
        self._descriptor: int | None
        try:
            self._descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._descriptor = None

    @classmethod
    async def begun(cls, server: ForkServer, module: str, queue: int | None) -> Self:
        """Has it forked. Raises OSError."""
        with ExitStack() as theirs, ExitStack() as ours:
            stdin, lifeline = os.pipe()
            ours.callback(os.close, lifeline)
            theirs.callback(os.close, stdin)
            said, stdout = await _pipe(ours, theirs)
            fate, telling = await _pipe(ours, theirs)
            server.ask(module, [stdin, stdout, telling, *([] if queue is None else [queue])])
            theirs.close()
            if not (pid := await fate.readline()):
                raise OSError("the process could not be forked")
            ours.pop_all()
            return cls(int(pid), lifeline, said, fate)

    def tell(self, line: bytes) -> None:
        """As above."""
        if self._lifeline is not None:
            with suppress(BrokenPipeError):
                os.write(self._lifeline, line)

    def close(self) -> None:
        """As above."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    def lines(self) -> AsyncIterator[bytes]:
        """As above."""
        return self._said

    def kill(self) -> None:
        """As above."""
        if self._descriptor is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    async def wait(self) -> int:
        """As above; 1 if the fork server ended before it could tell."""
        if (descriptor := self._descriptor) is not None:
            loop = asyncio.get_running_loop()
            ended = asyncio.Event()
            loop.add_reader(descriptor, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(descriptor)
            os.close(descriptor)
            self._descriptor = None
        return int(await self._fate.read() or 1)  # up to the end of the pipe


class Executed:
    """Started with a new interpreter."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._process = process
        self.wait = process.wait

    @classmethod
    async def begun(cls, module: str, queue: int | None) -> Self:
        """Starts it. Raises OSError."""
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", module,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                pass_fds=[] if queue is None else [queue],
            )
        )  # fmt: skip

    def tell(self, line: bytes) -> None:
        """As above."""
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        self._process.stdin.write(line)

    def close(self) -> None:
        """As above."""
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        self._process.stdin.close()

    def lines(self) -> AsyncIterator[bytes]:
        """As above."""
        assert self._process.stdout is not None  # noqa: S101 - asked for above
        return self._process.stdout

    def kill(self) -> None:
        """As above."""
        with suppress(ProcessLookupError):
            self._process.kill()


async def begun(server: ForkServer | None, module: str, queue: int | None) -> tuple[Process, int | None]:
    """Starts a process, and says where it finds its queue of connections. Raises OSError."""
    if server is None:
        return await Executed.begun(module, queue), queue
    return await Forked.begun(server, module, queue), None if queue is None else QUEUE


async def _pipe(ours: ExitStack, theirs: ExitStack) -> tuple[asyncio.StreamReader, int]:
    reading, writing = os.pipe()
    theirs.callback(os.close, writing)
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", buffering=0)
    )
    ours.callback(transport.close)
    return reader, writing
