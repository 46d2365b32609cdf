"""Behind proxies: links, Location, the OpenAPI document and its page begin with what the client called."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any, Final, cast

import httpx
import pytest

from segmentd.api.http.edge.addresses import LOOPBACK, Addresses
from segmentd.config import ConfigurationError, Settings, load
from segmentd.domain.addresses import networks, public_address
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.support.client import Api
from tests.support.door import framework, open_to_all
from tests.support.office import ALL_TIMES

FORWARDED: Final = {
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "segments.example:8443",
    "X-Forwarded-Prefix": "/crm/segments/",
}


NEARBY: Final = Addresses()


@cache
def trusting(trusted: str) -> Addresses:
    """One for each text, so that few applications are made."""
    return Addresses(None, networks(trusted))


@asynccontextmanager
async def called_from(
    database: Database, folder: Path, peer: str, addresses: Addresses | None = None
) -> AsyncIterator[Api]:
    """The API as the client or proxy at an IP address calls it."""
    use_cases = service(database, Settings(data_dir=str(folder)))
    app = framework(use_cases, await open_to_all(database), addresses=addresses or NEARBY)
    async with Api(app) as api:
        api._transport = httpx.ASGITransport(app=cast("Any", app), client=(peer, 40_000))  # noqa: SLF001
        yield api


async def answered(api: Api, headers: Mapping[str, str]) -> dict[str, str]:
    """All that the service says about where it is."""
    user = await api.post("users", json={}, headers=headers)
    report = await api.post("reports", json=ALL_TIMES, headers=headers)
    document = (await api.get("/openapi.json", headers=headers)).json()
    made = report.json()
    return {
        "user": user.headers["Location"].replace(str(user.json()["id"]), "1"),
        "report": report.headers["Location"].replace(made["id"], "1"),
        "link": made["url"].partition(made["id"])[0],
        "server": document["servers"][0]["url"],
    }


async def test_with_no_proxy_the_host_that_was_called_counts(database: Database, tmp_path: Path) -> None:
    async with called_from(database, tmp_path, "203.0.113.9") as api:
        assert await answered(api, {"Host": "node.example:8080"}) == {
            "user": "/api/v1/users/1",
            "report": "/api/v1/reports/1",
            "link": "http://node.example:8080/api/v1/reports/",
            "server": "/",
        }


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        *(("127.0.0.1", LOOPBACK), ("127.9.9.9", LOOPBACK), ("::1", LOOPBACK)),
        *(
            ("10.1.2.3", "192.168.0.0/16, 10.0.0.0/8"),
            ("fd00::7", "fd00::/8"),
            ("::ffff:127.0.0.1", LOOPBACK),
            ("10.0.0.1", "10.0.0.1"),
        ),
    ],
)
async def test_what_a_trusted_proxy_forwards_counts(
    database: Database, tmp_path: Path, peer: str, trusted: str
) -> None:
    async with called_from(database, tmp_path, peer, trusting(trusted)) as api:
        assert await answered(api, FORWARDED) == {
            "user": "/crm/segments/api/v1/users/1",
            "report": "/crm/segments/api/v1/reports/1",
            "link": "https://segments.example:8443/crm/segments/api/v1/reports/",
            "server": "/crm/segments",
        }


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        *(
            ("203.0.113.9", LOOPBACK),
            ("127.0.0.1", "none"),
            ("127.0.0.1", "10.0.0.0/8"),
            ("10.0.0.2", "10.0.0.1"),
        ),
        *(
            ("128.0.0.1", LOOPBACK),
            ("::2", LOOPBACK),
            ("::ffff:128.0.0.1", LOOPBACK),
            ("not an address", LOOPBACK),
        ),
    ],
)
async def test_what_anybody_else_forwards_does_not_count(
    database: Database, tmp_path: Path, peer: str, trusted: str
) -> None:
    async with called_from(database, tmp_path, peer, trusting(trusted)) as api:
        found = await answered(api, {"Host": "node.example", **FORWARDED})

    assert found["user"] == "/api/v1/users/1"
    assert found["link"] == "http://node.example/api/v1/reports/"
    assert found["server"] == "/"


@pytest.mark.parametrize(
    "forwarded",
    [
        {"X-Forwarded-Host": "user@evil"},
        {"X-Forwarded-Host": "evil/path"},
        {"X-Forwarded-Host": "evil:99999"},
        {"X-Forwarded-Host": "["},
        {"X-Forwarded-Proto": "javascript"},
        {"X-Forwarded-Prefix": "//evil.example"},
        {"X-Forwarded-Prefix": "evil.example"},
        {"X-Forwarded-Prefix": "/a/../b"},
        {"X-Forwarded-Prefix": '/a"><script>'},
    ],
)
async def test_what_is_no_address_is_passed_over(
    database: Database, tmp_path: Path, forwarded: dict[str, str]
) -> None:
    async with called_from(database, tmp_path, "127.0.0.1") as api:
        found = await answered(api, {"Host": "node.example", **forwarded})

    assert found["link"] == "http://node.example/api/v1/reports/"
    assert found["user"] == "/api/v1/users/1"


async def test_of_a_forwarded_list_the_last_value_counts(database: Database, tmp_path: Path) -> None:
    forwarded = {"X-Forwarded-Host": "made-up.example, segments.example", "X-Forwarded-Proto": "http, https"}
    async with called_from(database, tmp_path, "127.0.0.1") as api:
        assert (await answered(api, forwarded))["link"] == "https://segments.example/api/v1/reports/"


@pytest.mark.parametrize(
    "url", ["https://segments.example", "https://[fd00::7]:8443", "http://x.example/crm/segments"]
)
async def test_public_url_outweighs_what_a_request_says(database: Database, tmp_path: Path, url: str) -> None:
    async with called_from(database, tmp_path, "127.0.0.1", Addresses(public_address(f"{url}/"))) as api:
        assert await answered(api, FORWARDED) == {
            "user": f"{url}/api/v1/users/1",
            "report": f"{url}/api/v1/reports/1",
            "link": f"{url}/api/v1/reports/",
            "server": url,
        }


@pytest.mark.parametrize(
    ("addresses", "headers", "prefix"),
    [
        (Addresses(), {}, ""),
        (Addresses(), FORWARDED, "/crm/segments"),
        (Addresses(public_address("https://x.example/a&b/c")), {}, "/a&b/c"),
    ],
)
async def test_the_page_of_documentation_finds_its_parts_below_a_path(
    database: Database, tmp_path: Path, addresses: Addresses, headers: dict[str, str], prefix: str
) -> None:
    async with called_from(database, tmp_path, "127.0.0.1", addresses) as api:
        page = unescape((await api.get("/docs", headers=headers)).text)
        urls = re.findall(r'(?:src|href|data-document)="(/[^"]+)"', page)

        assert len(urls) == 4
        for url in urls:
            assert url.startswith(f"{prefix}/")
            assert (await api.get(url.removeprefix(prefix))).status_code == 200, url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("public_url", url)
            for url in ("segments.example", "ftp://x", "https://", "https://x:99999", "//x")
        ),
        *(("public_url", f"https://{rest}") for rest in ("x/?a=b", "x/#a", "[fd00", "[:::]", "a b", "x//y")),
        *(("public_url", f"https://{rest}") for rest in ("x/../y", "me:a-secret@x", "x\n")),
        *(("trusted_proxies", text) for text in ("10.0.0.1/8", "proxy.example", "10.0.0.0/33", "*", "1.2.3")),
    ],
)
def test_an_address_that_is_none_is_refused_at_the_start(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name) as refused:
        load({name: value})

    assert "a-secret" not in str(refused.value)
