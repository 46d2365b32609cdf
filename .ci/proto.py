"""Writes the messages of gRPC from proto/ into a folder: `python .ci/proto.py FOLDER`.

Without stubs: the server makes its handlers from the descriptor (src/segmentd/api/grpc/calls.py).
"""

import sys
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

from grpc_tools import protoc

PROTO = Path(__file__).parents[1] / "proto"


def main(folder: Path) -> int:
    """Returns protoc's exit code."""
    with TemporaryDirectory() as made:
        code: int = protoc.main(
            [
                "protoc",
                f"-I{PROTO}",
                f"-I{resources.files('grpc_tools') / '_proto'}",
                f"--python_out={made}",
                f"--mypy_out={made}",
                *map(str, sorted(PROTO.rglob("*.proto"))),
            ]
        )
        for path in sorted(Path(made).rglob("*_pb2.py*")):
            (folder / path.name).write_text(path.read_text("utf-8"), "utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
