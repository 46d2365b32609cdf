"""The client's distribution: what is in it, and what it needs."""

import subprocess
import sys
import zipfile
from pathlib import Path

from packaging.metadata import parse_email
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3] / "clients/python"


def test_the_client_s_wheel_has_every_file_and_needs_nothing_of_the_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=True)

    wheel = zipfile.ZipFile(next(tmp_path.glob("*.whl")))

    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = (path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert names == {path.relative_to(ROOT / "src").as_posix() for path in files}
    assert {"segmentd_client/py.typed", "segctl/py.typed"} <= names
    [metadata] = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    raw, _ = parse_email(wheel.read(metadata))
    needed = {each.name for each in map(Requirement, raw["requires_dist"]) if each.marker is None}
    assert needed == {"anyio", "httpx2", "msgspec"}


def test_segctl_without_its_extra_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "cyclopts.py").write_text("raise ModuleNotFoundError(name='cyclopts')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from segctl.start import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (
        2,
        "segctl: cyclopts is missing: install segmentd-client[cli]\n",
    )
