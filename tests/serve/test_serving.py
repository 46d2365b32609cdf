import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from segmentd.config import Settings
from segmentd.replica.kernel import BEST
from segmentd.serve.supervisor import SPARE_SECONDS
from tests.support.processes import PATIENCE_S, Serving, eventually, failure, is_alive, run, serving
from tests.support.rows import Rows, rows_of

# Every write takes this lock, shared (catalog_lock).
WRITERS_LOCK = 7236837901
# In this test's own database: others are on the same server.
SOMEBODY_WAITS = """
    SELECT FROM pg_locks JOIN pg_database ON oid = database
    WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted
"""


@pytest.fixture
def rows(empty_database_url: str) -> Iterator[Rows]:
    with rows_of(empty_database_url) as rows:
        yield rows


def add(service: Serving, user_id: int, slug: str) -> httpx.Response:
    with service.client() as client:
        return client.post(f"users/{user_id}/segments", json={"add": [slug]})


@contextmanager
def change_under_way(
    database_url: str, rows: Rows, folder: Path, *, workers: int = 1
) -> Iterator[tuple[Serving, Future[httpx.Response]]]:
    """A service with a change that waits for WRITERS_LOCK, which `rows` holds."""
    with (
        serving("--database-url", database_url, cwd=folder, workers=workers) as service,
        ThreadPoolExecutor(1) as client,
    ):
        service.ready()
        with service.client() as other:
            other.post("segments", json={"slug": "A"})
        rows("SELECT pg_advisory_lock(%s)", WRITERS_LOCK)
        yield service, client.submit(add, service, 1000, "A")


def is_served(service: Serving) -> bool:
    try:
        with service.client() as client:
            return client.get("segments").status_code == 200
    except httpx.TransportError:
        return False


def test_as_shipped_it_says_where_it_serves_in_one_line_serves_and_ends_on_sigterm(
    empty_database_url: str, tmp_path: Path
) -> None:
    with serving("--database-url", empty_database_url, cwd=tmp_path, as_shipped=True) as service:
        service.ready()
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*", service.url)
        with service.client() as client:
            assert client.post("segments", json={"slug": "A"}).status_code == 201
        assert add(service, 1000, "A").json()["segments"] == ["A"]
        family = service.family()

        assert service.stop(signal.SIGTERM) == (0, "")

        assert not [pid for pid in family if is_alive(pid)]
        assert "Traceback" not in service.errors
        assert not is_served(service)


# A service manager signals the supervisor or all processes, a Ctrl-C at a terminal all.
@pytest.mark.parametrize(
    ("send", "number"),
    [(os.kill, signal.SIGTERM), (os.killpg, signal.SIGTERM), (os.killpg, signal.SIGINT)],
    ids=["SIGTERM", "SIGTERM to all", "Ctrl-C"],
)
def test_a_request_that_runs_is_answered_before_the_end(
    empty_database_url: str,
    rows: Rows,
    tmp_path: Path,
    send: Callable[[int, int], None],
    number: signal.Signals,
) -> None:
    with change_under_way(empty_database_url, rows, tmp_path) as (service, running):
        eventually(lambda: rows(SOMEBODY_WAITS))

        send(service.pid, number)
        eventually(lambda: is_refused_at(service.url))
        assert not running.done()
        rows("SELECT pg_advisory_unlock(%s)", WRITERS_LOCK)

        assert running.result().status_code == 200
        assert service.ended() == (0, "")
        assert "Traceback" not in service.errors
        assert "process died" not in service.errors


def test_after_a_kill_of_the_supervisor_what_runs_is_answered_and_its_processes_end_in_order(
    empty_database_url: str, rows: Rows, tmp_path: Path
) -> None:
    with change_under_way(empty_database_url, rows, tmp_path) as (service, running):
        eventually(lambda: rows(SOMEBODY_WAITS))
        family = service.family()

        os.kill(service.pid, signal.SIGKILL)
        eventually(lambda: is_refused_at(service.url))
        rows("SELECT pg_advisory_unlock(%s)", WRITERS_LOCK)

        assert running.result().status_code == 200
        eventually(lambda: not [pid for pid in family if is_alive(pid)])
        assert '"level":"error"' not in service.errors
        assert "Traceback" not in service.errors


def place(url: str) -> tuple[str, int]:
    """The address and port of a URL."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0


def is_refused_at(url: str) -> bool:
    """Whether a new connection is refused at once."""
    try:
        with socket.create_connection(place(url), timeout=0.5):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False


BEGUN = b"GET /livez HTTP/1.1\r\n"
REST = b"Host: a\r\n\r\n"
POSTED = (
    b"POST /api/v1/segments HTTP/1.1\r\nHost: a\r\n"
    b"Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
)
LOOKED_UP = POSTED.replace(b"segments", b"lookup")


def connected(service: Serving, sent: bytes) -> socket.socket:
    """A connection on which these bytes were sent."""
    connection = socket.create_connection(place(service.url), timeout=PATIENCE_S)
    connection.sendall(sent)
    return connection


def answer_ending(connection: socket.socket, end: bytes) -> bytes:
    """What comes up to these bytes: the head and the body of an answer may come one by one."""
    received = b""
    while not received.endswith(end):
        received += (some := connection.recv(65536))
        assert some, received
    return received


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side ends the connection."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_while_it_stops_the_port_is_closed_and_each_client_has_its_answer_and_is_sent_away(
    empty_database_url: str, rows: Rows, tmp_path: Path
) -> None:
    with change_under_way(empty_database_url, rows, tmp_path, workers=2) as (service, running):
        used = connected(service, BEGUN + REST)
        assert answer_ending(used, b'{"status":"ok"}').startswith(b"HTTP/1.1 200 OK\r\n")
        used.sendall(BEGUN)
        fresh = connected(service, BEGUN)
        silent = [connected(service, b"") for _ in service.workers()]  # one for each
        eventually(lambda: rows(SOMEBODY_WAITS))

        os.kill(service.pid, signal.SIGTERM)
        eventually(lambda: is_refused_at(service.url))
        assert [received(connection) for connection in silent] == [b"", b""]

        for connection in (used, fresh):
            connection.sendall(REST)
            answer = received(connection)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\nconnection: close\r\n" in answer
        rows("SELECT pg_advisory_unlock(%s)", WRITERS_LOCK)
        assert running.result().status_code == 200
        assert running.result().headers["connection"] == "close"
        assert service.ended() == (0, "")
        assert "Traceback" not in service.errors


def test_clients_that_wait_to_be_let_in_when_it_stops_are_answered(
    empty_database_url: str, tmp_path: Path
) -> None:
    at_once = {"SEGMENTD_UNREADY_SECONDS": "0"}
    with serving("--database-url", empty_database_url, cwd=tmp_path, workers=2, env=at_once) as service:
        service.ready()
        workers = service.workers()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        waiting = [connected(service, BEGUN + REST) for _ in range(20)]

        os.kill(service.pid, signal.SIGTERM)
        eventually(lambda: not sockets_of(service.pid))
        for pid in workers:
            os.kill(pid, signal.SIGCONT)

        for connection in waiting:
            assert received(connection).startswith(b"HTTP/1.1 200 OK\r\n")
        assert service.ended() == (0, "")
        assert is_refused_at(service.url)


def sockets_of(pid: int, port: int | None = None) -> list[str]:
    """The TCP sockets of a process, of this port if it is given, if the system shows them."""
    listed = Path(f"/proc/{pid}/net/tcp")
    if not listed.exists():
        pytest.skip("only Linux shows the sockets of another process")
    lines = [line.split() for line in listed.read_text().splitlines()[1:]]
    inodes = {line[9] for line in lines if port is None or line[1].endswith(f":{port:04X}")}
    opened = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            opened.append(str(link.readlink()))
    return [each for each in opened if each.removeprefix("socket:[").removesuffix("]") in inodes]


def test_a_request_that_the_stop_cuts_off_is_503_and_the_end_fits_the_defaults(
    empty_database_url: str, rows: Rows, tmp_path: Path
) -> None:
    with change_under_way(empty_database_url, rows, tmp_path) as (service, running):
        incomplete = [connected(service, sent) for sent in (BEGUN, POSTED, LOOKED_UP)]
        eventually(lambda: rows(SOMEBODY_WAITS))

        assert service.stop(signal.SIGTERM) == (0, "")

        assert running.result().status_code == 503
        assert running.result().headers["content-type"] == "application/problem+json"
        assert running.result().headers["retry-after"] == "1"
        assert running.result().json()["type"] == "/problems/unavailable"
        assert running.result().json()["request_id"] in service.errors
        for connection in incomplete:
            answer = received(connection)
            assert answer.startswith(b"HTTP/1.1 503 "), answer
            assert b'"/problems/unavailable"' in answer
        assert "Traceback" not in service.errors
    assert rows("SELECT count(*) FROM memberships") == [(0,)]


def test_by_its_defaults_a_stop_is_over_before_docker_kills() -> None:
    docker_s, of_postgresql_s = 10, 2
    longest = Settings().unready_seconds + Settings().shutdown_seconds + SPARE_SECONDS
    assert longest + of_postgresql_s < docker_s


def asked(service: Serving, times: int) -> list[socket.socket]:
    """So many connections at once, each with a request; they stay open, and each has its answer."""
    connections = [connected(service, BEGUN + REST) for _ in range(times)]
    for connection in connections:
        assert answer_ending(connection, b'{"status":"ok"}').startswith(b"HTTP/1.1 200 OK\r\n")
    return connections


def test_connections_fall_evenly_and_none_waits_for_an_http_process_that_hangs_or_is_killed_and_replaced(
    empty_database_url: str, tmp_path: Path
) -> None:
    with (
        serving("--database-url", empty_database_url, cwd=tmp_path, workers=2) as service,
        ExitStack() as connections,
    ):
        _, port = place(service.ready().url)

        def open_some(times: int) -> None:
            for connection in asked(service, times):
                connections.enter_context(connection)

        def held() -> dict[int, int]:
            return {pid: len(sockets_of(pid, port)) for pid in service.workers()}

        open_some(31)
        assert sorted(held().values()) == [15, 16]

        hanging, other = held()
        os.kill(hanging, signal.SIGSTOP)
        open_some(20)
        before = held()[other]
        assert before >= 15 + 20
        os.kill(hanging, signal.SIGKILL)
        open_some(10)

        eventually(lambda: len(service.workers() - {hanging, other}) == 1)
        [successor] = service.workers() - {other}
        while not held()[successor]:
            open_some(1)
        had = held()[successor]
        assert had + 10 < held()[other]
        open_some(10)
        assert held()[successor] == had + 10
        assert service.stop() == (0, "")


def test_every_other_process_that_is_killed_is_replaced(empty_database_url: str, tmp_path: Path) -> None:
    with serving("--database-url", empty_database_url, cwd=tmp_path) as service:
        service.ready()
        first = set(service.family())

        for pid in first:
            os.kill(pid, signal.SIGKILL)

        eventually(lambda: len(set(service.family()) - first) == len(first))
        eventually(lambda: is_served(service))
        assert service.stop() == (0, "")


def test_a_killed_supervisor_takes_all_others_with_it_and_the_next_start_works(
    empty_database_url: str, tmp_path: Path
) -> None:
    with serving("--database-url", empty_database_url, cwd=tmp_path) as service:
        service.ready()
        family = service.family()
        port = urlsplit(service.url).port
        assert port

        os.kill(service.pid, signal.SIGKILL)

        eventually(lambda: not [pid for pid in family if is_alive(pid)])
    with serving("--database-url", empty_database_url, cwd=tmp_path, port=port) as service:
        service.ready()
        assert urlsplit(service.url).port == port
        assert is_served(service)
        assert service.stop() == (0, "")


def test_two_services_that_start_at_once_on_one_empty_database_both_come_up(
    empty_database_url: str, tmp_path: Path
) -> None:
    database = ("--database-url", empty_database_url)
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    with serving(*database, cwd=one) as first, serving(*database, cwd=two) as second:
        first.ready()
        second.ready()
        assert first.url != second.url
        with first.client() as client:
            assert client.post("segments", json={"slug": "A"}).status_code == 201
        assert add(second, 1000, "A").status_code == 200
        with first.client() as client:
            eventually(lambda: client.get("users/1000/segments").json()["segments"] == ["A"])
        assert first.stop() == second.stop() == (0, "")


def test_the_embedded_database_outlives_a_stop_and_a_kill_of_the_service(tmp_path: Path) -> None:
    data = tmp_path / "data of mine"
    with serving("--data-dir", data, cwd=tmp_path) as service:
        service.ready()
        with service.client() as client:
            assert client.post("segments", json={"slug": "A"}).status_code == 201
        assert add(service, 1, "A").status_code == 200
        beside = run("check", "--data-dir", data, cwd=tmp_path)
        assert beside.returncode == 0, beside.stderr
        assert "schema: up to date" in beside.stdout
        assert f"kernel: {BEST.name}\n" in beside.stdout
        assert run("migrate", "--data-dir", data, cwd=tmp_path).stdout == "the schema is up to date\n"
        second = failure(run("serve", "--port", "0", "--data-dir", data, cwd=tmp_path))
        assert second == f"the data directory {data} is in use by process {service.pid}"
        family = service.family()

        os.kill(service.pid, signal.SIGKILL)

        eventually(lambda: not [pid for pid in family if is_alive(pid)])
    with serving("--data-dir", data, cwd=tmp_path) as service:
        service.ready()
        with service.client() as client:
            assert client.get("segments/A/users").json()["user_ids"] == [1]
        assert service.stop() == (0, "")
    stopped = run("check", "--data-dir", data, cwd=tmp_path)
    assert stopped.returncode == 0, stopped.stderr


def test_ctrl_c_while_it_waits_for_another_s_migration_leaves_no_traceback(
    empty_database_url: str, rows: Rows, tmp_path: Path
) -> None:
    rows("SELECT pg_advisory_lock(7236837900)")
    with serving("--database-url", empty_database_url, cwd=tmp_path) as service:
        eventually(lambda: rows(SOMEBODY_WAITS))

        code, output = service.stop(signal.SIGINT)

        assert (code, output) == (130, "")
        assert "Traceback" not in service.errors
