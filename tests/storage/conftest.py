"""The fixtures of the tests that look into the tables."""

from collections.abc import Iterator

import pytest

from tests.client import Json
from tests.postgres import new_database
from tests.storage.rows import Rows, rows_of
from tests.storage.story import story


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    """Questions straight to this test's database."""
    with rows_of(database_url) as rows:
        yield rows


@pytest.fixture(scope="session")
def usual_story(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> list[Json]:
    """What a client is told on a database as the tests usually have it."""
    with new_database(postgres_url, "template1") as url:
        return story(url, tmp_path_factory.mktemp("usual") / "node")
