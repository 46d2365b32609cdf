"""The tests that `make test` leaves out because they take long."""

import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from threading import Thread
from typing import IO, Final

from proof.results import Measured

# Two, since another proof runs beside them; whatever fails tells so without its whole output.
_COMMAND: Final = (
    *(sys.executable, "-m", "pytest", "-m", "proof", "--numprocesses=2", "--verbose", "--timeout=1200"),
    *("-rs", "--tb=short", "--show-capture=no", "--durations=30"),
)
_TO_END_S: Final = 45.0
_OUTCOME: Final = re.compile(r"^\[gw\d+\] \[ *\d+%\] (PASSED|FAILED|SKIPPED|ERROR) (.+?)\s*$")
_SKIPPED: Final = re.compile(r"^SKIPPED \[(\d+)\] [^:]+:\d+: (.+)")
_CHOSEN: Final = re.compile(r"workers \[(\d+) items\]")
_TOOK: Final = re.compile(r"^\d+\.\d+s (?:call|setup|teardown) ")


def run(seconds: float, say: Callable[[str], None]) -> Measured:
    """Runs them, or as many as end within this time."""
    process = subprocess.Popen(_COMMAND, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen = _Seen()
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    told = (_read, process.stdout, seen, say)
    reading = Thread(target=copy_context().run, args=told, daemon=True)
    reading.start()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        seen.is_over = True
    finally:
        _end(process)
    reading.join(5)  # what a test has left behind may hold the pipe open
    failed = [test for test, outcome in seen.outcomes.items() if outcome in {"FAILED", "ERROR"}]
    if process.returncode and not failed and not seen.is_over:
        failed = [f"pytest ended with exit code {process.returncode}"]
    return Measured(seen.figures(), failed)


class _Seen:
    """What pytest has said."""

    def __init__(self) -> None:
        self.chosen = 0
        self.is_over = False
        """Whether those that are still at work have been interrupted, so that how they end says nothing."""
        self.outcomes: dict[str, str] = {}
        self.skipped = Counter[str]()

    def figures(self) -> str:
        counts = Counter(outcome.lower() for outcome in self.outcomes.values())
        said = [f"{count} {outcome}" for outcome, count in sorted(counts.items())]
        if self.chosen > len(self.outcomes):
            said.append(f"{self.chosen - len(self.outcomes)} not done, as the time was over")
        why = "; ".join(f"{count}: {reason}" for reason, count in self.skipped.items())
        return ", ".join(said) + (f" ({why})" if why else "")


def _read(output: IO[str], seen: _Seen, say: Callable[[str], None]) -> None:
    for line in output:
        if seen.is_over:
            continue
        if found := _OUTCOME.match(line):
            seen.outcomes[found[2]] = found[1]
            if found[1] != "SKIPPED":
                say(f"{found[2]} {found[1].lower()}")
        elif found := _SKIPPED.match(line):
            seen.skipped[found[2]] += int(found[1])
        elif found := _CHOSEN.search(line):
            seen.chosen = int(found[1])
        elif _TOOK.match(line) or line.startswith(("E  ", "FAILED", "ERROR", "=====")):
            say(f"{line.rstrip()}")


def _end(process: subprocess.Popen[str]) -> None:
    """Lets the tests that run clean up, if they do so in time."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_TO_END_S)
        process.kill()
    process.wait()
