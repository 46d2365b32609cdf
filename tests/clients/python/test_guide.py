"""The guide's pages about the command line and the Python client keep their word."""

import re
import shlex
import sys
from pathlib import Path

from tests.support.processes import run
from tests.support.readme_examples import blocks, files

GUIDE = Path(__file__).parents[3] / "docs/guide"


def test_every_command_of_the_guide_does_what_the_page_says(service_url: str, tmp_path: Path) -> None:
    text = (GUIDE / "command-line.md").read_text("utf-8")
    for _, name, content in files(text):
        (tmp_path / name).write_text(content)
    commands = re.findall(r"^segmentd .*$", text, re.MULTILINE)
    assert len(commands) > 10
    for command in commands:
        _, *arguments = shlex.split(command)
        env = {"SEGMENTD_SERVER": service_url, "XDG_CONFIG_HOME": str(tmp_path)}
        ended = run(*arguments, cwd=tmp_path, env=env)
        assert ended.returncode == (3 if "--dry-run" in arguments else 0), (command, ended)
    assert sorted(line.split(";")[0] for line in (tmp_path / "members.csv").read_text().split()) == [
        "4000",
        "4001",
    ]


def test_every_program_of_the_guide_runs(service_url: str, tmp_path: Path) -> None:
    page = blocks((GUIDE / "python.md").read_text("utf-8"))
    programs = [block.text for block in page if block.language == "python"]
    printed = []
    for program in programs:
        code = program.replace("http://localhost:8080", service_url)
        ended = run("-c", code, cwd=tmp_path, command=[sys.executable, "-W", "error"])
        assert ended.returncode == 0, ended.stderr
        printed.append(ended.stdout)
    assert printed[0].startswith("explicit\n")
    assert "\n5000 explicit None\n" in printed[0]
    assert " 1 unchanged\n" in printed[1]
    assert "5000: ['" in printed[2]
