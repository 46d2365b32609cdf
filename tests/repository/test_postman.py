"""The Postman collection: current, complete, green against a real service, and red against a wrong one."""

import importlib
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.foreign import run, workshop
from tests.support.openapi import DOCUMENT
from tests.support.processes import serving

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "postman"
COLLECTION: Final = FOLDER / "segmentd.postman_collection.json"
ENVIRONMENT: Final = FOLDER / "segmentd.postman_environment.json"
CONTENT: Final = json.loads(COLLECTION.read_text("utf-8"))
ITEMS: Final = [item for folder in CONTENT["item"] for item in folder["item"]]
SECRET: Final = "a" * 40


def script(item: Any, listen: str) -> str:  # noqa: ANN401 # a part of a JSON document
    return "\n".join(
        line for event in item["event"] if event["listen"] == listen for line in event["script"]["exec"]
    )


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401 # a module
    monkeypatch.syspath_prepend(str(ROOT / ".ci"))
    return importlib.import_module("postman")


def test_the_files_are_what_make_postman_writes(generator: Any) -> None:  # noqa: ANN401 # a module
    written = {path.name: path.read_text("utf-8") for path in FOLDER.iterdir()}
    assert generator.files(DOCUMENT) == written, "make postman"


def test_every_call_of_the_document_is_in_the_collection(generator: Any) -> None:  # noqa: ANN401 # a module
    called = {step.operation for steps in generator.FOLDERS.values() for step in steps}

    assert called == {
        operation["operationId"] for item in DOCUMENT["paths"].values() for operation in item.values()
    }


def test_every_request_has_tests_and_an_example_of_its_answer() -> None:
    for item in ITEMS:
        tests = script(item, "test")
        assert "pm.test" in tests, item["name"]
        if "oneOf([200])" in tests or "oneOf([201])" in tests:
            assert "as OpenAPI says" in tests or "pm.response.text()" in tests, item["name"]
            assert [answer["code"] for answer in item["response"]] == [int(tests.partition("oneOf([")[2][:3])]
            assert all(answer["body"] for answer in item["response"]), item["name"]


# Newman


@pytest.fixture(scope="module")
def newman(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Newman, as its lock file has it."""
    folder = workshop(Path(__file__).with_name("newman"), tmp_path_factory.mktemp("newman"), "node", "npm")
    run(folder, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
    return folder / "node_modules/.bin/newman"


Outcome = dict[str, list[str]]


def outcomes(newman: Path, folder: Path, url: str, token: str = "") -> tuple[int, Outcome]:
    """Runs the collection; the exit status, and for each request the tests that failed."""
    report = folder / "report.json"
    ended = subprocess.run(
        [
            *(str(newman), "run", str(COLLECTION), "--environment", str(ENVIRONMENT)),
            *("--env-var", f"base_url={url}", "--env-var", f"token={token}"),
            *("--reporters", "json", "--reporter-json-export", str(report)),
            *("--timeout-request", "60000"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    executions = json.loads(report.read_text("utf-8"))["run"]["executions"]
    assert len(executions) == len(ITEMS), ended.stdout + ended.stderr
    failed: Outcome = {}
    for number, execution in enumerate(executions):
        wrong = [
            f"{each['assertion']}: {each['error']['message']}"
            for each in execution["assertions"]
            if "error" in each
        ]
        failed[f"{number} {execution['item']['name']}"] = wrong
    return ended.returncode, failed


def wrong(found: Outcome) -> Outcome:
    return {name: failed for name, failed in found.items() if failed}


@pytest.mark.proof
def test_the_collection_is_green_against_an_open_service_and_can_be_run_again(
    newman: Path, database_url: str, tmp_path: Path
) -> None:
    with serving("--database-url", database_url, cwd=tmp_path) as service:
        url = service.ready().url
        for _ in range(2):
            status, found = outcomes(newman, tmp_path, url)
            assert (wrong(found), status) == ({}, 0)


@pytest.mark.proof
def test_the_collection_is_green_with_a_token_and_red_without(
    newman: Path, database_url: str, tmp_path: Path
) -> None:
    env = {"SEGMENTD_ADMIN_TOKEN": SECRET}
    with serving("--database-url", database_url, cwd=tmp_path, env=env) as service:
        url = service.ready().url
        status, found = outcomes(newman, tmp_path, url, SECRET)
        assert (wrong(found), status) == ({}, 0)

        status, found = outcomes(newman, tmp_path, url)
        open_to_all = {"Does it live?", "Is it ready?", "Does it answer hot reads?"}
        green = {name.split(" ", 1)[1] for name, failed in found.items() if not failed}
        assert status != 0
        assert green <= open_to_all | {"Events need the signature of their link"}


class Wrong(BaseHTTPRequestHandler):
    """Answers everything with 200 and an empty object."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815 # the names that http.server asks for

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def wrong_service() -> Iterator[str]:
    """The address of a service whose every answer is wrong."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Wrong)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.proof
def test_every_request_is_red_against_a_service_that_answers_nonsense(
    newman: Path, wrong_service: str, tmp_path: Path
) -> None:
    status, found = outcomes(newman, tmp_path, wrong_service)

    assert status != 0
    assert [name for name, failed in found.items() if len(failed) < 2] == []
