"""The private memory of a process."""

from pathlib import Path
from typing import Final

from bench.programs import Missing

_MEBIBYTE: Final = 1 << 20


def private_mebibytes(pid: int) -> float:
    """Resident memory that no other process shares, without the pages of a node's replica.

    Those pages belong to the file; the kernel keeps them as long as it has room, and counts them as private
    only if a single process has mapped them. Raises Missing if there is no /proc.
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
