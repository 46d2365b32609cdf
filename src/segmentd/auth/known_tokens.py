"""The tokens that a process knows, kept for the next process that starts while the database is away."""

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec
import structlog

from segmentd.domain.access import Token
from segmentd.shared_memory import SharedMemory, boot_word

_BOOT, _VERSION, _SEEN_AT = range(3)
_NOTHING: Final = -1
_SECOND_NS: Final = 1_000_000_000

_log = structlog.get_logger(__name__)


class Known(msgspec.Struct, frozen=True):
    """The tokens that are not revoked, by their hashes."""

    version: int
    has_tokens: bool
    """Whether there are or ever were tokens."""
    clock_offset: timedelta
    """PostgreSQL's clock minus the monotonic one."""
    tokens: Sequence[Token]


class KnownTokens:
    """A file, written when the tokens change, and in shared memory the time at which it was last current."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "tokens"
        self.memory = SharedMemory(folder / "tokens-seen", 3)
        self._said = False

    def close(self) -> None:
        self.memory.close()

    def leave(self, known: Known, seen_at: float) -> None:
        """Stores what is current at this time of the monotonic clock; on a full disk it stores nothing."""
        words, boot = self.memory.words, boot_word()
        if (words[_BOOT], words[_VERSION]) != (boot, known.version):
            # First invalidate: if the file cannot be replaced, a revoked token in it must not be found.
            words[_VERSION] = _NOTHING
            try:
                self._write(msgspec.msgpack.encode(known))
            except OSError as error:
                if not self._said:
                    _log.error("tokens cannot be kept for an outage of the database", error=str(error))
                self._said = True
                return
            words[_BOOT], words[_VERSION] = boot, known.version
            self._said = False
        words[_SEEN_AT] = int(seen_at * _SECOND_NS)

    def found(self) -> tuple[Known, float] | None:
        """What was stored since the machine's start, and when it was current; None: nothing to be trusted."""
        words = self.memory.words
        if words[_BOOT] == 0 or words[_BOOT] != boot_word():
            return None
        try:
            known = msgspec.msgpack.decode(self._path.read_bytes(), type=Known)
        except (OSError, msgspec.MsgspecError):
            return None
        return (known, words[_SEEN_AT] / _SECOND_NS) if known.version == words[_VERSION] else None

    def forget(self) -> None:
        """Invalidates what is stored, because it may be of another database."""
        self.memory.words[_VERSION] = _NOTHING

    def _write(self, content: bytes) -> None:
        begun = self._path.with_name(f"tokens-{os.getpid()}")
        try:
            descriptor = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a path cannot be opened with a mode
                file.write(content)
            begun.rename(self._path)
        except OSError:
            begun.unlink(missing_ok=True)
            raise
