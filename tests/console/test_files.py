"""The files that pages load."""

import hashlib
import re
from importlib import resources

import pytest

from segmentd.console.files import FILES, file_link
from tests.support.console import ConsoleApp


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("LICENSE-htmx", "d3d2456f76414f2456104660ebd65aff1c04cd7966b942bdabd63f3cdb316a38"),
        ("htmx.min.js", "71ea67185bfa8c98c39d31717c6fce5d852370fcdfd129db4543774d3145c0de"),
    ],
)
def test_the_files_of_htmx_are_those_of_its_release(name: str, digest: str) -> None:
    content = resources.files("segmentd.console").joinpath("static", name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == digest


async def test_a_page_loads_its_own_files_alone_and_has_no_script_or_style_in_it(console: ConsoleApp) -> None:
    browser = console.browser()
    page = await browser.get("/login")

    policy = page.answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    loaded = [each.attributes["src"] for each in page.all("script")]
    loaded += [each.attributes["href"] for each in page.all("link")]
    assert {re.sub(r".*/static/(.*)\?v=\w+", r"\1", address) for address in loaded} == set(FILES)
    assert all(each.text == "" for each in page.all("script"))
    assert page.all("style") == []
    assert not [
        name
        for each in page.elements
        for name in each.attributes
        if name == "style" or name.startswith(("on", "hx-on"))
    ]
    for address in loaded:
        answer = await browser.client.get(address)
        assert (answer.status_code, answer.headers["x-content-type-options"]) == (200, "nosniff")
        assert answer.headers["cache-control"] == "max-age=86400"
        again = await browser.client.get(address, headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
    for name in ("../__init__.py", "LICENSE-htmx", "%2e%2e%2fdoor.py"):
        assert (await browser.client.get(f"/console/static/{name}")).status_code == 404


def test_a_file_that_changes_has_another_address() -> None:
    addresses = {file_link("/console", name).partition("?v=")[2] for name in FILES}
    assert len(addresses) == len(FILES)
