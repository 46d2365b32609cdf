"""Tokens and the audit log, which administrators see."""

import pytest

from segmentd.console.pages import tokens
from segmentd.domain.access import Role
from segmentd.domain.pages import Limit
from tests.console.pages.test_segment import form_token, made
from tests.support.console import ConsoleApp


async def test_an_administrator_makes_a_token_that_is_shown_once_and_revokes_it(
    console: ConsoleApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = await console.logged_in(Role.ADMIN, "boss", name="Eve")
    token = form_token(await admin.get("/tokens"))
    for fields, field, status in (
        ({}, "name", 422),
        ({"name": "anonymous"}, "name", 422),
        ({"name": "boss"}, "name", 409),
        ({"name": "x", "role": "king"}, "role", 422),
        ({"name": "x", "days": "3"}, "days", 422),
    ):
        refused = await admin.send("/tokens", form_token=token, **({"role": "reader", "days": "30"} | fields))
        assert (refused.status, len(refused.all("p", id=f"{field}-told"))) == (status, 1), fields

    shown = await admin.send("/tokens", form_token=token, name="<b>shop", role="reader", days="30")
    assert shown.status == 200
    secret = shown.texts("code")[0]
    assert secret not in (await admin.get("/tokens")).answer.text
    await console.authenticator.look()
    shop = console.browser()
    assert (await shop.log_in(secret)).status == 200
    assert (await shop.get("/tokens")).status == 403
    assert (await shop.get("/audit")).status == 403
    assert "/console/tokens" not in (await shop.get("/segments")).answer.text

    revoked = await admin.send("/tokens/revoke", form_token=token, name="<b>shop")
    assert revoked.texts("p", class_="notice box") == ["The token was revoked: every node refuses it."]
    assert revoked.texts("td")[0] == "<b>shop"
    assert revoked.texts("td")[5].startswith("revoked 20")
    await console.authenticator.look()
    assert (await shop.get("/segments")).texts("h1") == ["Log in"]
    assert (await admin.send("/tokens/revoke", form_token=token, name="nobody")).status == 404

    monkeypatch.setattr(tokens, "ROWS", Limit(1))
    [older] = (await admin.get("/tokens")).all("a", rel="next")
    assert (await admin.get(older.attributes["href"])).texts("td")[::6] == ["boss"]

    audit = await admin.get("/audit")
    assert audit.texts("td")[1:4] == ["boss for Eve", "token revoked", "<b>shop"]
    assert audit.texts("td")[7:10] == ["boss for Eve", "token created", "<b>shop"]
    await made(console, "A")
    assert (await admin.get("/audit")).texts("td")[2:4] == ["segment created", "A"]


async def test_the_first_token_is_not_made_by_a_page_that_is_open_to_all(open_console: ConsoleApp) -> None:
    browser = open_console.browser()
    page = await browser.get("/tokens")
    assert "segmentd token create" in page.text
    assert page.all("input", id="name") == []
    token = form_token(page)
    refused = await browser.send("/tokens", form_token=token, name="x", role="admin", days="")
    assert refused.status == 422
    assert (await browser.get("/tokens")).all("td") == []
    assert "Nothing yet" in (await browser.get("/audit")).text
