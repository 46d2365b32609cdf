"""Compiles the kernel (src/segmentd/replica/_kernel.c) where a C compiler and Python's headers are.

Elsewhere the package is installed without it, and computes with NumPy: `segmentd check` says which one it is.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_FLAGS = ["-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-DPy_LIMITED_API=0x030B0000"]
_ON_MACOS = ["-undefined", "dynamic_lookup"]


def compile_kernel(source: Path, target: Path, *flags: str) -> None:
    """Compiles it for this Python and all later ones. Raises OSError, CalledProcessError."""
    given = os.environ.get("CC") or sysconfig.get_config_var("CC") or ""
    # The compiler that made this Python may be missing here.
    compiler = shlex.split(given) if shutil.which(given.split(" ")[0]) else ["cc"]
    more = [*(_ON_MACOS if sys.platform == "darwin" else []), *flags, f"-I{sysconfig.get_path('include')}"]
    command = [*compiler, *_FLAGS, *more, str(source), "-o", str(target)]
    subprocess.run(command, capture_output=True, text=True, check=True)


class CustomBuildHook(BuildHookInterface[Any]):
    """Brings the compiled kernel into the wheel, or beside its source for an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        del version
        source = Path(self.root, "src/segmentd/replica/_kernel.c")
        compiled = source.with_name("_kernel.abi3.so")
        with TemporaryDirectory(dir=self.root, prefix=".kernel-") as folder:
            made = Path(folder, compiled.name)
            try:
                compile_kernel(source, made)
            except (OSError, subprocess.CalledProcessError) as error:
                compiled.unlink(missing_ok=True)  # it may be of another source, or for another machine
                self.app.display_warning(f"not compiled, NumPy is used: {getattr(error, 'stderr', error)}")
                return
            # In one step: a process that starts meanwhile has the old one or the new one.
            made.replace(compiled)
        build_data["artifacts"].append(compiled.relative_to(self.root).as_posix())
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
