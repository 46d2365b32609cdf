"""A statement that nobody waits for any more ends, over a real connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import psycopg
import pytest
from structlog.testing import capture_logs

from segmentd.api.http.edge.connection import ConnectionLimits, LimitedProtocol
from segmentd.config import Settings
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.support.accepting import accepting
from tests.support.door import open_door
from tests.support.rows import Rows

PATIENCE_S: Final = 30
LIMITS: Final = ConnectionLimits(
    max_header_bytes=2048, receive_seconds=300, send_seconds=300, keep_alive_seconds=300
)
WAITING: Final = (
    "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)

COUNTS: Final = b"GET /api/v1/segments/A/counts HTTP/1.1\r\nHost: a\r\n\r\n"
PREVIEW: Final = (
    b"POST /api/v1/segments/A/preview HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b'Content-Length: 15\r\n\r\n{"percent": 10}'
)


@asynccontextmanager
async def served(database: Database, folder: Path) -> AsyncIterator[tuple[str, int]]:
    """Where the whole service is."""
    door = await open_door(service(database, Settings(data_dir=str(folder))), database)
    async with accepting(door, LimitedProtocol.within(LIMITS, lambda _: None)) as address:
        yield address


async def until_waiting(rows: Rows, number: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(rows(WAITING)) != number:  # noqa: ASYNC110 - PostgreSQL sets no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("request_bytes", [COUNTS, PREVIEW], ids=["counts", "preview"])
async def test_a_count_ends_in_the_database_when_its_client_goes_away(
    database: Database, database_url: str, rows: Rows, tmp_path: Path, request_bytes: bytes
) -> None:
    rows("SELECT create_segment('A', '', NULL, 1)")
    with psycopg.connect(database_url) as other, capture_logs() as logged:
        async with served(database, tmp_path) as address:
            other.execute("LOCK TABLE registrations")  # so that the count does not end by itself
            _, writer = await asyncio.open_connection(*address)
            writer.write(request_bytes)
            await until_waiting(rows, 1)

            writer.close()

            await until_waiting(rows, 0)
    assert [line["status"] for line in logged if line["event"] == "request"] == [499]
    assert not [line for line in logged if line["log_level"] == "error"]
