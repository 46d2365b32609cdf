"""What the commands do on a terminal, and with tokens."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from psycopg import Connection

from segmentd_client import Client
from tests.support.processes import PATIENCE_S, environment, eventually, run

SEGCTL = str(Path(sys.executable).with_name("segctl"))


class Terminal:
    """`segctl` on a terminal of 120 columns, which sends Ctrl-C as a terminal does."""

    def __init__(self, *arguments: str, url: str, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        self._ours, theirs = pty.openpty()
        variables = {"SEGMENTD_SERVER": url, "XDG_CONFIG_HOME": str(cwd), "COLUMNS": "120", "TERM": "xterm"}
        # The terminal that a new session opens by its name is the one whose Ctrl-C reaches it.
        begin = ["sh", "-c", 'exec "$@" <>"$0" >&0 2>&0', os.ttyname(theirs)]
        self._command = subprocess.Popen(
            [*begin, SEGCTL, *arguments],
            cwd=cwd,
            env=environment({**variables, **(env or {})}),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""

    def until(self, words: str) -> None:
        """Waits until the terminal was given these words."""
        while words not in self.shown:
            assert self._read(), self.shown

    def type(self, text: str) -> None:
        """What a person types; \\x03 is Ctrl-C."""
        os.write(self._ours, text.encode())

    def ended(self) -> tuple[int, str]:
        """The exit code, and all that the terminal was given."""
        while self._read():
            pass
        os.close(self._ours)
        return self._command.wait(PATIENCE_S), self.shown

    def _read(self) -> bool:
        ready, _, _ = select.select([self._ours], [], [], PATIENCE_S)
        assert ready, self.shown
        try:
            some = os.read(self._ours, 65536)
        except OSError:  # Linux says so when the other side is closed
            return False
        self.shown += some.decode(errors="replace")
        return bool(some)


def on_a_terminal(*arguments: str, url: str, cwd: Path) -> tuple[int, str]:
    """The exit code of `segctl`, and all that the terminal was given."""
    return Terminal(*arguments, url=url, cwd=cwd).ended()


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


def waiting_for(holder: Connection) -> int:
    """How many transactions wait for this one, each for the one before it."""
    query = """
        WITH RECURSIVE held AS (
            SELECT pg_backend_pid() AS pid
            UNION SELECT a.pid FROM held h JOIN pg_stat_activity a ON h.pid = ANY (pg_blocking_pids(a.pid))
        )
        SELECT count(*) - 1 FROM held
    """
    [(count,)] = holder.execute(query)
    return int(count)


def test_ctrl_c_on_an_import_cancels_it_only_after_a_yes_on_a_terminal(
    service_url: str, client: Client, holder: Connection, tmp_path: Path
) -> None:
    client.segments.create("STOPPED")
    client.users.register(8600)
    holder.execute("SELECT FROM users WHERE id = 8600 FOR UPDATE")
    (tmp_path / "users.csv").write_text("8600\n")
    command = ["import", "users.csv", "--segment", "STOPPED", "--idempotency-key", "stopped"]

    env = environment({"SEGMENTD_SERVER": service_url, "XDG_CONFIG_HOME": str(tmp_path)})
    with subprocess.Popen(
        [SEGCTL, *command], cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as elsewhere:
        assert elsewhere.stderr
        begun = elsewhere.stderr.readline().split()[2]
        elsewhere.send_signal(signal.SIGINT)
        assert (elsewhere.stderr.read(), elsewhere.wait()) == (f"segctl: the import {begun} goes on\n", 1)
    assert not client.imports.get(begun).is_final

    terminal = Terminal(*command, url=service_url, cwd=tmp_path)
    terminal.until(f"the import {begun} has begun")
    terminal.type("\x03")
    terminal.until("Cancel the import?")
    assert not client.imports.get(begun).is_final
    terminal.type("y\n")
    eventually(lambda: waiting_for(holder) >= 2)  # the batch in hand, and who cancels
    holder.rollback()
    code, shown = terminal.ended()

    assert code == 1, shown
    assert "segctl: the import is canceled" in shown
    assert client.imports.get(begun).status == "canceled"


KEYRING = """
import json, pathlib
from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError

FILE = pathlib.Path(__file__).with_name("kept.json")

class Kept(KeyringBackend):
    priority = 1
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}

    def get_password(self, service, username):
        return self.kept.get(f"{service} {username}")

    def set_password(self, service, username, password):
        FILE.write_text(json.dumps({**self.kept, f"{service} {username}": password}))

    def delete_password(self, service, username):
        if f"{service} {username}" not in self.kept:
            raise PasswordDeleteError("there is no such password")
        FILE.write_text("{}")
"""


def test_a_token_is_kept_in_the_keyring_for_its_service_alone(
    service_url: str, refusing: str, tmp_path: Path
) -> None:
    (tmp_path / "kept_in_a_file.py").write_text(KEYRING)
    env = {"PYTHON_KEYRING_BACKEND": "kept_in_a_file.Kept", "PYTHONPATH": str(tmp_path)}

    def segctl(*arguments: str, typed: str = "") -> tuple[int, str]:
        ended = subprocess.run(
            [SEGCTL, *arguments],
            env=environment({**env, "XDG_CONFIG_HOME": str(tmp_path)}),
            input=typed,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return ended.returncode, ended.stderr

    terminal = Terminal("login", url=f"{service_url}/", cwd=tmp_path, env=env)
    terminal.until("Token: ")
    terminal.type("of-the-keyring\n")
    code, shown = terminal.ended()
    assert (code, "of-the-keyring" in shown) == (0, False), shown
    kept = tmp_path / "kept.json"
    assert json.loads(kept.read_text()) == {f"segmentd {service_url}": "of-the-keyring"}

    assert segctl("login", "--server", refusing, typed="refused\n")[0] == 1
    assert "refused" not in kept.read_text(), "a token that the service refuses is not kept"
    kept.write_text(json.dumps({f"segmentd {refusing}": "kept-for-it", f"segmentd {service_url}": "other"}))
    assert segctl("segments", "list", "--server", refusing)[0] == 1
    assert Refusing.heard == ["Bearer refused", "Bearer kept-for-it"]
    assert segctl("logout", "--server", refusing) == (
        0,
        f"the token for {refusing} is no longer in the keyring\n",
    )
    assert segctl("logout", "--server", refusing) == (
        1,
        "segctl: the keyring refuses: there is no such password\n",
    )
