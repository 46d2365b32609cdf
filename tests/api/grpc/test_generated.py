import os
import subprocess
import sys
from pathlib import Path


def test_the_messages_of_grpc_are_what_make_proto_writes(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, str(root / ".ci/proto.py"), str(tmp_path)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, check=True, env={**os.environ, "PATH": path}, capture_output=True)

    kept = root / "src/segmentd/api/grpc/generated"
    for made in tmp_path.iterdir():
        assert made.read_text("utf-8") == (kept / made.name).read_text("utf-8")
    assert {each.name for each in tmp_path.iterdir()} | {"__init__.py"} == {
        each.name for each in kept.iterdir() if each.is_file()
    }
