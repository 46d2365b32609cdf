"""All proofs in one go: first those that bear none beside them, then two at a time, until an end that is set.

Each is a process of its own: what one does to its limits or to the processes that it starts is no other's
business, and one that fails or hangs keeps no other from its turn.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, NamedTuple

from tests.support.processes import descendants

MOST_MINUTES: Final = 55
AT_ONCE: Final = 2

# A proof that is over time gets so long to end what it has started, and then so long before all is killed.
_LATE_S: Final = 30.0
_TO_END_S: Final = 30.0
# In less time a proof shows nothing.
_SHORTEST_S: Final = 60.0
_COMMAND: Final = (sys.executable, "-m", "proof")


class Part(NamedTuple):
    """A proof, and the most minutes that it takes."""

    name: str
    minutes: float


class Ended(NamedTuple):
    """How a proof ended."""

    name: str
    held: bool
    because: str = ""
    """Why it has no result; empty if it has one."""
    seconds: float = 0.0


class Whole:
    """One run of all proofs."""

    def __init__(
        self,
        say: Callable[[str], None],
        command: Sequence[str] = _COMMAND,
        minutes: float = MOST_MINUTES,
        to_end_s: float = _TO_END_S,
    ) -> None:
        self._say = say
        self._command = command
        self._end = time.monotonic() + 60 * minutes
        self._late_s = min(_LATE_S, to_end_s)
        self._to_end_s = to_end_s
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def run(self, alone: Iterable[Part], beside: Iterable[Part]) -> list[Ended]:
        """Runs them in this order; an interruption ends those that run."""
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            ended = [pool.submit(self._prove, part).result() for part in alone]
            return [*ended, *pool.map(self._prove, beside)]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in [*self._running.values()]:
                self._stop(process)
            raise
        finally:
            pool.shutdown()

    def _prove(self, part: Part) -> Ended:
        left = self._end - time.monotonic() - self._late_s - self._to_end_s
        seconds = min(60 * part.minutes, left)
        if seconds < min(_SHORTEST_S, 60 * part.minutes):
            return Ended(part.name, held=False, because="no time was left for it")
        begun = time.monotonic()
        self._say(f"{part.name}: begins, for {seconds / 60:.1f} minutes at most")
        command = [*self._command, part.name, "--minutes", f"{seconds / 60:.2f}"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        self._running[process.pid] = process
        try:
            code: int | None = process.wait(seconds + self._late_s)
        except subprocess.TimeoutExpired:
            self._stop(process)
            code = None
        del self._running[process.pid]
        took = time.monotonic() - begun
        because = ""
        if code is None:
            because = f"it did not end within {seconds / 60:.1f} minutes"
        elif code not in {0, 1}:
            because = f"it ended with exit code {code}"
        self._say(f"{part.name}: {because or 'ended'} after {took:.0f} s")
        return Ended(part.name, code == 0, because, took)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        """Ends a proof and all that it started: in order if it does so in time, else by force."""
        started = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(self._to_end_s)
        for pid in (process.pid, *descendants(process.pid), *started):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
