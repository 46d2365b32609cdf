"""The fixtures of the tests about reports."""

from pathlib import Path

import pytest

from segmentd.storage.database import Database
from tests.support.client import Api
from tests.support.office import Office


@pytest.fixture
def office(api: Api, database: Database, tmp_path: Path) -> Office:
    return Office(api, database, tmp_path)
