"""The OpenFeature SDKs of other languages against a real server, each where its tool chain is at hand."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.support.client import Json
from tests.support.foreign import PATIENCE_S, run, workshop
from tests.support.postgres import new_database
from tests.support.processes import Serving, serving
from tests.support.readme_examples import blocks
from tests.support.tokens import bearer

CLIENTS: Final = Path(__file__).with_name("clients")
PAGE: Final = Path(__file__).parents[4] / "docs/guide/openfeature.md"
PRINTED: Final = "true on SPLIT\n"
SECRET: Final = "0123456789abcdef0123456789abcdef"

ON: Final = [True, "SPLIT", "on"]
OFF: Final = [False, "SPLIT", "off"]

pytestmark = [pytest.mark.proof, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def node(
    postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    with (
        new_database(postgres_url, template_database) as url,
        serving(
            *("--database-url", url, "--admin-token", SECRET, "--cors-origins", "*"),
            cwd=tmp_path_factory.mktemp("served"),
        ) as node,
    ):
        node.ready()
        for slug, percent in {"ON": 100, "OFF": 0}.items():
            created = httpx.post(
                f"{node.url}/api/v1/segments", json={"slug": slug, "percent": percent}, headers=bearer(SECRET)
            )
            created.raise_for_status()
        yield node


def environment(node: Serving) -> dict[str, str]:
    return {"SEGMENTD_URL": node.url, "SEGMENTD_TOKEN": SECRET}


def lines(output: str) -> list[Json]:
    return [json.loads(line) for line in output.splitlines() if line[:1] in {"[", '"'}]


@pytest.fixture(scope="module")
def open_node(
    postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """A node for the examples of the guide, which send no token."""
    with (
        new_database(postgres_url, template_database) as url,
        serving("--database-url", url, cwd=tmp_path_factory.mktemp("open")) as node,
    ):
        segment = {"slug": "AVITO_VOICE_MESSAGES", "percent": 100}
        httpx.post(f"{node.ready().url}/api/v1/segments", json=segment).raise_for_status()
        yield node


def example(language: str, node: Serving) -> str:
    """The guide's only example in this language, for this node."""
    [text] = [block.text for block in blocks(PAGE.read_text("utf-8")) if block.language == language]
    return text.replace("http://localhost:8080", node.url)


def test_the_example_in_go_prints_what_the_guide_says(open_node: Serving, tmp_path: Path) -> None:
    folder = workshop(CLIENTS / "go", tmp_path, "go")
    (folder / "main.go").write_text(example("go", open_node), "utf-8")

    assert run(folder, "go", "run", ".") == PRINTED


def test_the_example_in_typescript_prints_what_the_guide_says(open_node: Serving, tmp_path: Path) -> None:
    folder = workshop(CLIENTS / "node", tmp_path, "node", "npm")
    run(folder, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
    (folder / "example.ts").write_text(example("typescript", open_node), "utf-8")
    run(folder, "npx", "tsc", "--project", ".")

    assert run(folder, "node", "example.js") == PRINTED


def test_the_example_in_java_prints_what_the_guide_says(open_node: Serving, tmp_path: Path) -> None:
    folder = workshop(CLIENTS / "java", tmp_path, "java", "mvn")
    (folder / "src/main/java/Example.java").write_text(example("java", open_node), "utf-8")
    run(folder, "mvn", "-q", "-B", "package", "dependency:build-classpath", "-Dmdep.outputFile=classpath")
    classpath = f"target/classes:{(folder / 'classpath').read_text()}"

    assert run(folder, "java", "-cp", classpath, "Example").splitlines()[-1] == PRINTED.strip()


def test_both_sdks_of_javascript_read_flags_and_the_one_of_pages_follows_changes(
    node: Serving, tmp_path: Path
) -> None:
    folder = workshop(CLIENTS / "node", tmp_path, "node", "npm")
    run(folder, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
    with subprocess.Popen(
        [shutil.which("node") or "", "flags.mjs"],
        cwd=folder,
        env={**os.environ, **environment(node)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said: list[Json] = []
        for line in process.stdout:
            said.append(json.loads(line))
            if said[-1] == "watching":
                change = {"add": ["OFF"]}
                url = f"{node.url}/api/v1/users/1001/segments"
                httpx.post(url, json=change, headers=bearer(SECRET)).raise_for_status()
        assert process.wait(PATIENCE_S) == 0

    one_by_one, all_at_once, after = said[:5], said[5:8], said[8:]
    assert one_by_one == [
        [*ON, None],
        [*OFF, None],
        [False, "ERROR", None, "FLAG_NOT_FOUND"],
        [False, "ERROR", None, "INVALID_CONTEXT"],
        [False, "ERROR", None, "TARGETING_KEY_MISSING"],
    ]
    assert all_at_once == [[*ON, None], [*OFF, None], [False, "ERROR", None, "FLAG_NOT_FOUND"]]
    assert after == ["watching", ["OFF"], [True, "TARGETING_MATCH", "on", None], "PROVIDER_FATAL"]


def test_the_sdk_of_go_reads_flags(node: Serving, tmp_path: Path) -> None:
    folder = workshop(CLIENTS / "go", tmp_path, "go")

    assert lines(run(folder, "go", "run", ".", env=environment(node))) == [
        [*ON, ""],
        [*OFF, ""],
        [False, "ERROR", "", "FLAG_NOT_FOUND"],
        [False, "ERROR", "", "INVALID_CONTEXT"],
        [False, "ERROR", "", "TARGETING_KEY_MISSING"],
    ]


def test_the_sdk_of_java_reads_flags(node: Serving, tmp_path: Path) -> None:
    folder = workshop(CLIENTS / "java", tmp_path, "java", "mvn")
    run(folder, "mvn", "-q", "-B", "package", "dependency:build-classpath", "-Dmdep.outputFile=classpath")
    classpath = f"target/classes:{(folder / 'classpath').read_text()}"

    found = lines(run(folder, "java", "-cp", classpath, "Flags", env=environment(node)))

    # Its provider calls every 400 an invalid context.
    assert found == [
        [*ON, None],
        [*OFF, None],
        [False, "ERROR", None, "FLAG_NOT_FOUND"],
        [False, "ERROR", None, "INVALID_CONTEXT"],
        [False, "ERROR", None, "INVALID_CONTEXT"],
    ]
