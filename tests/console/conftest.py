"""One service with its console for each test."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from segmentd.auth.authenticator import AccessRules
from segmentd.auth.rate_limit import RateLimit
from segmentd.config import Settings
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.support.console import ConsoleApp
from tests.support.door import OPEN, unread_metrics

CLOSED = AccessRules(may_be_open=False, bound_seconds=3600)


@pytest.fixture
def logins(tmp_path: Path) -> Iterator[RateLimit]:
    """So many attempts that no test notices."""
    with closing(RateLimit.open(tmp_path / "logins", 1000, b"key")) as logins:
        yield logins


async def _console(database: Database, folder: Path, rules: AccessRules, logins: RateLimit) -> ConsoleApp:
    use_cases = service(database, Settings(data_dir=str(folder)), metrics=unread_metrics())
    app = ConsoleApp(use_cases, database, rules, logins)
    await app.authenticator.look()
    return app


@pytest.fixture
async def console(database: Database, tmp_path: Path, logins: RateLimit) -> ConsoleApp:
    """With access control: somebody has to log in."""
    return await _console(database, tmp_path, CLOSED, logins)


@pytest.fixture
async def open_console(database: Database, tmp_path: Path, logins: RateLimit) -> ConsoleApp:
    """Without access control: everybody may do everything."""
    return await _console(database, tmp_path, OPEN, logins)
