"""Mutations: seeded faults, each of which the tests near it have to catch.

The list is mutations.tsv, with a line for each: what is wrong, the file, what stands there (once) and what
stands there instead, and the tests near it. They run in copies of the checkout, by proof/warm.py.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from queue import Queue
from typing import Final, NamedTuple, Self

from proof.results import Measured
from tests.support.postgres import quick_server
from tests.support.processes import descendants

ROOT: Final = Path(__file__).parents[1]
LIST: Final = Path(__file__).with_name("mutations.tsv")

# What is no source.
_CACHES: Final = frozenset(
    {".git", ".venv", ".cache", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", "__pycache__"}
)

# The exit codes of pytest when a test failed; others show nothing about the tests.
FAILED: Final = frozenset({1, 2})

# After this the tests near a fault count as hanging, which nobody overlooks.
_PATIENCE_S: Final = 240.0


class Mutation(NamedTuple):
    """A fault."""

    what: str
    file: str
    before: str
    after: str
    tests: Sequence[str]

    @classmethod
    def read(cls, line: str) -> Self:
        """From a line of the list; line feeds and backslashes are escaped in it."""
        what, file, before, after, tests = line.split("\t")
        return cls(what, file, _unescaped(before), _unescaped(after), tests.split())

    def applied(self, text: str) -> str:
        """The text of the file with the fault. Raises ValueError if the place is not there exactly once."""
        if text.count(self.before) != 1:
            raise ValueError(f"{self.file} has {text.count(self.before)} times: {self.before}")
        return text.replace(self.before, self.after)


def mutations() -> list[Mutation]:
    """The list."""
    _, *lines = LIST.read_text("utf-8").splitlines()
    return [Mutation.read(line) for line in lines]


class Copy:
    """A copy of the checkout, in which one fault after the other is made and mended."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self._root = folder
        shutil.copytree(ROOT, folder, ignore=_left_out, dirs_exist_ok=True)
        (folder / ".venv").symlink_to(ROOT / ".venv")
        paths = os.pathsep.join(str(folder / source) for source in ("src", "clients/python/src"))
        # Modules are compiled again where their times are others: each fault has a second of its own.
        self._now = int(time.time())
        self._env = os.environ | {
            "PYTHONPATH": paths,
            "SEGMENTD_TEST_DATABASE_URL": database_url,
            "SEGMENTD_TEST_FAILS_FAST": "1",
        }
        self._env.pop("PYTHONDONTWRITEBYTECODE", None)
        self._warm: subprocess.Popen[bytes] | None = None

    @contextmanager
    def with_fault(self, mutation: Mutation) -> Iterator[None]:
        """Has the fault as long as the context lives."""
        path = self._root / mutation.file
        whole = path.read_text("utf-8")
        self._write(path, mutation.applied(whole))
        try:
            yield
        finally:
            self._write(path, whole)

    def failed(self, *tests: str, seconds: float = _PATIENCE_S) -> str | None:
        """The first test that failed; None if all passed. Raises ChildProcessError if they did not run."""
        output = self._root / "output-of-pytest"
        code = self._ran(
            str(output), "-x", "-q", "--timeout=120", "-p", "no:cacheprovider", *tests, seconds=seconds
        )
        if code is None:
            return "the tests did not end"
        if code == 0:
            return None
        said = output.read_text("utf-8", "replace")
        found = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR", "+++ Timeout"))]
        if code not in FAILED or not found:
            raise ChildProcessError(f"pytest ended with {code}: {said[-2000:]}")
        return found[0].partition(" - ")[0].partition(" ")[2]

    def close(self) -> None:
        """Ends the process that runs pytest."""
        if self._warm is not None:
            self._kill()

    def _ran(self, *arguments: str, seconds: float) -> int | None:
        """The exit code of pytest; None if it did not end in time."""
        if self._warm is None:
            self._warm = subprocess.Popen(
                [sys.executable, "-m", "proof.warm"],
                cwd=self._root,
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        told, said = self._warm.stdin, self._warm.stdout
        assert told is not None  # noqa: S101 - they are pipes
        assert said is not None  # noqa: S101
        told.write(json.dumps(arguments).encode() + b"\n")
        told.flush()
        if not select.select([said], [], [], seconds)[0]:
            self._kill()
            return None
        line = said.readline()
        if not line:
            raise ChildProcessError("the process that runs pytest has ended")
        return int(line)

    def _kill(self) -> None:
        assert self._warm is not None  # noqa: S101 - it runs
        started = descendants(self._warm.pid)
        self._warm.kill()
        self._warm.communicate()
        self._warm = None
        for pid in started:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, "utf-8")
        self._now += 2
        os.utime(path, (self._now, self._now))


def catchers(
    chosen: Sequence[Mutation], database_url: str, folder: Path, seconds: float, at_once: int = 2
) -> Iterator[tuple[Mutation, str | None]]:
    """Each fault with the test that caught it, or None; after so many seconds no further one is tried.

    Raises ValueError if a test fails without any fault or a fault has no place any more, ChildProcessError.
    """
    over = time.monotonic() + seconds
    copies: Queue[Copy] = Queue()

    def caught(mutation: Mutation) -> tuple[str | None] | None:
        copy = copies.get()
        try:
            if time.monotonic() > over:
                return None
            with copy.with_fault(mutation):
                return (copy.failed(*mutation.tests, "-n0"),)
        finally:
            copies.put(copy)

    with ExitStack() as stack:
        for number in range(at_once):
            (folder / str(number)).mkdir()
            copies.put(stack.enter_context(closing(Copy(folder / str(number), database_url))))
        failing: set[str] = set()
        pool = stack.enter_context(ThreadPoolExecutor(at_once))
        for mutation, found in zip(chosen, pool.map(caught, chosen), strict=True):
            if found is not None:
                yield mutation, found[0]
                failing |= {test.partition("[")[0] for test in found if test and test.startswith("tests/")}
        copy = copies.get()
        test = copy.failed(*sorted(failing), "-n2", seconds=2 * _PATIENCE_S) if failing else None
        # Once more, as another proof may be at work beside it.
        if test and copy.failed(test.partition("[")[0], "-n0"):
            raise ValueError(f"this fails without any fault: {test}")


def run(folder: Path, say: Callable[[str], None], seconds: float) -> Measured:
    """Tries all of them, or as many as it can in this time."""
    chosen = mutations()
    tried = 0
    survivors: list[str] = []
    with quick_server(folder) as database_url:
        for mutation, test in catchers(chosen, database_url, folder, seconds):
            tried += 1
            say(f"{mutation.what}: {test or 'NOT CAUGHT'}")
            if test is None:
                survivors.append(f"{mutation.what} ({mutation.file})")
    short = f", {len(chosen) - tried} were not tried, as the time was over" if tried < len(chosen) else ""
    return Measured(f"{tried - len(survivors)} of {tried} seeded faults were caught{short}", survivors)


def _left_out(folder: str, names: list[str]) -> set[str]:
    """Caches, and at the root what was built or stored."""
    built = {"build", "data", "dist"} if Path(folder) == ROOT else set()
    return {name for name in names if name in built or name in _CACHES}


def _unescaped(text: str) -> str:
    return text.encode("ascii").decode("unicode_escape")
