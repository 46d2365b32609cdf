"""A report of any size is made in little memory; the worker is a process of its own, as in operation."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, LiteralString

import psycopg
import pytest

from tests.support.clock import Clock
from tests.support.office import Office, until, worker_process

MIB: Final = 2**20

PAST: LiteralString = """
    SELECT ensure_event_partition(date_trunc('month', clock_instant()) - month * interval '1 month')
    FROM generate_series(1, 3) AS month;

    INSERT INTO users (id, registered_at, last_at)
    SELECT id, at, at FROM generate_series(1, %(users)s) AS id,
    LATERAL (SELECT clock_instant() - interval '60 days' + id * interval '1 microsecond' AS at) t;
    INSERT INTO registrations (user_id, registered_at) SELECT id, registered_at FROM users;

    INSERT INTO segments (slug, salt, created_at)
    SELECT 'AVITO_SEGMENT_' || number, number, clock_instant() - interval '50 days'
    FROM generate_series(1, 20) AS number;
    INSERT INTO rollouts (segment_id, percent, started_at)
    SELECT id, id, created_at FROM segments ORDER BY id LIMIT 10;

    INSERT INTO membership_events (user_id, segment_id, at, operation, effective, cause, actor)
    SELECT 1 + number %% %(users)s, 11 + number %% 10,
           clock_instant() - (1 + number %% 40) * interval '1 day',
           (CASE WHEN number %% 2 = 0 THEN 'add' ELSE 'remove' END)::event_operation,
           true, 'request', 'anonymous'
    FROM generate_series(1, %(events)s) AS number;
    ANALYZE;
"""


def family(pid: int) -> Iterator[int]:
    """The process and its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in Path(task, "children").read_text("utf-8").split():
            yield from family(int(child))


def memory(pid: int, figure: str) -> int:
    """The bytes that a process and its descendants hold: VmRSS now, VmHWM at most."""
    statuses = (Path(f"/proc/{each}/status").read_text("utf-8") for each in family(pid))
    found = (re.search(rf"^{figure}:\s+(\d+) kB$", status, re.MULTILINE) for status in statuses)
    return sum(int(match[1]) * 1024 for match in found if match)


@pytest.mark.proof
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
async def test_five_million_events_and_ten_rollouts_of_a_million_users_are_reported_in_little_memory(
    office: Office, database_url: str, tmp_path: Path, clock: Clock
) -> None:
    clock.advance(days=90)
    with psycopg.connect(database_url, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute(PAST, {"users": 1_000_000, "events": 5_000_000})
    with worker_process(database_url, tmp_path) as pid:
        first = await office.order(**{"from": "2001-01-01T00:00:00Z", "to": "2002-01-01T00:00:00Z"})
        await until(lambda: is_done(office, first))
        idle = memory(pid, "VmRSS")
        begun = time.monotonic()
        report = await office.order()
        await until(lambda: is_done(office, report), seconds=600)
        took = time.monotonic() - begun
        most = memory(pid, "VmHWM")

    rows = (await office.see(report))["rows"]
    print(f"{rows} rows in {took:.1f} s, {(most - idle) / MIB:.0f} MiB above {idle / MIB:.0f} MiB")  # noqa: T201
    # Each of the percentages from 1 to 10 has its share of the users.
    assert abs(rows - 5_000_000 - 550_000) < 5_000
    assert most - idle < 200 * MIB


async def is_done(office: Office, report: dict[str, str]) -> bool:
    return bool((await office.see(report))["status"] == "done")
