"""The fixtures of the tests that look into the tables."""

from collections.abc import Iterator

import pytest

from tests.storage.rows import Rows, rows_of


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    """Questions straight to this test's database."""
    with rows_of(database_url) as rows:
        yield rows
