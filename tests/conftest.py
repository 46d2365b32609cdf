"""The fixtures that all tests may use."""

import gc
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from segmentd.config import Settings
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.support.client import Api
from tests.support.clock import Clock
from tests.support.door import open_door, unread_metrics
from tests.support.postgres import (
    first_start,
    kept_connections,
    migrated_template,
    new_database,
    quick_folder,
    quick_server,
    shared_by_workers,
)

pytest_plugins = ["tests.support.nodes"]

# A shell starts background jobs with Ctrl-C ignored, and all processes of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# By default structlog writes the variables of each frame: of a whole application, that takes minutes.
_RENDERER = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure([*structlog.get_config()["processors"][:-1], _RENDERER])


def pytest_xdist_auto_num_workers() -> int:
    """Two for each processor: one works while the test of another waits for processes and time limits."""
    return 2 * (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


# What is imported and collected stays until the end: looking through it for garbage, again and again, takes a
# tenth of all processor time.
gc.disable()


def pytest_collection_finish() -> None:
    """From now on there is garbage, but not among what is there already."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long tests first: at the end, the other processes would have nothing left to do meanwhile."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


# An example may take as long as it takes: tests assert no times.
settings.register_profile(
    "patient",
    settings.get_profile(settings.get_current_profile_name()),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all workers of this run, and for no other run."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def initialised_dir(shared_dir: Path) -> Iterator[Path]:
    """The data directory of an embedded server after its first start."""
    with first_start(shared_dir) as folder:
        yield folder


@pytest.fixture
def used_dir(shared_dir: Path, initialised_dir: Path) -> Iterator[Path]:
    """A copy of it for only this test."""
    with quick_folder(shared_dir) as folder:
        yield Path(shutil.copytree(initialised_dir, folder / "used"))


@pytest.fixture(scope="session")
def postgres_url(shared_dir: Path) -> Iterator[str]:
    """The server for test databases: SEGMENTD_TEST_DATABASE_URL, or else one embedded server for the run."""
    if given := os.environ.get("SEGMENTD_TEST_DATABASE_URL"):
        with kept_connections():
            yield given
        return
    server = shared_by_workers(shared_dir / "server", partial(quick_server, shared_dir))
    with server as url, kept_connections():
        yield url


@pytest.fixture(scope="session")
def template_database(postgres_url: str, shared_dir: Path) -> Iterator[str]:
    """The name of the migrated database that each test's own is cloned from."""
    with shared_by_workers(shared_dir / "template", partial(migrated_template, postgres_url)) as name:
        yield name


@pytest.fixture
def database_url(postgres_url: str, template_database: str) -> Iterator[str]:
    """A database for only this test, with the schema."""
    with new_database(postgres_url, template_database) as url:
        yield url


@pytest.fixture
def empty_database_url(postgres_url: str) -> Iterator[str]:
    """An empty database for only this test."""
    with new_database(postgres_url, "template1") as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The service's own access to this test's database."""
    async with Database(database_url) as database:
        yield database


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> AsyncIterator[Api]:
    """The whole service, called as a client does."""
    use_cases = service(database, Settings(data_dir=str(tmp_path)), metrics=unread_metrics())
    async with Api(await open_door(use_cases, database)) as api:
        yield api


@pytest.fixture
def clock(database_url: str) -> Iterator[Clock]:
    """Time that the test moves; it passes at its usual pace until then."""
    clock = Clock(database_url)
    yield clock
    clock.close()
