"""The files of a replica: the LMDB file, its lock, and a note that says when it can be trusted.

The note has the boot of the machine in which the file was written. It has to be read before LMDB opens the
file: a file left by a crash of the machine may kill a process that reads it.
"""

import os
from pathlib import Path
from typing import Final

import lmdb

from segmentd.shared_memory import boot_id

_SYNCED: Final = b"synced"
_NO_BOOT: Final = b"unknown"


class Unusable(Exception):
    """The replica is of another format or database, damaged or missing: it has to be rebuilt."""


def remove(path: Path) -> None:
    """Removes the files of a replica, those that are there."""
    for each in (path, Path(f"{path}-lock"), _note_of(path), Path(f"{_note_of(path)}.new")):
        each.unlink(missing_ok=True)


def note_unsynced_writes(path: Path) -> None:
    """From now on the file can be trusted only within this boot. Raises OSError if the disk has no room."""
    _write_note(path, boot_id() or _NO_BOOT)


def note_synced(path: Path) -> None:
    """Everything is on the disk: the next boot can go on from it. Raises OSError."""
    _write_note(path, _SYNCED)


def check_trust(path: Path) -> None:
    """Raises Unusable if opening the file might kill the process."""
    _check_note(path)
    _check_size(path)


def _note_of(path: Path) -> Path:
    return Path(f"{path}-boot")


def _write_note(path: Path, note: bytes) -> None:
    """As a whole: where the disk has no room, what was noted stays."""
    begun = Path(f"{_note_of(path)}.new")
    with begun.open("wb") as file:
        file.write(note)
        file.flush()
        os.fsync(file.fileno())
    begun.rename(_note_of(path))


def _check_note(path: Path) -> None:
    try:
        note = _note_of(path).read_bytes()
    except OSError as error:
        raise Unusable(str(error)) from error
    if note not in {_SYNCED, boot_id()}:
        raise Unusable("the machine went down before it was on the disk")


def _check_size(path: Path) -> None:
    """LMDB maps the file into memory: what is missing at its end would kill the process that reads there."""
    try:
        size = path.stat().st_size
        with lmdb.open(os.fspath(path), subdir=False, readonly=True, lock=False, max_dbs=5) as env:
            needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    except (OSError, lmdb.Error) as error:
        raise Unusable(str(error)) from error
    if size < needed:
        raise Unusable(f"it is torn: {size} of {needed} bytes")
