"""A node's replica: its follower is in the test, and other processes read it."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from segmentd.replica.follower import Follower
from segmentd.replica.status import ReplicaStatus, status_path
from segmentd.storage.database import Database
from tests.support.rows import Rows, rows_of
from tests.support.workers import Worker


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    """Queries directly to this test's database."""
    with rows_of(database_url) as rows:
        yield rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of this test's node with its replica."""
    (tmp_path / "node").mkdir()
    return tmp_path / "node"


@pytest.fixture
def status(folder: Path) -> Iterator[ReplicaStatus]:
    """The replica status of this test's node."""
    with closing(ReplicaStatus.open(status_path(folder))) as status:
        yield status


@pytest.fixture
def follower(database: Database, folder: Path) -> Iterator[Follower]:
    """The follower of this test's node; the test calls its rounds."""
    with closing(Follower(database, folder)) as follower:
        yield follower


@pytest.fixture
def few_users(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets how many changed users a round writes at once; with 0 it marks them, as in a mass change."""
    monkeypatch.setattr("segmentd.replica.moments.FEW_USERS", request.param)


@pytest.fixture(scope="session")
def http_process() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.end()


@pytest.fixture(scope="session")
def http_processes(http_process: Worker) -> Iterator[Sequence[Worker]]:
    others = [Worker() for _ in range(3)]
    yield [http_process, *others]
    for worker in others:
        worker.end()


@pytest.fixture
async def worker(database_url: str, folder: Path, http_process: Worker) -> AsyncIterator[Worker]:
    """One HTTP process of this test's node."""
    async with http_process.open_node(database_url, folder) as worker:
        yield worker


@pytest.fixture
async def workers(
    database_url: str, folder: Path, http_processes: Sequence[Worker]
) -> AsyncIterator[Sequence[Worker]]:
    """Four of them."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(each.open_node(database_url, folder)) for each in http_processes
        ]
