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
from tests.support.postgres import new_database
from tests.support.processes import Serving, serving
from tests.support.tokens import bearer

CLIENTS: Final = Path(__file__).with_name("clients")
SECRET: Final = "0123456789abcdef0123456789abcdef"
PATIENCE_S: Final = 900

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


def workshop(name: str, folder: Path, *tools: str) -> Path:
    """A copy of a client's sources; the test is skipped where a tool is missing."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool} here")
    return Path(shutil.copytree(CLIENTS / name, folder / name))


def run(folder: Path, *command: str, node: Serving | None = None) -> str:
    environment = {**os.environ, "GOFLAGS": "-mod=readonly"}
    if node is not None:
        environment |= {"SEGMENTD_URL": node.url, "SEGMENTD_TOKEN": SECRET}
    ended = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def lines(output: str) -> list[Json]:
    return [json.loads(line) for line in output.splitlines() if line[:1] in {"[", '"'}]


def test_both_sdks_of_javascript_read_flags_and_the_one_of_pages_follows_changes(
    node: Serving, tmp_path: Path
) -> None:
    folder = workshop("node", tmp_path, "node", "npm")
    run(folder, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
    environment = {**os.environ, "SEGMENTD_URL": node.url, "SEGMENTD_TOKEN": SECRET}

    with subprocess.Popen(
        [shutil.which("node") or "", "flags.mjs"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said: list[Json] = []
        for line in process.stdout:
            said.append(json.loads(line))
            if said[-1] == "watching":
                change = {"add": ["OFF"]}
                url = f"{node.url}/api/v1/users/1000/segments"
                httpx.post(url, json=change, headers=bearer(SECRET)).raise_for_status()
        assert process.wait(PATIENCE_S) == 0
    httpx.post(url, json={"remove": ["OFF"]}, headers=bearer(SECRET)).raise_for_status()

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
    folder = workshop("go", tmp_path, "go")

    assert lines(run(folder, "go", "run", ".", node=node)) == [
        [*ON, ""],
        [*OFF, ""],
        [False, "ERROR", "", "FLAG_NOT_FOUND"],
        [False, "ERROR", "", "INVALID_CONTEXT"],
        [False, "ERROR", "", "TARGETING_KEY_MISSING"],
    ]


def test_the_sdk_of_java_reads_flags(node: Serving, tmp_path: Path) -> None:
    folder = workshop("java", tmp_path, "java", "mvn")
    run(folder, "mvn", "-q", "-B", "package", "dependency:build-classpath", "-Dmdep.outputFile=classpath")
    classpath = f"target/classes:{(folder / 'classpath').read_text()}"

    found = lines(run(folder, "java", "-cp", classpath, "Flags", node=node))

    # Its provider calls every 400 an invalid context.
    assert found == [
        [*ON, None],
        [*OFF, None],
        [False, "ERROR", None, "FLAG_NOT_FOUND"],
        [False, "ERROR", None, "INVALID_CONTEXT"],
        [False, "ERROR", None, "INVALID_CONTEXT"],
    ]
