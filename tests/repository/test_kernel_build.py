"""The kernel is compiled where that is possible, and its C code does nothing that C leaves undefined."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hatch_build import compile_kernel
from tests.support.kernels import needs_compiled

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/segmentd/replica/_kernel.c"
BUILT = "segmentd/replica/_kernel.abi3.so"


def test_without_a_compiler_the_package_is_whole_and_computes_with_numpy(tmp_path: Path) -> None:
    """Though an earlier build left a kernel, which may be of another source."""
    copy, package = tmp_path / "copy", tmp_path / "package"
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "src" / BUILT).touch()
    for name in ("pyproject.toml", "hatch_build.py", ".gitignore"):
        shutil.copy(ROOT / name, copy)
    wheel = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    no_compiler = os.environ | {"CC": "a-compiler-that-is-missing", "PATH": ""}
    subprocess.run(wheel, cwd=copy, env=no_compiler, capture_output=True, timeout=120, check=True)
    [built] = tmp_path.glob("*-py3-none-any.whl")
    zipfile.ZipFile(built).extractall(package)

    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "from segmentd.replica import kernel; print(kernel.__file__, kernel.BEST.name)",
        ],
        env=os.environ | {"PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout

    assert said == f"{package}/segmentd/replica/kernel.py numpy\n"
    assert (package / "segmentd/replica/_kernel.c").exists()
    assert not (copy / "src" / BUILT).exists()


@pytest.mark.proof
@needs_compiled
def test_the_kernel_s_tests_pass_under_the_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    package = tmp_path / "package"
    shutil.copytree(ROOT / "src", package, ignore=shutil.ignore_patterns("__pycache__"))
    checked = ["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers"]
    checked += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    try:
        compile_kernel(SOURCE, package / BUILT, *checked)
    except subprocess.CalledProcessError as error:
        if "sanitize" in error.stderr or "asan" in error.stderr:
            pytest.skip("this compiler has no sanitizers")
        raise
    library = subprocess.run(
        ["cc", "-print-file-name=libasan.so"],  # noqa: S607 # the compiler that is found
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if not Path(library).is_absolute():
        pytest.skip("this compiler does not name the library of its sanitizer")
    environment = {
        "LD_PRELOAD": library,
        "PYTHONPATH": str(package),
        "PYTHONMALLOC": "malloc",  # one block for each object, so that a read beyond its end is seen
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself leaves memory behind
        "KERNEL_EXAMPLES": "1000",
    }
    selected = ["tests/replica/test_kernel.py", "tests/replica/test_catalog.py", "--deselect"]
    selected += ["tests/replica/test_kernel.py::test_kernels_decide_as_sql_does", "--numprocesses=0"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "--quiet", "--timeout=0", *selected],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "skipped" not in ended.stdout
