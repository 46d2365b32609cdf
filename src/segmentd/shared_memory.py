"""Memory that the processes of a node share: mapped files in the node's folder.

A process that writes into a hole of a mapped file while the disk is full is killed (SIGBUS). So disk space
for every byte is allocated before the mapping; a process that gets none goes on with memory of its own
(docs/decisions/0047).
"""

import asyncio
import errno
import mmap
import os
from hashlib import blake2b
from pathlib import Path
from typing import Final

import structlog

WORD_BYTES: Final = 8
SHARE_EVERY_S: Final = 0.2

_log = structlog.get_logger(__name__)


class SharedMemory:
    """A number of words of 64 bits, 0 at first; each is read and written in one piece."""

    def __init__(self, path: Path, words: int) -> None:
        self._path = path
        self._size = words * WORD_BYTES
        self.shared = True
        """Whether other processes see it; if the disk had no room, it is this process's own."""
        try:
            self._memory = mapped(path, self._size)
        except OSError as error:
            _log.error("no room for shared memory, going on without", path=str(path), error=str(error))
            self._memory = mmap.mmap(-1, self._size)
            self.shared = False
        self.words = memoryview(self._memory).cast("q")

    def share(self) -> bool:
        """If it is not shared, tries again.

        Returns whether it became shared now, which replaces its words.
        """
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

    async def share_when_there_is_room(self) -> None:
        """If the disk had no room when this process started, shares the memory as soon as there is some."""
        while not self.shared:
            await asyncio.sleep(SHARE_EVERY_S)
            self.share()

    def close(self) -> None:
        self.words.release()
        self._memory.close()


def mapped(path: Path, size: int) -> mmap.mmap:
    """The file's first bytes in memory; makes the file if needed. Raises OSError if the disk has no room."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        allocate(descriptor, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


def allocate(descriptor: int, size: int) -> None:
    """Allocates disk space for the file's first bytes and keeps their content. Raises OSError."""
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
    """The id of this start of the machine; None if the system does not have one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return None


def boot_word() -> int:
    """The boot's id as a word that is not 0; 0 if the system does not have one."""
    found = boot_id()
    return 0 if found is None else int.from_bytes(blake2b(found, digest_size=7).digest()) | 1
