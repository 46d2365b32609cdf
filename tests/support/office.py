"""Reports as callers see them; the service's own tasks do the background job."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx

from segmentd.config import Settings
from segmentd.domain.reports import ReportId
from segmentd.jobs import Tasks
from segmentd.observability.traces import Tracing
from segmentd.serve.wiring import report_files
from segmentd.storage.database import Database
from tests.support.client import Api, Json
from tests.support.rows import Rows

ALL_TIMES = {"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T00:00:00Z"}


class Office:
    """Orders reports, builds them, and fetches their files."""

    def __init__(self, api: Api, database: Database, data_dir: Path, tracing: Tracing | None = None) -> None:
        self.api = api
        self.database = database
        self.files = report_files(Settings(data_dir=str(data_dir)))
        self.tasks = Tasks(database, self.files, tracing)

    async def order(self, **body: Json) -> Json:
        """Orders a report, by default of all times; it is not built yet."""
        answer = await self.api.post("reports", json=body or ALL_TIMES)
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def build(self, report: Json, *, last_attempt: bool = False) -> None:
        """Does the background job once."""
        await self.tasks.build_report(ReportId(UUID(report["id"])), last_attempt=last_attempt)

    async def see(self, report: Json) -> Json:
        """The report's status."""
        answer = await self.api.get(f"reports/{report['id']}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def make(self, **body: Json) -> Json:
        """A report that is done."""
        report = await self.order(**body)
        await self.build(report)
        return await self.see(report)

    async def file(self, report: Json, **headers: str) -> httpx.Response:
        """The answer of the link; `if_none_match` is the header If-None-Match."""
        return await self.api.get(
            report["url"], headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    async def rows(self, **body: Json) -> list[str]:
        """The lines of a new report, by default of all times."""
        answer = await self.file(await self.make(**body))
        assert answer.status_code == 200, answer.text
        return answer.text.splitlines()


async def until(condition: Callable[[], Awaitable[object]], seconds: float = 30) -> None:
    """Waits until it becomes true."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - changes of a database set no event
            await asyncio.sleep(0.02)


async def waits_for_a_table(rows: Rows) -> bool:
    """Whether a statement waits for the lock of a table in this test's database."""
    return rows.column(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'relation'"
    ) == [1]


@contextmanager
def worker_process(database_url: str, data_dir: Path) -> Iterator[int]:
    """`segmentd worker` in a process group of its own, killed at the end; gives its id."""
    options = ["--database-url", database_url, "--data-dir", str(data_dir)]
    command = [sys.executable, "-m", "segmentd", "worker", *options]
    pid = os.posix_spawn(sys.executable, command, os.environ, setpgroup=0)
    try:
        yield pid
    finally:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def problem(answer: httpx.Response) -> tuple[int, str]:
    """The status and the kind of a refusal."""
    assert answer.headers["Content-Type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")
