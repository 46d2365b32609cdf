"""Programs in other languages: their sources in a folder of their own, and what they print."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

PATIENCE_S: Final = 900


def workshop(sources: Path, folder: Path, *tools: str) -> Path:
    """A copy of a client's sources; the test is skipped where a tool is missing."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool} here")
    return Path(shutil.copytree(sources, folder / sources.name))


def run(folder: Path, *command: str, env: Mapping[str, str] | None = None) -> str:
    """What the command prints; it must succeed."""
    ended = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "GOFLAGS": "-mod=readonly", **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout
