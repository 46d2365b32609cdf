"""Pages of foreign origins change nothing: a browser lets any page send requests to a service on loopback."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from segmentd.api.http.app import create_app
from segmentd.api.http.edge.addresses import Addresses
from segmentd.api.http.edge.cors import Cors
from segmentd.auth.authenticator import AccessRules, Authenticator
from segmentd.config import Settings
from segmentd.domain.access import Role
from segmentd.domain.addresses import public_address
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.support.client import Api
from tests.support.door import framework, open_to_all
from tests.support.tokens import bearer, new_token

ALLOWED: Final = "https://allowed.example"
PUBLIC: Final = "https://segments.example/crm"
CORS: Final = Cors((ALLOWED,))
ADDRESSES: Final = Addresses(public_address(PUBLIC))
JSON: Final = {"Content-Type": "application/json"}
UNSAFE: Final = (
    ("POST", "segments", b'{"slug": "NEW"}'),
    ("POST", "users", b""),
    ("PATCH", "segments/A", b'{"description": "x"}'),
    ("DELETE", "segments/A", b""),
    ("DELETE", "users/1000", b""),
    ("POST", "users/1000/segments", b'{"add": ["A"]}'),
    ("POST", "reports", b'{"month": "2020-01"}'),
    ("POST", "lookup", b'{"user_ids": [1]}'),
)
FOREIGN: Final[tuple[Mapping[str, str], ...]] = (
    {"Origin": "https://evil.example"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://localhost:9999"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://localhost@evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "http://localhost", "Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "https://segments.example.evil"},
    # The name of the page itself, turned to this machine's address once it was loaded.
    {"Origin": "http://rebound.example", "Host": "rebound.example"},
    {"Origin": "http://evil.example", "X-Forwarded-Host": "evil.example"},
)
OWN: Final[tuple[Mapping[str, str], ...]] = (
    {},
    {"Origin": "http://localhost"},
    {"Origin": "http://127.0.0.1:8080", "Host": "127.0.0.1:8080", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "http://[::1]:8080", "Host": "[::1]:8080"},
    {"Origin": "https://segments.example", "Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": ALLOWED, "Sec-Fetch-Site": "cross-site"},
)


@pytest.fixture
async def page(database: Database, tmp_path: Path) -> AsyncIterator[Api]:
    """A service on loopback, open to everybody, with a segment and a user."""
    use_cases = service(database, Settings(data_dir=str(tmp_path)))
    app = framework(use_cases, await open_to_all(database), cors=CORS, addresses=ADDRESSES)
    async with Api(app) as api:
        await api.create("A")
        await api.add(1000, "A")
        api.headers["Host"] = "localhost"
        yield api


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_a_foreign_page_changes_nothing(page: Api, headers: Mapping[str, str]) -> None:
    for method, path, content in UNSAFE:
        answer = await page.request(method, path, content=content, headers={**JSON, **headers})

        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/foreign-origin"), path
    assert await page.segments(1000) == ["A"]
    assert (await page.get("segments/NEW")).status_code == 404


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_what_a_foreign_page_reads_is_the_browser_s_to_judge(
    page: Api, headers: Mapping[str, str]
) -> None:
    for path in ("segments", "users/1000/segments", "users/1000/history", "/livez"):
        assert (await page.get(path, headers=headers)).status_code == 200


@pytest.mark.parametrize("headers", OWN, ids=str)
async def test_programs_own_pages_and_those_that_cors_allows_may_change(
    page: Api, headers: Mapping[str, str]
) -> None:
    answer = await page.post("users/1001/segments", json={"add": ["A"]}, headers=headers)

    assert answer.status_code == 200


async def test_with_access_control_the_name_that_was_called_is_own(
    database: Database, tmp_path: Path
) -> None:
    secret = await new_token(database, "page", Role.EDITOR)
    authenticator = Authenticator(database, AccessRules(may_be_open=True, bound_seconds=50))
    await authenticator.look()
    app = create_app(service(database, Settings(data_dir=str(tmp_path))), authenticator)
    async with Api(app) as api:
        api.headers.update(bearer(secret))
        own = {"Origin": "https://Segments.example", "Host": "segments.example"}
        assert (await api.post("segments", json={"slug": "A"}, headers=own)).status_code == 201
        foreign = {"Origin": "https://evil.example", "Host": "segments.example"}
        assert (await api.post("segments", json={"slug": "B"}, headers=foreign)).status_code == 403


async def test_a_star_lets_every_page_change(database: Database, tmp_path: Path) -> None:
    app = create_app(
        service(database, Settings(data_dir=str(tmp_path))), await open_to_all(database), cors=Cors("*")
    )
    async with Api(app) as api:
        answer = await api.post("segments", json={"slug": "A"}, headers={"Origin": "https://any.example"})

    assert answer.status_code == 201
