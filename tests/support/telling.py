"""A process for tests of starting one: it says what it is told, and what it has, and ends by 3."""

import os
import sys
from pathlib import Path


def main() -> None:
    """Answers each line, until there are no more."""
    while line := _line():
        match line:
            case "descriptors":
                said = str([number for number in range(99) if Path(f"/proc/self/fd/{number}").is_symlink()])
            case "name":
                said = Path("/proc/self/comm").read_text("ascii").strip()
            case "fail":
                raise ValueError(line)
            case _:
                said = line
        os.write(1, f"{said}\n".encode())
    sys.exit(3)


def _line() -> str:
    found = b""
    while (byte := os.read(0, 1)) not in {b"", b"\n"}:
        found += byte
    return found.decode()


if __name__ == "__main__":
    main()
