"""Memory that the processes of a node share: mapped files in the node's folder.

Whoever writes into a hole of a mapped file while the disk is full is killed by the system (SIGBUS). So every
byte has its place on the disk before it is mapped; a process that gets none goes on with memory of its own.
"""

import errno
import mmap
import os
from hashlib import blake2b
from pathlib import Path
from typing import Final

import structlog

WORD_BYTES: Final = 8

_log = structlog.get_logger(__name__)


class SharedMemory:
    """So many words of 64 bits; each is read and written whole. Words are 0 at first."""

    def __init__(self, path: Path, words: int) -> None:
        self._path = path
        self._size = words * WORD_BYTES
        self.shared = True
        """Whether other processes see it; else the disk had no room, and it is this process' own."""
        try:
            self._memory = mapped(path, self._size)
        except OSError as error:
            _log.error("no room for shared memory, going on without", path=str(path), error=str(error))
            self._memory = mmap.mmap(-1, self._size)
            self.shared = False
        self.words = memoryview(self._memory).cast("q")

    def share(self) -> bool:
        """Where it is not shared, tries again; whether it has just come to be, and so has other words."""
        if self.shared:
            return False
        try:
            memory = mapped(self._path, self._size)
        except OSError:
            return False
        self.close()
        self._memory, self.shared = memory, True
        self.words = memoryview(memory).cast("q")
        _log.info("memory is shared again", path=str(self._path))
        return True

    def close(self) -> None:
        self.words.release()
        self._memory.close()


def mapped(path: Path, size: int) -> mmap.mmap:
    """The file's first bytes in memory; it is made if need be. Raises OSError where the disk has no room."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        allocate(descriptor, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


def allocate(descriptor: int, size: int) -> None:
    """Gives the file's first bytes their place on the disk, and leaves what is there. Raises OSError."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
                raise
        else:
            return
    if (present := os.fstat(descriptor).st_size) < size:
        os.pwrite(descriptor, bytes(size - present), present)


def boot_id() -> bytes | None:
    """Another value after each start of the machine; None where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return None


def boot_word() -> int:
    """The boot's id as a word that is not 0; 0 where the system does not tell."""
    found = boot_id()
    return 0 if found is None else int.from_bytes(blake2b(found, digest_size=7).digest()) | 1
