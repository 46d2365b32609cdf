"""The data directory of the embedded PostgreSQL: its files, its lock, and what a killed run left.

postgres/           PGDATA
postgres.password   the password of the role segmentd
postgres.log        of this run; postgres.log.1 of the one before
postgres.lock       locked (flock) by the process that runs it; says its process id and the socket's folder
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self

from segmentd.domain.errors import StartupFailed
from segmentd.storage.embedded_launch import Account

POLL_SECONDS: Final = 0.02
# The signals that end a postmaster, and how long each may take: fast shutdown, immediate shutdown, kill.
SHUTDOWN: Final = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0))
_LOCK_SECONDS: Final = 0.5
_INIT_PREFIX: Final = "postgres.init-"
_SOCKET_PREFIX: Final = "segmentd-postgres-"
PORT: Final = "5432"  # no more than a part of the socket's name
_SOCKET_NAME: Final = f".s.PGSQL.{PORT}"
_SOCKET_PATH_BYTES: Final = 103  # sun_path without its closing zero on macOS and the BSDs; Linux has 107


class Postmaster(NamedTuple):
    """What `postmaster.pid` says about the server that runs, or ran, on a PGDATA."""

    pid: int
    socket_dir: str
    ready: bool
    """Whether it accepts connections."""


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The places in one data directory."""

    path: Path

    @classmethod
    def open(cls, data_dir: Path) -> Self:
        """Makes the folder if needed; raises StartupFailed when it cannot be used."""
        # Others may pass through root's folder, not list it: the account that runs PostgreSQL must reach
        # PGDATA.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        try:
            data_dir.mkdir(mode, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise StartupFailed(
                f"the data directory {data_dir} is a file, or lies under one: name a folder"
            ) from None
        except OSError as error:
            raise StartupFailed(f"the data directory {data_dir} cannot be made: {error.strerror}") from None
        if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
            raise StartupFailed(
                f"the data directory {data_dir} is not writable for the user with id {os.geteuid()}"
            )
        return cls(data_dir.resolve())

    @property
    def pgdata(self) -> Path:
        """PostgreSQL's own folder."""
        return self.path / "postgres"

    @property
    def password_file(self) -> Path:
        """Holds the password of the role segmentd; only its owner may read it."""
        return self.path / "postgres.password"

    @property
    def log_file(self) -> Path:
        """What PostgreSQL says in this run."""
        return self.path / "postgres.log"

    @property
    def lock_file(self) -> Path:
        """Locked by the process that runs PostgreSQL from here."""
        return self.path / "postgres.lock"

    def password(self) -> str:
        """The password made at the first start; raises FileNotFoundError if the file was removed."""
        return self.password_file.read_text("utf-8").strip()

    def make_password(self) -> str:
        """Makes a password and keeps it at mode 0600, in place of one of a first start that did not end."""
        password = secrets.token_urlsafe(24)
        new = self.password_file.with_suffix(".new")
        new.unlink(missing_ok=True)
        with os.fdopen(self._open(new, os.O_WRONLY | os.O_EXCL), "w") as file:
            file.write(password)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.password_file)
        return password

    def open_log(self) -> int:
        """Starts a new log, keeps only the one before it, and returns a descriptor to append to."""
        with contextlib.suppress(FileNotFoundError):
            self.log_file.replace(self.log_file.with_name("postgres.log.1"))
        return self._open(self.log_file, os.O_WRONLY | os.O_APPEND)

    def open_lock(self) -> int:
        """A descriptor of the lock file, not locked yet."""
        return self._open(self.lock_file, os.O_RDWR)

    def _open(self, path: Path, flags: int) -> int:
        # O_NOFOLLOW: root may work in a folder in which another user can place links.
        descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        if os.geteuid() == 0:  # in another user's folder, that user's next start must be able to open it
            owner = self.path.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        return descriptor

    def make_init_dir(self) -> Path:
        """A new folder beside PGDATA for initdb."""
        return Path(tempfile.mkdtemp(prefix=_INIT_PREFIX, dir=self.path))

    def clear_init_dirs(self) -> None:
        """Removes the folders of first starts that did not finish; one in use is left for a later start."""
        for half_made in self.path.glob(f"{_INIT_PREFIX}*"):
            shutil.rmtree(half_made, ignore_errors=True)

    def sync(self) -> None:
        """Brings new names in the folder to the disk."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def postmaster(self) -> Postmaster | None:
        """The server that runs on PGDATA, or that ran and was killed."""
        try:
            lines = (self.pgdata / "postmaster.pid").read_text("utf-8", "surrogateescape").splitlines()
        except FileNotFoundError:
            return None
        try:  # the format: src/include/utils/pidfile.h of PostgreSQL
            return Postmaster(abs(int(lines[0])), "".join(lines[4:5]), "".join(lines[7:8]).strip() == "ready")
        except (IndexError, ValueError):
            return None

    def stop_leftover(self) -> int | None:
        """Ends a server whose owner has died; call it only under the lock.

        Returns the process id in a `postmaster.pid` that is left: of a dead process, or of an unrelated one.
        """
        left = self.postmaster()
        if left is None:
            # A file without a number: killed before it wrote a byte. PostgreSQL would refuse to start.
            (self.pgdata / "postmaster.pid").unlink(missing_ok=True)
            return None
        for number, seconds in SHUTDOWN:
            if not self._is_served_by(left.pid):
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(left.pid, number)
            _wait_while(lambda: self._is_served_by(left.pid), seconds)
        still = self.postmaster()
        return still and still.pid

    def _is_served_by(self, pid: int) -> bool:
        # By its command line: everyone may read it, and a zombie has none.
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            return Path(os.fsdecode(command[0])).name == "postgres" and os.fsencode(self.pgdata) in command
        if Path("/proc/self/cmdline").exists():
            return False
        listed = subprocess.run(  # noqa: S603 - a number only
            ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)],
            capture_output=True,
            check=False,
            timeout=10,
        ).stdout
        return b"postgres" in listed and os.fsencode(self.pgdata) in listed


class Lock:
    """The right to run PostgreSQL from a data directory; it ends with the process that holds it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def taken(cls, folder: DataFolder) -> Self:
        """Takes the lock; raises StartupFailed when another process, or this one, has it."""
        descriptor = folder.open_lock()  # closed on exec, so that a child does not keep the lock
        # Try for a moment: `holder` in another process takes the lock for an instant.
        if not _wait_while(lambda: not _locked(descriptor, fcntl.LOCK_EX), _LOCK_SECONDS):
            pid, _ = _note(descriptor)
            os.close(descriptor)
            by = f"process {pid}" if pid else "another process"
            raise StartupFailed(f"the data directory {folder.path} is in use by {by}")
        return cls(descriptor)

    def last_socket_dir(self) -> str:
        """The socket's folder that this or the last holder wrote down, or an empty text."""
        return _note(self._descriptor)[1]

    def note(self, socket_dir: str) -> None:
        """Writes down who holds the lock, and where the socket is."""
        text = f"{os.getpid()}\n{socket_dir}\n".encode("utf-8", "surrogateescape")
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)

    def release(self) -> None:
        """Releases the lock. The file stays: otherwise two processes could lock two different files."""
        os.close(self._descriptor)

    @staticmethod
    def holder(folder: DataFolder) -> int | None:
        """The process that holds the lock, while it lives."""
        try:
            descriptor = os.open(folder.lock_file, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            if _locked(descriptor, fcntl.LOCK_SH):
                return None
            pid, _ = _note(descriptor)
        finally:
            os.close(descriptor)
        return pid if pid and _lives(pid) else None


def make_socket_dir(account: Account) -> str:
    """A short private folder for the socket of a server that runs as `account`."""
    place = tempfile.gettempdir()
    longest = len(os.fsencode(place)) + len(f"/{_SOCKET_PREFIX}12345678/{_SOCKET_NAME}.lock")
    if account.switched or longest > _SOCKET_PATH_BYTES or "," in place:  # libpq separates hosts by commas
        place = "/tmp"  # noqa: S108 - short, and reached by every account; the folder in it is private
    made = tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir=place)
    if account.switched:
        os.chown(made, account.uid, account.gid)
    return made


def remove_socket_dir(socket_dir: str) -> None:
    """Removes what `make_socket_dir` made, and nothing else whatever the lock file says."""
    if Path(socket_dir).name.startswith(_SOCKET_PREFIX):
        for name in (_SOCKET_NAME, f"{_SOCKET_NAME}.lock"):
            with contextlib.suppress(OSError):
                Path(socket_dir, name).unlink()
        with contextlib.suppress(OSError):
            Path(socket_dir).rmdir()


def _wait_while(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _locked(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _note(descriptor: int) -> tuple[int | None, str]:
    pid, _, rest = os.pread(descriptor, 8192, 0).decode("utf-8", "surrogateescape").partition("\n")
    return (int(pid) if pid.isdecimal() else None), rest.rstrip("\n")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
