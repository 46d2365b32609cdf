"""The command `segmentd` in a process of its own that has imported everything already.

Python imports for half a second, and tests run hundreds of commands: all are forked from one process, and so
are their fork servers (tests/support/becoming.py).
"""

import multiprocessing
import os
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from segmentd.__main__ import main
from tests.support.becoming import fork_the_fork_server

_FORKED: Final = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload([__name__])


def run_forked(
    arguments: Sequence[str], cwd: Path, env: Mapping[str, str], patience_s: float
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    with TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = _FORKED.Process(target=_command, args=(arguments, cwd, {**env}, out, err))
        process.start()
        process.join(patience_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([*arguments], patience_s, out.read_bytes(), err.read_bytes())
        ended = subprocess.CompletedProcess[str](
            [*arguments], process.exitcode, out.read_text(), err.read_text()
        )
        process.close()
        return ended


class Running:
    """A command that runs in a session of its own, its standard error in a file. Has what Popen has of it."""

    def __init__(
        self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], err: Path, *, as_shipped: bool
    ) -> None:
        self.args: Final = [*arguments]
        self._out, theirs = _FORKED.Pipe(duplex=False)
        self._process = _FORKED.Process(
            target=_session, args=(arguments, cwd, {**env}, theirs, err, as_shipped)
        )
        self._process.start()
        theirs.close()
        self.pid: Final = self._process.pid or 0

    def line(self, patience_s: float) -> str:
        """The first line of standard output, or what came of it within this time."""
        return self._read(patience_s, b"\n")

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    def wait(self, patience_s: float | None = None) -> int:
        """Waits for the end; the exit code. Raises subprocess.TimeoutExpired."""
        self._process.join(patience_s)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, patience_s or 0)
        return self._process.exitcode

    def ended(self, patience_s: float) -> tuple[int, str]:
        """Waits for the end; the exit code, and the rest of standard output."""
        rest = self._read(patience_s, None)
        return self.wait(patience_s), rest

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it, unless the process has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def close(self) -> None:
        """Waits for the end, and forgets the process."""
        self._process.join()
        self._process.close()
        self._out.close()

    def _read(self, patience_s: float, end: bytes | None) -> str:
        """Standard output up to these bytes, or up to where all processes that write to it have ended."""
        found = b""
        deadline = time.monotonic() + patience_s
        while end is None or not found.endswith(end):
            readable, _, _ = select.select([self._out], [], [], max(0, deadline - time.monotonic()))
            if not readable or not (some := os.read(self._out.fileno(), 1 if end else 65536)):
                break
            found += some
        return found.decode()


class Piped:
    """A Python module in a process that is told lines, and answers in lines. Has what Popen has of it."""

    def __init__(self, module: str, *arguments: str) -> None:
        theirs, our_in = _FORKED.Pipe(duplex=False)
        our_out, answers = _FORKED.Pipe(duplex=False)
        self._process = _FORKED.Process(target=_answer, args=(module, arguments, theirs, answers))
        self._process.start()
        for end in (theirs, answers):
            end.close()
        self.pid: Final = self._process.pid or 0
        self.stdin: Final = os.fdopen(os.dup(our_in.fileno()), "w")
        self.stdout: Final = os.fdopen(os.dup(our_out.fileno()))
        for end in (our_in, our_out):
            end.close()

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    def end(self) -> None:
        """Tells it nothing more, and waits for the end."""
        self.stdin.close()
        self._process.join()
        self._process.close()
        self.stdout.close()


def _answer(
    module: str,
    arguments: Sequence[str],
    told: "Connection[bytes, bytes]",
    answers: "Connection[bytes, bytes]",
) -> None:
    for end, descriptor in ((told, 0), (answers, 1)):
        os.dup2(end.fileno(), descriptor)
        end.close()
    sys.stdin = os.fdopen(0)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _session(
    arguments: Sequence[str],
    cwd: Path,
    env: dict[str, str],
    out: "Connection[bytes, bytes]",
    err: Path,
    as_shipped: bool,  # noqa: FBT001 - the arguments of a process have no names
) -> None:
    os.setsid()
    if not as_shipped:
        fork_the_fork_server()
    os.dup2(out.fileno(), sys.stdout.fileno())
    out.close()
    with err.open("ab") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    _run(arguments, cwd, env)


def _command(arguments: Sequence[str], cwd: Path, env: dict[str, str], out: Path, err: Path) -> None:
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    _run(arguments, cwd, env)


def _run(arguments: Sequence[str], cwd: Path, env: dict[str, str]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["segmentd", *arguments]
    main()
