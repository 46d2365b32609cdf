"""What the commands do on a terminal, and with tokens."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from segmentd_client import Client
from tests.support.processes import PATIENCE_S, environment, run

SEGCTL = str(Path(sys.executable).with_name("segctl"))


def on_a_terminal(*arguments: str, url: str, cwd: Path) -> tuple[int, str]:
    """The exit code of `segctl`, and all that a terminal of 120 columns was given."""
    ours, theirs = pty.openpty()
    env = environment(
        {"SEGMENTD_SERVER": url, "XDG_CONFIG_HOME": str(cwd), "COLUMNS": "120", "TERM": "xterm"}
    )
    command = subprocess.Popen(
        [SEGCTL, *arguments], cwd=cwd, env=env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while some := os.read(ours, 65536):
            shown += some
    except OSError:  # Linux says so when the other side is closed
        pass
    finally:
        os.close(ours)
    return command.wait(PATIENCE_S), shown.decode()


def test_answers_on_a_terminal_are_tables_for_people(
    service_url: str, client: Client, tmp_path: Path
) -> None:
    client.segments.create("SHOWN", description="\x1b[31mred [bold]", percent=0)
    client.users.register(8500, name="Ünsal")
    (tmp_path / "users.csv").write_text("8500\n8501\n")

    imported = on_a_terminal("import", "users.csv", "--segment", "SHOWN", url=service_url, cwd=tmp_path)
    code, user = on_a_terminal("user", "8500", url=service_url, cwd=tmp_path)
    _, segment = on_a_terminal("segments", "show", "SHOWN", url=service_url, cwd=tmp_path)

    assert imported[0] == 0
    assert "applied_users" in imported[1]
    assert "sending" in imported[1], "the progress"
    assert code == 0
    assert "user 8500: Ünsal, registered 20" in user
    assert "last events" in user
    assert "?[31mred [bold]" in segment, "what a terminal would obey is not sent to it"


class Refusing(BaseHTTPRequestHandler):
    """Refuses every request, as the service refuses an unknown token, and remembers the tokens."""

    heard: list[str | None]

    def do_GET(self) -> None:
        self.heard.append(self.headers["authorization"])
        body = json.dumps(
            {"type": "/problems/unauthenticated", "detail": "This token is not valid."}
        ).encode()
        self.send_response(401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Says nothing."""


@pytest.fixture
def refusing() -> Iterator[str]:
    Refusing.heard = []
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_token_comes_from_a_file_or_the_environment_and_is_not_shown(refusing: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-the-file\n")
    env = {"SEGMENTD_TOKEN": "of-the-environment", "XDG_CONFIG_HOME": str(tmp_path)}
    ways = [(), ("--token-file", "token")]
    for way in ways:
        ended = run("segments", "list", "--server", refusing, *way, cwd=tmp_path, env=env)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr == (
            "segmentd: This token is not valid. Set SEGMENTD_TOKEN, or name a file with --token-file.\n"
        )
    assert Refusing.heard == ["Bearer of-the-environment", "Bearer of-the-file"]
