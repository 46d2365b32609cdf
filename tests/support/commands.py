"""The command `segmentd` in a process of its own that has imported everything already.

Python imports for half a second, and tests run hundreds of commands: all are forked from one process.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from segmentd.cli import main

_FORKED: Final = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload([__name__])


def run_forked(
    arguments: Sequence[str], cwd: Path, env: Mapping[str, str], patience_s: float
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    with TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = _FORKED.Process(target=_command, args=(arguments, cwd, {**env}, out, err))
        process.start()
        process.join(patience_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([*arguments], patience_s, out.read_bytes(), err.read_bytes())
        ended = subprocess.CompletedProcess[str](
            [*arguments], process.exitcode, out.read_text(), err.read_text()
        )
        process.close()
        return ended


def _command(arguments: Sequence[str], cwd: Path, env: dict[str, str], out: Path, err: Path) -> None:
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["segmentd", *arguments]
    main()
