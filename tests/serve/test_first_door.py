import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from segmentd.api.http.edge.problem_documents import SECURITY_HEADERS
from segmentd.config import Settings
from segmentd.serve import first_door
from segmentd.serve.first_door import FirstDoor, opened
from tests.support.processes import PATIENCE_S, TLS, eventually, serving
from tests.support.rows import rows_of

MIGRATION_LOCK = 7236837900
SOMEBODY_WAITS = """
    SELECT FROM pg_locks JOIN pg_database ON oid = database
    WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted
"""
LIVES = b"GET /livez HTTP/1.1\r\nHost: segmentd\r\n\r\n"


@pytest.fixture
def door() -> Iterator[FirstDoor]:
    with opened(Settings(port=0)) as door:
        yield door


def connected(door: FirstDoor) -> socket.socket:
    return socket.create_connection(door.listener.getsockname(), timeout=PATIENCE_S)


def answered(connection: socket.socket) -> bytes:
    """All that comes until the server ends the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_service_lives_before_its_database_is_ready_and_says_last_that_it_is_ready(
    empty_database_url: str, tmp_path: Path
) -> None:
    with rows_of(empty_database_url) as rows, socket.socket() as kept:
        rows("SELECT pg_advisory_lock(%s)", MIGRATION_LOCK)
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        port = kept.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        arguments = ("--database-url", empty_database_url)
        with serving(*arguments, cwd=tmp_path, port=port) as service, httpx.Client(verify=TLS) as client:
            eventually(lambda: rows(SOMEBODY_WAITS))

            alive = client.get(f"{url}/livez")
            refused = client.get(f"{url}/readyz")
            written = client.post(f"{url}/api/v1/lookup", content=bytes(3_000_000))
            assert service.poll() is None
            rows("SELECT pg_advisory_unlock(%s)", MIGRATION_LOCK)
            service.ready()
            ready, later = client.get(f"{url}/readyz"), client.get(f"{url}/livez")

            assert (alive.status_code, alive.json()) == (200, {"status": "ok"}) == (200, later.json())
            assert (
                SECURITY_HEADERS.items()
                <= {name.title(): value for name, value in alive.headers.items()}.items()
            )
            assert [each.status_code for each in (refused, written, ready)] == [503, 503, 200]
            assert refused.headers["Retry-After"] == "1"
            assert refused.json()["type"] == "/problems/unavailable"
            assert service.stop() == (0, "")


def test_silent_clients_keep_nobody_out(door: FirstDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_door, "MOST", 4)
    silent = [connected(door) for _ in range(9)]

    with connected(door) as client:
        client.sendall(LIVES)
        assert answered(client).startswith(b"HTTP/1.1 200 OK\r\n")

    for each in silent:
        each.close()


def test_a_client_that_says_nothing_is_left_after_a_while(
    door: FirstDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_door, "SECONDS", 0.1)
    with connected(door) as client:
        assert answered(client) == b""


def test_a_request_that_is_being_read_when_the_door_leaves_is_answered_and_the_next_waits_for_others(
    door: FirstDoor,
) -> None:
    with connected(door) as client, connected(door) as other:
        client.sendall(LIVES[:9])
        other.sendall(LIVES)
        answered(other)
        door.leave()

        with connected(door) as later:
            client.sendall(LIVES[9:])
            assert answered(client).endswith(b'\r\n\r\n{"status":"ok"}')
            door.listener.settimeout(PATIENCE_S)
            taken, address = door.listener.accept()
            taken.close()
            assert address == later.getsockname()


@pytest.mark.parametrize(
    ("request_line", "status", "has_body"),
    [
        ("GET /livez?x=1", 200, True),
        ("HEAD /livez", 200, False),
        ("POST /livez", 503, True),
        ("GET /readyz", 503, True),
        ("HEAD /readyz", 503, False),
        ("POST /ofrep/v1/evaluate/flags", 503, True),
        ("\xff", 503, True),
    ],
)
def test_everything_but_the_question_whether_it_lives_is_unavailable(
    request_line: str, status: int, *, has_body: bool
) -> None:
    head, _, body = first_door.answer(f"{request_line} HTTP/1.1\r\n\r\n".encode("latin-1")).partition(
        b"\r\n\r\n"
    )

    assert int(head.split()[1]) == status
    assert (b"retry-after: 1" in head) == (status == 503)
    assert b"connection: close" in head.lower()
    assert bool(body) is has_body
