"""The console in the application: it can be left out, and it is no part of the API's document."""

from pathlib import Path

from litestar import Router

from segmentd.api.http.app import create_app
from segmentd.config import Settings
from segmentd.console.door import console_router
from segmentd.serve.http_door import open_console
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.support.client import Api
from tests.support.console import ConsoleApp
from tests.support.door import open_door, open_to_all, unread_metrics


async def test_without_the_setting_there_is_no_console(database: Database, tmp_path: Path) -> None:
    authenticator = await open_to_all(database)
    for settings, is_there in ((Settings(console=False), False), (Settings(), True)):
        async with open_console(database, settings, tmp_path, authenticator, b"key") as console:
            assert isinstance(console, Router) == is_there
    use_cases = service(database, Settings(data_dir=str(tmp_path)), metrics=unread_metrics())
    async with Api(await open_door(use_cases, database)) as api:
        assert (await api.get("/console/")).status_code == 404


async def test_the_console_answers_in_html_and_is_not_in_the_document(open_console: ConsoleApp) -> None:
    app = create_app(
        open_console.service, open_console.authenticator, console=console_router(open_console.sessions)
    )
    assert not [path for path in app.openapi_schema.paths or {} if "console" in path]
    browser = open_console.browser()
    for path, status in (("/nothing", 404), ("/users/x", 422), ("/segments?cursor=x", 422), ("/login", 200)):
        answer = await browser.client.get(f"/console{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert answer.headers["cache-control"] == "no-store"
    # A proxy or a person may leave out the slash.
    assert (await browser.get("/console")).texts("h1") == ["Who is in what, and why"]
    assert (await browser.client.post("/console/users/1")).status_code == 405
