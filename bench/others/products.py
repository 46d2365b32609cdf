"""The other products, each with the same flags, as servers of this machine."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final, NamedTuple

from bench.closed_loop import Kind
from bench.population import FIRST_NUMBER
from bench.programs import BenchError, Missing, free_port

FLAGS: Final = 100
PERCENT: Final = 5
FRONTEND_TOKEN: Final = "*:development.for-the-bench-alone"  # noqa: S105 - of a server that lives for the run
_ADMIN_TOKEN: Final = "*:*.for-the-bench-alone"  # noqa: S105 - the same
_START_SECONDS: Final = 120.0
_GROWTHBOOK: Final = Path(__file__).with_name("growthbook.js")


class Product(NamedTuple):
    """A server that runs: its name and version, how a user's flags are asked for, and its processes."""

    name: str
    url: str
    kind: Kind
    pids: Sequence[int]


@contextmanager
def unleash(modules: Path, database: Mapping[str, str]) -> Iterator[Product]:
    """Unleash with its frontend API, on a PostgreSQL of these variables. Raises Missing."""
    version = _version(modules, "unleash-server")
    port = free_port()
    env = {
        **os.environ,
        **database,
        "DATABASE_SSL": "false",
        "HTTP_PORT": str(port),
        "HTTP_HOST": "127.0.0.1",
        "INIT_FRONTEND_API_TOKENS": FRONTEND_TOKEN,
        "INIT_ADMIN_API_TOKENS": _ADMIN_TOKEN,
        "CHECK_VERSION": "false",
        "SEND_TELEMETRY": "false",
        "LOG_LEVEL": "error",
    }
    command = [_node(), "node_modules/unleash-server/dist/server.js"]
    with _running(command, modules, env, port, "/health") as pid:
        _make_flags(port)
        yield Product(f"Unleash {version}", f"http://127.0.0.1:{port}", "unleash", [pid])


@contextmanager
def growthbook(modules: Path) -> Iterator[Product]:
    """GrowthBook's remote evaluation. Raises Missing."""
    version = _version(modules, "@growthbook/proxy-eval")
    port = free_port()
    command = [_node(), str(_GROWTHBOOK), str(port), str(FLAGS), str(PERCENT)]
    with _running(command, modules, os.environ, port, "/") as pid:
        name = f"GrowthBook (@growthbook/proxy-eval {version})"
        yield Product(name, f"http://127.0.0.1:{port}", "growthbook", [pid])


def flags() -> Sequence[str]:
    """The names of the flags."""
    return [f"campaign-{FIRST_NUMBER + number}" for number in range(FLAGS)]


def _make_flags(port: int) -> None:
    features = "/api/admin/projects/default/features"
    for name in flags():
        here = f"{features}/{name}/environments/development"
        rollout = {"rollout": str(PERCENT), "stickiness": "userId", "groupId": name}
        _post(port, features, {"name": name})
        _post(port, f"{here}/strategies", {"name": "flexibleRollout", "parameters": rollout})
        _post(port, f"{here}/on", {})
    deadline = time.monotonic() + _START_SECONDS
    while not _shows_flags(port):
        if time.monotonic() > deadline:
            raise BenchError("Unleash shows no flag to any of a hundred users")
        time.sleep(1)


def _shows_flags(port: int) -> bool:
    """Whether a hundred users have about as many flags as they should have."""
    found = 0
    for user in range(1, 101):
        path = f"/api/frontend?userId={user}"
        status, body = _asked(port, "GET", path, FRONTEND_TOKEN)
        if status != 200:  # noqa: PLR2004 - OK
            raise BenchError(f"Unleash answered {status}")
        found += len(json.loads(body)["toggles"])
    return found > FLAGS * PERCENT / 2


def _post(port: int, path: str, body: object) -> None:
    status, said = _asked(port, "POST", path, _ADMIN_TOKEN, json.dumps(body))
    if status >= 300:  # noqa: PLR2004 - no success
        raise BenchError(f"Unleash answered {path} with {status}: {said.decode()}")


def _asked(port: int, method: str, path: str, token: str, body: str | None = None) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"Authorization": token, "Content-Type": "application/json"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@contextmanager
def _running(
    command: Sequence[str], folder: Path, env: Mapping[str, str], port: int, path: str
) -> Iterator[int]:
    with subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            _wait_for(process, port, path)
            yield process.pid
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def _wait_for(process: subprocess.Popen[bytes], port: int, path: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if _asked(port, "GET", path, "")[0] == 200:  # noqa: PLR2004 - OK
                return
        except (OSError, HTTPException):
            time.sleep(0.2)
    process.kill()
    said = (process.stdout.read() if process.stdout else b"").decode("utf-8", "replace")
    raise BenchError(f"the server at port {port} does not answer: {said[-1000:]}")


def _version(modules: Path, package: str) -> str:
    described = modules / "node_modules" / package / "package.json"
    if not described.exists():
        raise Missing(f"{package} is not in {modules}: npm install --prefix {modules} {package}")
    return str(json.loads(described.read_text("utf-8"))["version"])


def _node() -> str:
    found = shutil.which("node")
    if found is None:
        raise Missing("Node.js is not installed; on Debian and Ubuntu: apt install nodejs")
    return found
