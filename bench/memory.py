"""Memory that a process has for itself."""

from pathlib import Path
from typing import Final

from bench.programs import Missing

_MEBIBYTE: Final = 1 << 20


def private_mebibytes(pid: int) -> float:
    """Resident memory that no other process shares, the pages of a node's copy left out.

    Those are the file's, kept by the system as long as it has room, and counted as private only where one
    process alone has them mapped. Raises Missing where there is no /proc.
    """
    kibibytes, counts = 0, True
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        raise Missing("memory is read from /proc/PID/smaps, which this system does not have") from None
    for line in lines:
        first = line.split(maxsplit=1)[0]
        if not first.endswith(":"):
            counts = ".lmdb" not in line
        elif counts and first in {"Private_Clean:", "Private_Dirty:"}:
            kibibytes += int(line.split()[1])
    return kibibytes * 1024 / _MEBIBYTE
