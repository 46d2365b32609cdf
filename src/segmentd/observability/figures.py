"""The metric files that prometheus_client adds up, with disk space allocated for every byte.

The library itself makes sparse files; on a full disk the kernel then kills the process that counts (SIGBUS).
Here a process keeps its figures in memory while the disk has no room, and /metrics lacks them until it has
(docs/decisions/0047).
"""

import mmap
import struct
from pathlib import Path
from typing import ClassVar, Final

import structlog
from prometheus_client import values

from segmentd.shared_memory import mapped

_FIRST_BYTES: Final = 1 << 16
# The format of prometheus_client.mmap_dict: the number of bytes used, padded to 8 bytes; then for each entry
# the length of its key, the key, padded with blanks to a multiple of 8 bytes, the value and a time.
_LENGTH: Final = struct.Struct("i")
_PAIR: Final = struct.Struct("dd")
_HEAD: Final = 8

_log = structlog.get_logger(__name__)


class Figures:
    """A dictionary of pairs of numbers in a file; it takes the place of prometheus_client's MmapedDict."""

    unwritten: ClassVar[list["Figures"]] = []
    """The figures that the disk has no room for."""

    def __init__(self, filename: str) -> None:
        self._path = Path(filename)
        self._positions: dict[str, int] = {}
        try:
            self._memory = mapped(self._path, max(_FIRST_BYTES, _size(self._path)))
        except OSError as error:
            self._memory = mmap.mmap(-1, _FIRST_BYTES)
            self._go_on_without(error)
        self._used = max(_HEAD, _LENGTH.unpack_from(self._memory)[0])
        self._note_used(self._used)
        self._find_entries()

    def read_value(self, key: str) -> tuple[float, float]:
        """The value and its time; 0 at first."""
        position = self._position(key)  # first: it may change the memory
        found: tuple[float, float] = _PAIR.unpack_from(self._memory, position)
        return found

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Writes value and time by one assignment, so that no reader sees half of it."""
        position = self._position(key)
        self._memory[position : position + _PAIR.size] = _PAIR.pack(value, timestamp)

    def close(self) -> None:
        self._memory.close()

    def write(self) -> None:
        """Moves the figures in memory to the disk. Raises OSError while there is no room."""
        written = mapped(self._path, len(self._memory))
        written[_HEAD:] = self._memory[_HEAD:]
        self._memory = written
        self._note_used(self._used)
        self.unwritten.remove(self)
        _log.info("there is room for figures again", path=str(self._path))

    def _position(self, key: str) -> int:
        if key not in self._positions:
            self._add(key)
        return self._positions[key]

    def _add(self, key: str) -> None:
        encoded = key.encode()
        entry = _LENGTH.pack(len(encoded)) + encoded + b" " * _filling(len(encoded)) + _PAIR.pack(0, 0)
        while self._used + len(entry) > len(self._memory):
            self._grow()
        self._memory[self._used : self._used + len(entry)] = entry
        self._note_used(self._used + len(entry))
        self._positions[key] = self._used - _PAIR.size

    def _note_used(self, used: int) -> None:
        self._used = used
        self._memory[: _LENGTH.size] = _LENGTH.pack(used)

    def _grow(self) -> None:
        before, larger = self._memory, len(self._memory) * 2
        if self not in self.unwritten:
            try:
                self._memory = mapped(self._path, larger)
            except OSError as error:
                self._go_on_without(error)
            else:
                return
        self._memory = mmap.mmap(-1, larger)
        self._memory[: len(before)] = before[:]

    def _go_on_without(self, error: OSError) -> None:
        _log.error("no room for figures, /metrics lacks them", path=str(self._path), error=str(error))
        self.unwritten.append(self)

    def _find_entries(self) -> None:
        """Reads the figures of an ended process that had the same id."""
        position = _HEAD
        while position < self._used:
            length: int = _LENGTH.unpack_from(self._memory, position)[0]
            position += _LENGTH.size
            key = self._memory[position : position + length].decode()
            position += length + _filling(length)
            self._positions[key] = position
            position += _PAIR.size


def keep_without_holes() -> None:
    """Makes prometheus_client use this class. Call it before the first metric is made."""
    vars(values)["MmapedDict"] = Figures


def write_unwritten() -> None:
    """Writes the figures that are in memory, as far as the disk has room again."""
    for figures in [*Figures.unwritten]:
        try:
            figures.write()
        except OSError:
            return


def _filling(length: int) -> int:
    return 8 - (length + _LENGTH.size) % 8


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
