"""Exports whose clients do not read, and exports that are cut off."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.support.postgres import new_database
from tests.support.processes import PATIENCE_S, Serving, eventually, serving
from tests.support.rows import Rows, rows_of
from tests.support.scraping import Scrape

MEMBERS: Final = 50_000  # 2 MB, more than all buffers on the way
MOST_HELD: Final = 2**20
QUICK_STOP: Final = {"SEGMENTD_UNREADY_SECONDS": "0", "SEGMENTD_SHUTDOWN_SECONDS": "1"}
REQUEST: Final = b"GET /api/v1/segments/BIG/export HTTP/%b\r\nHost: segmentd\r\n\r\n"

FILL: LiteralString = """
    SET session_replication_role = replica;
    INSERT INTO segments (slug, salt, created_at) VALUES ('BIG', 1, '2025-01-01Z');
    INSERT INTO users (id, registered_at, last_at)
    SELECT id, '2025-01-01Z', '2025-01-02Z' FROM generate_series(1, %s) AS id;
    INSERT INTO registrations (user_id, registered_at) SELECT id, registered_at FROM users;
    INSERT INTO memberships (user_id, segment_id, included, since)
    SELECT u.id, s.id, true, '2025-01-02Z' FROM users u, segments s;
    UPDATE catalog SET version = version + 1;
"""
COPIES: LiteralString = """
    SELECT pid FROM pg_stat_activity
    WHERE starts_with(query, 'COPY') AND state = 'active' AND datname = current_database()
"""
END_COPIES: LiteralString = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE starts_with(query, 'COPY') AND state = 'active' AND datname = current_database()
"""


@pytest.fixture(scope="module")
def filled_url(postgres_url: str, template_database: str) -> Iterator[str]:
    with new_database(postgres_url, template_database) as url:
        with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
            connection.execute(FILL, [MEMBERS])
        yield url


@pytest.fixture
def rows(filled_url: str) -> Iterator[Rows]:
    with rows_of(filled_url) as rows:
        yield rows


@contextmanager
def begun(service: Serving, version: bytes = b"1.1") -> Iterator[socket.socket]:
    """A client that has read the beginning of an export, and has little room for the rest."""
    address = urlsplit(service.url)
    with socket.socket() as client:
        client.settimeout(PATIENCE_S)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((address.hostname, address.port))
        client.sendall(REQUEST % version)
        assert client.recv(20).startswith(b"HTTP/1.1 200 OK\r\n")
        yield client


def is_reset(client: socket.socket, pause_s: float = 0) -> bool:
    """Reads to the end, with pauses, and says whether that is a reset."""
    try:
        while client.recv(2**14):
            time.sleep(pause_s)  # a slow client is the subject
    except ConnectionResetError:
        return True
    return False


def stop_in_the_midst(service: Serving) -> None:
    """Begins a stop, and waits until it waits no longer."""
    os.kill(service.pid, signal.SIGTERM)
    eventually(lambda: "requests were cut off by the stop" in service.errors)


def exports(service: Serving) -> dict[str, float]:
    """How the exports ended."""
    with service.client() as client:
        return Scrape(client.get(f"{service.url}/metrics").text).of_each("segmentd_exports_total", "outcome")


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def test_an_export_that_nobody_reads_holds_little_and_delays_nobody(
    filled_url: str, rows: Rows, tmp_path: Path
) -> None:
    few = {"SEGMENTD_POOL_SIZE": "1", "SEGMENTD_EXPORTS_AT_ONCE": "2"}
    with serving("--database-url", filled_url, cwd=tmp_path, env=few) as service:
        [worker] = service.ready().workers()
        with service.client() as client:
            for user in (7, 8):  # the first time, everything takes memory for good
                before = resident_bytes(worker)
                eventually(lambda: len(client.get("segments/BIG/export").text) > MOST_HELD)
                with begun(service), begun(service):
                    refused = client.get("segments/BIG/export")
                    changed = client.post(f"users/{user}/segments", json={"remove": ["BIG"]})

                    assert len(rows(COPIES)) == 2
                    assert (refused.status_code, refused.json()["type"]) == (
                        429,
                        "/problems/too-many-exports",
                    )
                    assert int(refused.headers["Retry-After"]) >= 1
                    assert changed.json()["removed"] == ["BIG"]
                    grown = resident_bytes(worker) - before
                # The clients have gone.
                eventually(lambda: not rows(COPIES))
            assert grown < MOST_HELD
        eventually(lambda: exports(service) == {"done": 2, "abandoned": 4, "timeout": 0, "failed": 0})
        assert "Traceback" not in service.errors
        assert service.stop() == (0, "")


def test_an_export_that_is_cut_off_is_seen_to_be(filled_url: str, rows: Rows, tmp_path: Path) -> None:
    cuts: dict[str, Callable[[], object]] = {
        "by the database": lambda: rows(END_COPIES),
        "by a kill": lambda: os.kill(min(service.workers()), signal.SIGKILL),
        "by a stop": lambda: stop_in_the_midst(service),
    }
    with serving("--database-url", filled_url, cwd=tmp_path, env=QUICK_STOP) as service:
        service.ready()
        for name, cut in cuts.items():
            eventually(service.workers)
            with begun(service, b"1.0") as client:
                cut()
                assert is_reset(client), name
            eventually(lambda: not rows(COPIES))
        assert service.ended() == (0, "")
        assert "Traceback" not in service.errors


def test_an_export_that_takes_too_long_ends_and_so_does_its_snapshot(
    filled_url: str, rows: Rows, tmp_path: Path
) -> None:
    short = {"SEGMENTD_SEND_SECONDS": "1", "SEGMENTD_EXPORT_SECONDS": "4"}
    with serving("--database-url", filled_url, cwd=tmp_path, env=short) as service:
        service.ready()
        with begun(service):
            eventually(lambda: "connection cut" in service.errors)
            eventually(lambda: not rows(COPIES))
        with begun(service) as client:
            assert is_reset(client, pause_s=0.1)
            eventually(lambda: not rows(COPIES))
        assert exports(service) == {"done": 0, "abandoned": 1, "timeout": 1, "failed": 0}
        assert "An export may last 4 seconds." in service.errors
        assert "Traceback" not in service.errors
        assert service.stop() == (0, "")
