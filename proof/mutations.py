"""Mutations: seeded faults, each of which the tests near it have to catch.

The list is mutations.tsv, with a line for each: what is wrong, the file, what stands there (once) and what
stands there instead, and the tests near it. They run in a copy of the checkout.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Final, NamedTuple, Self

from proof.results import Measured
from tests.support.postgres import quick_server

ROOT: Final = Path(__file__).parents[1]
LIST: Final = Path(__file__).with_name("mutations.tsv")

# What is no source.
_CACHES: Final = frozenset(
    {".git", ".venv", ".cache", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", "__pycache__"}
)

# The exit code of pytest when a test failed. Any other failure shows nothing about the tests.
FAILED: Final = 1


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
        self._env = os.environ | {"PYTHONPATH": paths, "SEGMENTD_TEST_DATABASE_URL": database_url}
        self._env.pop("PYTHONDONTWRITEBYTECODE", None)

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

    def failed(self, *tests: str) -> str | None:
        """The first test that failed; None if all passed. Raises ChildProcessError if they did not run."""
        ended = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-x",
                "-q",
                "--timeout=120",
                "-p",
                "no:cacheprovider",
                *tests,
            ],
            cwd=self._root,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if ended.returncode == 0:
            return None
        found = [
            line for line in ended.stdout.splitlines() if line.startswith(("FAILED", "ERROR", "+++ Timeout"))
        ]
        if ended.returncode != FAILED or not found:
            raise ChildProcessError(f"pytest ended with {ended.returncode}: {ended.stdout[-2000:]}")
        return found[0].partition(" - ")[0].partition(" ")[2]

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, "utf-8")
        self._now += 2
        os.utime(path, (self._now, self._now))


def catchers(
    chosen: Sequence[Mutation], database_url: str, folder: Path, at_once: int = 2
) -> Iterator[tuple[Mutation, str | None]]:
    """Each fault with the test that caught it; None: no test did.

    Raises ValueError if a test fails without any fault or a fault has no place any more, ChildProcessError.
    """
    copies: Queue[Copy] = Queue()
    for number in range(at_once):
        (folder / str(number)).mkdir()
        copies.put(Copy(folder / str(number), database_url))

    def caught(mutation: Mutation) -> str | None:
        copy = copies.get()
        try:
            with copy.with_fault(mutation):
                return copy.failed(*mutation.tests, "-n0")
        finally:
            copies.put(copy)

    copy = copies.get()
    if test := copy.failed(*sorted({test for mutation in chosen for test in mutation.tests})):
        raise ValueError(f"this fails without any fault: {test}")
    copies.put(copy)
    with ThreadPoolExecutor(at_once) as pool:
        yield from zip(chosen, pool.map(caught, chosen), strict=True)


def run(folder: Path, say: Callable[[str], None]) -> Measured:
    """Tries all of them."""
    chosen = mutations()
    survivors: list[str] = []
    with quick_server(folder) as database_url:
        for mutation, test in catchers(chosen, database_url, folder):
            say(f"mutations: {mutation.what}: {test or 'NOT CAUGHT'}")
            if test is None:
                survivors.append(f"{mutation.what} ({mutation.file})")
    figures = f"{len(chosen) - len(survivors)} of {len(chosen)} seeded faults were caught"
    return Measured(figures, survivors)


def _left_out(folder: str, names: list[str]) -> set[str]:
    """Caches, and at the root what was built or stored."""
    built = {"build", "data", "dist"} if Path(folder) == ROOT else set()
    return {name for name in names if name in built or name in _CACHES}


def _unescaped(text: str) -> str:
    return text.encode("ascii").decode("unicode_escape")
