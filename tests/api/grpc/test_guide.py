"""The example of the guide, with messages and stubs as a client makes them from the one file."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.api.grpc.conftest import Node
from tests.support.readme_examples import blocks

ROOT: Final = Path(__file__).parents[3]


def test_the_example_prints_what_the_guide_shows(node: Node, tmp_path: Path) -> None:
    every = blocks((ROOT / "docs/guide/grpc.md").read_text("utf-8"))
    [place] = [index for index, block in enumerate(every) if block.language == "python"]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "proto/segmentd/v1")]
    outputs = [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}", "segmentd.proto"]
    subprocess.run([*command, *outputs], check=True)
    example = tmp_path / "example.py"
    example.write_text(every[place].text.replace("localhost:8081", f"127.0.0.1:{node.port}"), "utf-8")
    node.add(1000, "AVITO_VOICE_MESSAGES")

    ended = subprocess.run(
        [sys.executable, str(example)], capture_output=True, text=True, check=True, timeout=60
    )

    assert ended.stdout == every[place + 1].text
