"""Imports by real processes: the memory that they take, and what is there after each of them was killed."""

import itertools
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from psycopg.abc import Query

from segmentd.storage import embedded
from tests.support.client import Json
from tests.support.processes import PATIENCE_S, Serving, eventually, serving

MOST_PRIVATE_BYTES: Final = 16 * 2**20
USERS: Final = 1400  # two ranges, each of more than a batch
# More than is stored at once.
CHUNK: Final = b"".join(b"%d\n" % number for number in range(1_000_000, 1_160_000))
ONE_USER: LiteralString = "INSERT INTO users (id, registered_at, last_at) VALUES (%s, now(), now())"
IS_BLOCKED: LiteralString = (
    "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%apply_import_batch%'"
)
IS_STORED: LiteralString = "SELECT number FROM imports WHERE status = 'receiving' AND rows > 0"
NEWEST: LiteralString = (
    "SELECT status, applied_users, added FROM shown_imports WHERE segment = {} ORDER BY number DESC LIMIT 1"
)
KILLED: Final = ("BACKEND", "SERVER", "WORKER")
EVENTS: LiteralString = """
    SELECT count(*), count(DISTINCT e.user_id)
    FROM membership_events e JOIN segments s ON s.id = e.segment_id
    WHERE s.slug = ANY ({})
"""
# As if the killed processes had been silent for a minute.
SILENT_WORKERS: LiteralString = """
    UPDATE procrastinate_workers SET last_heartbeat = last_heartbeat - interval '1 minute' WHERE id = ANY (%s)
"""
SILENT_SENDERS: Final[tuple[LiteralString, ...]] = (
    "UPDATE imports SET heard_at = heard_at - interval '1 minute' WHERE status = 'receiving'",
    "SELECT fail_silent_imports('1 minute')",
)
LEFT: LiteralString = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^import_.*[0-9]$'"


class Node:
    """A node with its own PostgreSQL, and what happens to it."""

    def __init__(self, service: Serving, data_dir: Path) -> None:
        self.service = service
        self._data_dir = data_dir
        self._numbers = itertools.count()
        self._key = b"k"  # free again after an import that failed

    def sql(self, *statements: Query) -> list[tuple[Json, ...]]:
        """Runs them; the rows of the last one."""
        with self.connected() as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def connected(self) -> psycopg.Connection:
        url = embedded.url_of_running(self._data_dir)
        assert url is not None
        return psycopg.connect(url, autocommit=True)

    def progress(self, segment: str) -> tuple[Json, ...]:
        """Status, users and added ones of the newest import of a segment."""
        return self.sql(sql.SQL(NEWEST).format(segment))[0]

    def kill(self, module: str) -> None:
        """Kills processes of one kind, and waits for those that take their place."""
        old = {pid for pid, command in self.service.family().items() if module in command}
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: {p for p, command in self.service.family().items() if module in command} - old)

    @contextmanager
    def applying(self, segment: str) -> Iterator[None]:
        """An import; of each range one batch is there and another is under way, until the context ends."""
        last = USERS * (1 + next(self._numbers))
        body = "".join(f"{number}\n" for number in range(last, last - USERS, -1))
        with self.service.client() as client:
            assert client.post("segments", json={"slug": segment}).status_code == 201
            with closing(self.connected()) as holder:
                # The batches have many of their users when they have to wait for these.
                holder.execute("BEGIN")
                for user in (last - USERS // 2, last):
                    holder.execute(ONE_USER, [user])
                answer = client.post(
                    "imports", params={"segment": segment}, content=body, headers={"Content-Type": "text/csv"}
                )
                assert answer.status_code == 202
                eventually(lambda: len(self.sql(IS_BLOCKED)) == 2)
                assert 0 < self.progress(segment)[1] < USERS
                yield

    @contextmanager
    def receiving(self, segment: str) -> Iterator[socket.socket]:
        """A body that is on its way; some of it is stored."""
        address = urlsplit(self.service.url)
        with socket.create_connection((address.hostname, address.port), PATIENCE_S) as client:
            client.sendall(
                b"POST /api/v1/imports?segment=%s HTTP/1.1\r\nHost: segmentd\r\nContent-Type: text/csv\r\n"
                b"Idempotency-Key: %s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n"
                % (segment.encode(), self._key, len(CHUNK), CHUNK)
            )
            eventually(lambda: self.sql(IS_STORED))
            yield client

    def kill_the_backend(self) -> None:
        """A process of PostgreSQL that applies; PostgreSQL then ends all others, and recovers."""
        [(pid,), _] = self.sql(IS_BLOCKED)
        os.kill(pid, signal.SIGKILL)

    def workers(self) -> list[int]:
        """Those of the job queue."""
        return [number for (number,) in self.sql("SELECT id FROM procrastinate_workers")]

    def a_minute_later(self, killed: Sequence[int] = ()) -> None:
        """What the schedule does once processes, among them these workers, have been silent for a minute."""
        eventually(self._is_up)
        self.sql(*SILENT_SENDERS)
        with self.connected() as connection:
            connection.execute(SILENT_WORKERS, [list(killed)])

    def cancel(self, segment: str) -> None:
        """The newest import of a segment, or it has ended already."""
        with self.service.client() as client:
            newest = next(
                each for each in client.get("imports").json()["imports"] if each["segment"] == segment
            )
            eventually(lambda: client.delete(f"imports/{newest['id']}").status_code in {200, 409})
        self._key += b"k"

    def _is_up(self) -> bool:
        try:
            self.sql("SELECT")
        except (psycopg.OperationalError, AssertionError):
            return False
        return True


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with serving("--data-dir", tmp_path / "data", cwd=tmp_path) as service:
        yield Node(service.ready(), tmp_path / "data")
        assert service.stop() == (0, "")


def told(sender: socket.socket) -> bytes:
    """The answer to a body whose rest can no longer be stored; nothing where its process was killed."""
    try:
        sender.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(CHUNK), CHUNK))
        return sender.recv(12)
    except OSError:
        return b""


@pytest.mark.timeout(300)
def test_killed_processes_lose_no_row_of_an_import_and_apply_none_twice(node: Node) -> None:
    with node.service.client() as client:
        client.post("segments", json={"slug": "BROKEN"}).raise_for_status()
    with node.receiving("BROKEN") as sender:
        node.kill("http_worker")
        assert told(sender) == b""
    broken = 1
    node.a_minute_later()
    for name, kill in (("BACKEND", node.kill_the_backend), ("SERVER", lambda: node.kill("bin/postgres"))):
        with node.receiving("BROKEN") as sender:
            with node.applying(name):
                workers = node.workers()
                kill()
            answer = told(sender)
        node.a_minute_later(workers if name == "SERVER" else ())
        if answer == b"HTTP/1.1 202":  # the database was back before the rest came, so all rows are there
            node.cancel("BROKEN")
        else:
            assert answer in (b"", b"HTTP/1.1 503")
            broken += 1
            assert node.progress("BROKEN") == ("failed", 0, 0)
    with node.applying("WORKER"):
        workers = node.workers()
        node.kill("node_worker")
    node.a_minute_later(workers)

    eventually(lambda: {node.progress(name) for name in KILLED} == {("done", USERS, USERS)})
    [found] = node.sql(sql.SQL(EVENTS).format([*KILLED]))
    assert found == (3 * USERS, 3 * USERS)
    assert node.sql("SELECT count(*) FROM imports WHERE detail LIKE 'The process that received%'") == [
        (broken,)
    ]
    eventually(lambda: not node.sql(LEFT))


def private_bytes(pid: int) -> int:
    """The memory of a process that is no file's."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@pytest.mark.parametrize("megabytes", [40, pytest.param(1000, marks=pytest.mark.proof, id="proof")])
def test_a_large_body_takes_little_memory_and_its_sender_may_wait_for_the_end(
    database_url: str, tmp_path: Path, megabytes: int
) -> None:
    highest = 0

    def body() -> Iterator[bytes]:
        nonlocal highest
        yield b"user_id;note\n"
        for number in range(1, 1 + 40 * megabytes):
            yield b"%d;%s\n" % (number, b"x" * 25_000)
            highest = max(highest, private_bytes(worker))

    with serving("--database-url", database_url, cwd=tmp_path) as service:
        [worker] = service.ready().workers()
        with service.client() as client:
            client.post("segments", json={"slug": "A"}).raise_for_status()
            query = {"segment": "A", "dry_run": "true"}
            headers = {"Content-Type": "text/csv", "Prefer": "wait=50"}
            for content in (b"1\n", body()):  # the first time, everything takes memory for good
                before = private_bytes(worker)
                answer = client.post("imports", params=query, content=content, headers=headers)
                assert (answer.status_code, answer.json()["status"]) == (200, "done")
        assert answer.headers["Preference-Applied"] == "wait=50"
        assert answer.json()["added"] == 40 * megabytes
        assert highest - before < MOST_PRIVATE_BYTES
        assert service.stop() == (0, "")
