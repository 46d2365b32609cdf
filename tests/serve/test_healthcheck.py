"""The health check of a container finds the service however it was started, and ends by itself."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from segmentd.serve import healthcheck
from tests.support.processes import MODULE, eventually, run, serving

CHECK: Sequence[str] = [sys.executable, "-m", "segmentd.serve.healthcheck"]


def checked(folder: Path, **variables: str) -> tuple[int, str]:
    """Exit code and what it said, with these settings in the environment alone."""
    ended = run(cwd=folder, env=variables, command=CHECK)
    assert ended.stdout == ""
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("how", [["--host", "::"], ["--config", "a.toml"]])
def test_the_service_is_found_whatever_port_and_address_its_command_names(
    database_url: str, tmp_path: Path, how: list[str]
) -> None:
    (tmp_path / "a.toml").write_text('host = "127.0.0.1"\n')
    variables = {"SEGMENTD_DATA_DIR": str(tmp_path / "d"), "SEGMENTD_PORT": "1"}
    database = ("--database-url", database_url, "--insecure-open", "--unready-seconds", "3600")
    assert checked(tmp_path, **variables) == (1, f"segmentd: no segmentd serves here from {tmp_path / 'd'}\n")

    with serving(*database, *how, cwd=tmp_path, env=variables) as service:
        service.ready()
        assert checked(tmp_path, **variables) == (0, "")

        os.kill(service.pid, signal.SIGTERM)  # it says for an hour that it is about to stop
        eventually(lambda: checked(tmp_path, **variables)[0] == 1)
        assert checked(tmp_path, **variables)[1].endswith(" says 503\n")
        assert service.stop() == (0, "")

    assert checked(tmp_path, **variables)[1].startswith("segmentd: no segmentd serves here")


class Ready(BaseHTTPRequestHandler):
    """Answers as a node that is ready, and no other path."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class Six(HTTPServer):
    """On an address of IPv6."""

    address_family = socket.AF_INET6


@pytest.mark.parametrize(
    ("server", "host", "noted"),
    [
        (HTTPServer, "127.0.0.1", "127.0.0.1"),
        (HTTPServer, "0.0.0.0", "0.0.0.0"),  # noqa: S104 - what an operator may choose
        (Six, "::", "[::]"),
        (Six, "::1", "[::1]"),
    ],
)
def test_a_service_is_asked_at_an_address_that_reaches_it(
    server: type[HTTPServer], host: str, noted: str
) -> None:
    with server((host, 0), Ready) as node, ThreadPoolExecutor(1) as apart:
        answering = apart.submit(node.handle_request)
        assert healthcheck.ask(f"http://{noted}:{node.server_port}") is None
        answering.result()


def test_a_service_that_hangs_is_found_out_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        folder = tmp_path / "data" / "node-1"
        folder.mkdir(parents=True)
        healthcheck.note_serving(folder, f"http://127.0.0.1:{silent.getsockname()[1]}")
        code, said = checked(tmp_path)
    assert code == 1
    assert "no answer within 4 seconds" in said or "timed out" in said


def test_a_service_that_trickles_is_found_out_in_time(tmp_path: Path) -> None:
    script = (
        "import socket, sys, time\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "print(server.getsockname()[1], flush=True)\n"
        "end, _ = server.accept()\n"
        "end.sendall(b'HTTP/1.1 200 OK\\r\\n')\n"
        "while True:\n"
        "    end.sendall(b'a: b\\r\\n')\n"
        "    time.sleep(0.2)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as slow:
        assert slow.stdout is not None
        folder = tmp_path / "data" / "node-1"
        folder.mkdir(parents=True)
        healthcheck.note_serving(folder, f"http://127.0.0.1:{int(slow.stdout.readline())}")
        try:
            assert checked(tmp_path)[0] == 1
        finally:
            slow.kill()


def test_what_an_ended_or_another_container_s_service_left_is_passed_over(
    tmp_path: Path,
) -> None:
    ours, other, broken = (tmp_path / f"node-{number}" for number in (1, 2, 3))
    for folder in (ours, other, broken):
        folder.mkdir()
    ended = subprocess.Popen([*MODULE[:1], "-c", ""])
    ended.wait()
    healthcheck.note_serving(ours, "http://127.0.0.1:1")
    assert [each.url for each in healthcheck.noted(tmp_path)] == ["http://127.0.0.1:1"]
    note = ours / "serving.json"
    (broken / "serving.json").write_text("{")
    (other / "serving.json").write_text(note.read_text().replace(socket.gethostname(), "another"))

    note.write_text(note.read_text().replace(f'"pid":{os.getpid()}', f'"pid":{ended.pid}'))

    assert [*healthcheck.noted(tmp_path)] == []
