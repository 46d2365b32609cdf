"""The examples of the guide in other languages, and buf, each where its tool chain is at hand."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.api.grpc.conftest import Node
from tests.support.foreign import run, workshop
from tests.support.readme_examples import blocks

ROOT: Final = Path(__file__).parents[3]
PROTO: Final = ROOT / "proto/segmentd/v1"
CLIENTS: Final = Path(__file__).with_name("clients")
PAGE: Final = blocks((ROOT / "docs/guide/grpc.md").read_text("utf-8"))
GRPCURL: Final = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"

pytestmark = [pytest.mark.proof, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of JavaScript."""
    folder = workshop(CLIENTS / "node", tmp_path_factory.mktemp("javascript"), "node", "npm")
    run(folder, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
    return folder


@pytest.fixture
def known(node: Node) -> Node:
    """The node, which knows the user of the examples."""
    node.add(1000, "AVITO_VOICE_MESSAGES")
    return node


def example(language: str, node: Node) -> str:
    """The only example in this language, for this node."""
    [text] = [block.text for block in PAGE if block.language == language]
    return text.replace("localhost:8081", f"127.0.0.1:{node.port}")


def promised() -> str:
    [text] = [block.text for block in PAGE if block.language == "text"]
    return text


def test_the_example_of_grpcurl_has_the_answer_of_the_guide(known: Node, tmp_path: Path) -> None:
    command, _, answer = example("console", known).partition("\n")
    _, *arguments = shlex.split(command.removeprefix("$ "))
    tool = ["grpcurl"]
    if shutil.which("grpcurl") is None:
        workshop(CLIENTS / "go", tmp_path, "go")
        tool = ["go", "run", GRPCURL]

    printed = run(tmp_path, *tool, *arguments)

    assert json.loads(printed) == json.loads(answer)


def test_the_example_in_go_prints_what_the_guide_shows(known: Node, tmp_path: Path) -> None:
    folder = workshop(CLIENTS / "go", tmp_path, "go")
    (folder / "main.go").write_text(example("go", known), "utf-8")
    (folder / "segmentdv1").mkdir()
    options = "paths=source_relative,Msegmentd.proto=example.com/app/segmentdv1"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(PROTO), "segmentd.proto"]
    for name in ("go", "go-grpc"):
        plugin = run(folder, "go", "tool", "-n", f"protoc-gen-{name}").strip()
        command += [
            f"--plugin=protoc-gen-{name}={plugin}",
            f"--{name}_out=segmentdv1",
            f"--{name}_opt={options}",
        ]
    run(folder, *command)

    assert run(folder, "go", "run", ".") == promised()


def test_the_example_in_typescript_prints_what_the_guide_shows(known: Node, javascript: Path) -> None:
    shutil.copy(PROTO / "segmentd.proto", javascript)
    (javascript / "example.ts").write_text(example("typescript", known), "utf-8")
    run(javascript, "npx", "tsc", "--project", ".")

    assert run(javascript, "node", "example.js") == promised()


def test_the_example_in_java_prints_what_the_guide_shows(known: Node, tmp_path: Path) -> None:
    folder = workshop(CLIENTS / "java", tmp_path, "java", "mvn")
    for place, name in (("java", "Example.java"), ("protobuf", "segmentd.proto")):
        (folder / "src/main" / place).mkdir(parents=True)
        text = example("java", known) if place == "java" else (PROTO / name).read_text("utf-8")
        (folder / "src/main" / place / name).write_text(text, "utf-8")
    run(folder, "mvn", "-q", "-B", "package", "dependency:build-classpath", "-Dmdep.outputFile=classpath")
    classpath = f"target/classes:{(folder / 'classpath').read_text()}"

    assert run(folder, "java", "-cp", classpath, "Example") == promised()


def test_buf_finds_nothing_in_the_file_and_no_change_that_breaks_clients(javascript: Path) -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("there is no history here")
    buf = str(javascript / "node_modules/.bin/buf")
    run(ROOT, buf, "lint", "proto")
    first = run(ROOT, "git", "rev-list", "HEAD", "--", "proto/segmentd/v1").split()[-1]
    run(ROOT, buf, "breaking", "proto", "--against", f".git#ref={first},subdir=proto")
