"""A real service for the tests of the Python client; each of them uses slugs and ids of its own.

Percentages of one test cover the users of others, so a test looks at its own segments alone.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from psycopg import Connection, connect

from segmentd_client import Client
from tests.support.postgres import new_database, shared_by_workers
from tests.support.processes import serving


@contextmanager
def _running(postgres_url: str, template: str, folder: Path) -> Iterator[str]:
    folder.mkdir()
    database = new_database(postgres_url, template)
    with database as url, serving("--database-url", url, cwd=folder) as service:
        yield f"{service.ready().url} {url}"


@pytest.fixture(scope="session")
def _service(postgres_url: str, template_database: str, shared_dir: Path) -> Iterator[str]:
    running = partial(_running, postgres_url, template_database, shared_dir / "service of clients")
    with shared_by_workers(shared_dir / "service", running) as urls:
        yield urls


@pytest.fixture(scope="session")
def service_url(_service: str) -> str:
    """The address of a service that all workers of this run share."""
    return _service.split(maxsplit=1)[0]


@pytest.fixture
def holder(_service: str) -> Iterator[Connection]:
    """A transaction in the database of that service, to hold locks with."""
    with closing(connect(_service.split()[1])) as connection:
        yield connection


@pytest.fixture
def client(service_url: str) -> Iterator[Client]:
    """The synchronous client of that service."""
    with Client(service_url) as client:
        yield client
