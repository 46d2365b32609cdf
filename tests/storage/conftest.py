"""The fixtures of the tests that look into the tables."""

import pytest

from tests.support.client import Json
from tests.support.postgres import new_database
from tests.support.story import story


@pytest.fixture(scope="session")
def usual_story(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> list[Json]:
    """The answers that a client gets on the usual database of the tests."""
    with new_database(postgres_url, "template1") as url:
        return story(url, tmp_path_factory.mktemp("usual") / "node")
