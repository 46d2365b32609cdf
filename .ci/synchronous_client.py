"""Writes the Python client's package `synchronous` from `asynchronous`; `--check` says whether it is current.

Words are replaced, nothing else: both have the same calls, in the same order. What follows the feed in the
background is written by hand: a task there, a thread here.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[1] / "clients/python/src/segmentd_client"
RUFF: Final = [str(Path(sys.executable).with_name("ruff")), "format", "--quiet", "--stdin-filename"]

# In their order.
WORDS: Final = (
    (
        r'"""The client for asyncio and trio\..*',
        '"""The client for programs without asyncio, written by `make client`."""',
    ),
    (r"from anyio import open_file\n\n?", ""),
    (r"await open_file\((\w+), ", r"\1.open("),
    (r"from anyio import sleep", "from time import sleep"),
    (r"asynccontextmanager", "contextmanager"),
    (r"async (def|with|for) ", r"\1 "),
    (r"await ", ""),
    (r"\b__a(enter|exit)__", r"__\1__"),
    (r"\ba(read|close|iter_bytes)\b", lambda found: found[1]),
    (r"\bAsyncHTTPTransport\b", "HTTPTransport"),
    (r"\bAsyncBaseTransport\b", "BaseTransport"),
    (r"\bAsync(\w+)", r"\1"),
    (r"segmentd_client\.asynchronous", "segmentd_client.synchronous"),
)


def synchronous(text: str, name: str) -> str:
    """The synchronous module for the text of an asynchronous one, formatted and with sorted imports."""
    for pattern, word in WORDS:
        text = re.sub(pattern, word, text)
    target = str(PACKAGE / "synchronous" / name)
    sort = [RUFF[0], "check", "--quiet", "--fix-only", "--select", "I", "--stdin-filename", target, "-"]
    for command in (sort, [*RUFF, target]):
        text = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    return text


def main() -> None:
    """Writes or checks every module."""
    old: list[str] = []
    for source in sorted({*(PACKAGE / "asynchronous").glob("*.py")} - {PACKAGE / "asynchronous/local.py"}):
        target = PACKAGE / "synchronous" / source.name
        text = synchronous(source.read_text("utf-8"), source.name)
        if target.exists() and target.read_text("utf-8") == text:
            continue
        old.append(source.name)
        if "--check" not in sys.argv:
            target.write_text(text, "utf-8")
    if old and "--check" in sys.argv:
        sys.exit(f"not what `make client` writes: {', '.join(old)}")


if __name__ == "__main__":
    main()
