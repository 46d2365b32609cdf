"""The protocol between a supervised process and its supervisor (docs/decisions/0009).

The supervisor writes one line of JSON, the assignment, to the standard input of the child and keeps that
pipe open: its end means stop, whether the supervisor asks for it or was killed. A line `leave` before that
means that the stop is near. The child writes `ready` to its standard output once.
"""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import msgspec
import uvloop

from segmentd.background import background, end
from segmentd.config import Settings
from segmentd.observability import measure_into
from segmentd.observability.logs import set_up_logging

LEAVE: Final = b"leave\n"


class Assignment(msgspec.Struct, frozen=True):
    """What a child needs to know."""

    settings: Settings
    database_url: str
    replica_dir: str | None = None
    """The folder of the replica."""
    number: int = 0
    """Which of the HTTP processes it is."""
    connections: int | None = None
    """The inherited descriptor of its queue of connections."""
    may_be_open: bool = False
    """Whether everybody may call while there is no access control."""
    rate_key: bytes = b""
    """The secret with which all processes of this node hash callers for the rate limit."""
    grpc_address: str | None = None
    """Where gRPC is served; the supervisor keeps the port."""
    http_url: str = ""
    """Where HTTP is served."""
    metrics_dir: str | None = None
    """The folder of this node's metric files; None: nothing is measured."""


class Duty:
    """A child's side of the protocol: `leaving` is set when a stop is near, `stop` when it is due."""

    def __init__(self) -> None:
        self.leaving = asyncio.Event()
        self.stop = asyncio.Event()

    async def leaving_or_stop(self) -> None:
        """Waits until a stop is near."""
        first = [asyncio.create_task(event.wait()) for event in (self.leaving, self.stop)]
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(*first)

    @staticmethod
    def report_ready() -> None:
        """Reports to the supervisor that this process is ready."""
        # What is in memory now stays there until the end. The garbage collector need not look through it:
        # that would delay requests, and take a quarter of a second at the end.
        gc.freeze()
        gc.enable()
        # A supervisor that has ended needs no report; `watch` finds out, and begins the stop.
        with suppress(BrokenPipeError):
            os.write(sys.stdout.fileno(), b"ready\n")

    async def watch(self) -> None:
        """Sets `stop` when the supervisor closes the pipe, or has ended."""
        loop = asyncio.get_running_loop()
        # Ctrl-C reaches the whole group, and some service managers send SIGTERM to all processes. But only
        # the supervisor decides when to stop.
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, lambda: None)
        lifeline = asyncio.StreamReader()
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lifeline), os.fdopen(0, "rb", buffering=0)
        )
        while line := await lifeline.readline():
            if line == LEAVE:
                self.leaving.set()
        self.stop.set()


def run_child(work: Callable[[Assignment, Duty], Awaitable[None]]) -> None:
    """The main function of a child process."""
    gc.disable()  # until this process is ready: what it makes stays
    assignment = msgspec.json.decode(_first_line(), type=Assignment)
    measure_into(assignment.metrics_dir)
    set_up_logging(assignment.settings.log_level)
    uvloop.run(_run(work, assignment))


async def _run(work: Callable[[Assignment, Duty], Awaitable[None]], assignment: Assignment) -> None:
    duty = Duty()
    async with background(duty.watch(), "watch the supervisor"):
        await work(assignment, duty)


def _first_line() -> bytes:
    """Reads up to the line feed and not further: the event loop reads the rest of the pipe."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit(1)
        line += byte
    return bytes(line)
