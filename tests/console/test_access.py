"""Logging in and out: who gets in, for how long, and what forms prove."""

import re
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import msgspec
from litestar.routes import HTTPRoute

from segmentd.api.http.app import create_app
from segmentd.api.http.edge.guard import operation_of
from segmentd.api.roles import ROLES
from segmentd.auth.authenticator import Authenticator
from segmentd.auth.jwt import JwtRules, JwtVerifier
from segmentd.auth.rate_limit import RateLimit
from segmentd.console.door import console_router
from segmentd.console.sessions import Sessions
from segmentd.domain.access import Role
from segmentd.storage import console_sessions
from segmentd.storage.database import Database
from tests.console.conftest import CLOSED
from tests.support.clock import Clock
from tests.support.console import ConsoleApp, Page
from tests.support.issuer import issuer
from tests.support.tokens import new_token, revoke

SESSION = "segmentd_session"


async def test_who_has_not_logged_in_comes_to_the_form_and_from_there_to_the_page(
    console: ConsoleApp,
) -> None:
    token = await new_token(console.database, "support")
    await console.authenticator.look()
    browser = console.browser()

    form = await browser.get("/users/5?days=7")
    assert (form.status, form.texts("h1")) == (200, ["Log in"])
    [following] = form.all("input", name="next")
    [field] = form.all("input", name="token")
    assert following.attributes["value"] == "/users/5?days=7"
    assert field.attributes["type"] == "password"

    page = await browser.log_in(token, next=following.attributes["value"])
    assert str(page.answer.url).endswith("/console/users/5?days=7")
    assert page.texts("h1") == ["User 5"]
    # Who is logged in is not asked again.
    assert (await browser.get("/login?next=/segments")).texts("h1") == ["Segments"]


async def test_the_cookie_is_for_the_console_alone_and_shows_no_token(console: ConsoleApp) -> None:
    token = await new_token(console.database, "support")
    await console.authenticator.look()
    browser = console.browser(X_Forwarded_Proto="https", X_Forwarded_Prefix="/tools")
    page = await browser.get("/login")
    prefixed = [link.attributes["href"] for link in page.all("a")]
    assert prefixed
    assert all(href.startswith(("/tools/console", "#")) for href in prefixed)
    form_token = page.all("input", name="form_token")[0].attributes["value"]
    browser.client.follow_redirects = False
    # The path of the cookie is the one that the browser sees, so this client does not send it by itself.
    visit = page.answer.headers["set-cookie"].partition(";")[0]
    answer = await browser.client.post(
        "/console/login", data={"token": token, "form_token": form_token}, headers={"cookie": visit}
    )

    assert answer.status_code == 303
    assert answer.headers["location"] == "/tools/console/"
    cookie = answer.headers["set-cookie"]
    assert re.match(rf"{SESSION}=[\w-]{{43}};", cookie)
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "secure", "samesite=strict", "path=/tools/console"} <= attributes
    assert token not in cookie


async def test_a_bad_token_is_refused_beside_its_field_and_not_shown_again(console: ConsoleApp) -> None:
    browser = console.browser()
    for token in ("segmentd_wrong", "токен", "a.b.c", "x" * 20_000):
        page = await browser.log_in(token, name="Anna")

        assert page.status == 401
        assert page.all("input", name="token")[0].attributes["aria-invalid"] == "true"
        assert page.texts("strong", class_="error")[0].endswith(".")
        assert page.all("input", name="name")[0].attributes["value"] == "Anna"
        assert token not in page.answer.text
    assert SESSION not in browser.client.cookies


async def test_a_session_ends_with_the_token_on_every_node(
    console: ConsoleApp, clock: Clock, logins: RateLimit
) -> None:
    revoked = await console.logged_in(Role.READER, "revoked")
    expiring = await new_token(console.database, "expiring", expires_at=clock.now() + timedelta(minutes=5))
    await console.authenticator.look()
    expired = console.browser()
    await expired.log_in(expiring)
    assert (await expired.get("/segments")).texts("h1") == ["Segments"]
    # Another node, or this one after a restart, knows nothing but the database.
    other = Authenticator(console.database, CLOSED)
    await other.look()
    secret = revoked.client.cookies[SESSION]
    found = await Sessions(console.database, other, logins).find(secret)
    assert found is not None
    assert found.principal == ("revoked", Role.READER)

    await revoke(console.database, "revoked")
    clock.advance(seconds=360)
    await console.authenticator.look()

    for browser in (revoked, expired):
        page = await browser.get("/segments")
        assert page.texts("h1") == ["Log in"]
    assert await _stored(console.database) == 0


async def test_what_is_stored_opens_nothing_and_logging_out_removes_it(console: ConsoleApp) -> None:
    browser = await console.logged_in(Role.READER, name="Anna Ivanova")
    secret = browser.client.cookies[SESSION]
    [row] = await console.database.all(_Row, "SELECT s::text AS content FROM console_sessions s")
    for told in (secret, "Anna Ivanova"):
        assert told not in row.content
        assert told.encode().hex() not in row.content
    page = await browser.get("/")
    form_token = page.all("input", name="form_token")[0].attributes["value"]

    # Nothing that another page of the web sends can do it.
    assert (await browser.send("/logout", form_token="")).status == 403
    assert (await browser.get("/segments")).texts("h1") == ["Segments"]

    assert (await browser.send("/logout", form_token=form_token)).texts("h1") == ["Log in"]
    browser.client.cookies.set(SESSION, secret, path="/console")
    assert (await browser.get("/segments")).texts("h1") == ["Log in"]


async def test_a_caller_has_few_sessions_and_old_ones_are_removed(console: ConsoleApp, clock: Clock) -> None:
    token = await new_token(console.database, "shared")
    other = await new_token(console.database, "other")
    await console.authenticator.look()
    await console.sessions.begin(other, None, "::1")
    secrets = [
        await console.sessions.begin(token, None, "::1") for _ in range(console_sessions.MOST_OF_A_CALLER + 2)
    ]

    assert await _stored(console.database) == console_sessions.MOST_OF_A_CALLER + 1
    assert await console.sessions.find(secrets[1]) is None
    assert await console.sessions.find(secrets[2]) is not None

    clock.advance(days=8)
    assert await console.sessions.find(secrets[-1]) is None
    await console_sessions.forget(console.database)
    assert await _stored(console.database) == 0


async def test_attempts_to_log_in_are_limited_by_address(console: ConsoleApp, tmp_path: Path) -> None:
    with closing(RateLimit.open(tmp_path / "few", 1 / 3600, b"key")) as few:
        console.sessions._logins = few  # noqa: SLF001
        first = await console.browser(X_Forwarded_For="198.51.100.1").log_in("segmentd_wrong")
        second = await console.browser(X_Forwarded_For="198.51.100.1").log_in("segmentd_wrong")
        elsewhere = await console.browser(X_Forwarded_For="203.0.113.5, 198.51.100.2").log_in(
            "segmentd_wrong"
        )

    assert (first.status, second.status, elsewhere.status) == (401, 429, 401)
    assert second.texts("strong", class_="error") == [
        "Too many attempts to log in from this address; wait a moment."
    ]


async def test_a_jwt_logs_in_and_history_names_its_subject(console: ConsoleApp) -> None:
    hs256 = issuer("HS256")
    verifier = JwtVerifier.of(JwtRules(key=hs256.key, leeway_seconds=0, role_claim="role"))
    console.authenticator._rules = CLOSED._replace(jwt=verifier)  # noqa: SLF001
    claims = {"sub": "anna", "role": "editor", "exp": time.time() + 600}
    browser = console.browser()

    page = await browser.log_in(hs256.token(claims))
    assert "anna anna, editor" in page.text
    late = await console.browser().log_in(hs256.token({**claims, "exp": time.time() - 1}))
    assert late.texts("strong", class_="error") == ["The JWT has expired."]


async def test_a_link_on_a_foreign_page_leads_who_is_logged_in_to_the_page(console: ConsoleApp) -> None:
    browser = await console.logged_in(Role.READER)
    stranger = console.browser()

    step = await stranger.get("/users/5", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
    [refresh] = step.all("meta", http_equiv="refresh")
    address = refresh.attributes["content"].removeprefix("0;url=")
    # No cookie is set that would take the place of the session's.
    assert not stranger.client.cookies

    assert (await browser.get(address)).texts("h1") == ["User 5"]
    assert (await stranger.get(address)).texts("h1") == ["Log in"]


async def test_after_the_log_in_nobody_is_led_elsewhere(console: ConsoleApp) -> None:
    token = await new_token(console.database, "support")
    await console.authenticator.look()
    for following in (
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "/a\r\nX: y",
        "javascript:x",
    ):
        page = await console.browser().log_in(token, next=following)

        assert page.answer.url.host == "segmentd.test"
        assert page.answer.url.path.startswith("/console")


async def test_a_program_logs_in_with_the_token_alone_and_a_page_does_not(console: ConsoleApp) -> None:
    token = await new_token(console.database, "script", Role.READER)
    await console.authenticator.look()
    program, page = console.browser(), console.browser(Sec_Fetch_Site="same-origin")

    logged_in = Page.of(await program.client.post("/console/login", data={"token": token}))
    refused = await page.client.post("/console/login", data={"token": token})
    forged = await program.client.post("/console/login", data={"token": token, "form_token": "AAAA"})

    assert logged_in.status == 200
    assert (await program.get("/segments")).texts("h1") == ["Segments"]
    assert (refused.status_code, forged.status_code) == (403, 403)
    assert (await page.get("/segments")).texts("h1") == ["Log in"]


async def test_while_the_database_is_away_the_page_says_so_and_the_session_goes_on_afterwards(
    console: ConsoleApp,
) -> None:
    browser = await console.logged_in(Role.READER)
    secret = browser.client.cookies[SESSION]
    async with Database(console.database.url) as other:
        sessions, console.sessions._database = console.sessions._database, other  # noqa: SLF001
        await other._pool.close()  # noqa: SLF001
        away = await browser.get("/segments?q=A")
        console.sessions._database = sessions  # noqa: SLF001

    assert (away.status, away.texts("h1")) == (503, ["Not available at the moment"])
    assert away.answer.headers["retry-after"] == "1"
    [again] = [link for link in away.all("a") if link.text == "Try again"]
    assert again.attributes["href"] == "/console/segments?q=A"
    assert browser.client.cookies[SESSION] == secret
    assert (await browser.get("/segments")).texts("h1") == ["Segments"]


# Forms


async def test_a_form_needs_the_token_of_its_own_session_and_the_type_and_size_of_a_form(
    console: ConsoleApp,
) -> None:
    browser = await console.logged_in(Role.EDITOR, "one")
    other = await console.logged_in(Role.EDITOR, "two")
    page = await other.get("/segments")
    foreign = page.all("input", name="form_token")[0].attributes["value"]

    for form_token in ("", "AAAA", "ü", "A" * 64, foreign):
        refused = await browser.send("/segments", form_token=form_token, slug="FORGED")
        assert refused.status == 403
    assert "no segments yet" in (await browser.get("/segments")).text

    for content, kind, status in (
        (b"{}", "application/json", 415),
        (b"a=1&a=2", "application/x-www-form-urlencoded", 422),
        (b"a=%ff", "application/x-www-form-urlencoded", 422),
        (b"&".join(b"f%d=1" % number for number in range(100)), "application/x-www-form-urlencoded", 422),
        (b"a=" + b"x" * 2**20, "application/x-www-form-urlencoded", 413),
    ):
        answer = await browser.client.post(
            "/console/segments", content=content, headers={"Content-Type": kind}
        )
        assert answer.status_code == status
        assert answer.headers["content-type"] == "text/html; charset=utf-8"


async def test_without_access_control_nobody_logs_in_and_forms_still_need_their_token(
    open_console: ConsoleApp,
) -> None:
    browser = open_console.browser()
    page = await browser.get("/segments")
    assert "no log-in needed" in page.text
    assert page.all("form", action="/console/logout") == []
    form_token = page.all("input", name="form_token")[0].attributes["value"]

    assert (await browser.send("/segments", form_token="AAAA", slug="A")).status == 403
    made = await browser.send("/segments", form_token=form_token, slug="A")
    assert made.texts("p", class_="notice box") == ["The segment was created."]
    # A page under another name, which its owner points to this service, may not (DNS rebinding).
    rebound = await browser.client.post(
        "/console/segments",
        data={"form_token": form_token, "slug": "B"},
        headers={"Host": "evil.example", "Origin": "http://evil.example"},
    )
    assert rebound.status_code == 403


# Roles


async def test_every_page_is_in_the_table_of_roles(console: ConsoleApp) -> None:
    app = create_app(console.service, console.authenticator, console=console_router(console.sessions))
    pages = {
        (method, route.path): operation_of(handler)
        for route in app.routes
        if isinstance(route, HTTPRoute) and route.path.startswith("/console")
        for handler in route.route_handlers
        for method in handler.http_methods - {"OPTIONS"}
    }

    for (method, path), operation in pages.items():
        if operation == "console":
            assert path.split("/")[2] in {"login", "logout", "language", "static", "{path:path}"}
        else:
            assert ROLES[operation] is not None
            assert method == "GET" or ROLES[operation] is not Role.READER
    assert len(pages) > 10


async def test_a_reader_sees_no_forms_of_changes_and_cannot_send_them(console: ConsoleApp) -> None:
    reader = await console.logged_in(Role.READER)
    for path in ("/segments", "/users/5"):
        page = await reader.get(path)
        assert {form.attributes.get("action") for form in page.all("form", method="post")} == {
            "/console/logout",
            "/console/language",
        }
        form_token = page.all("input", name="form_token")[0].attributes["value"]

    for path in ("/segments", "/users/5/segments"):
        refused = await reader.send(path, form_token=form_token, slug="A", operation="add")
        assert (refused.status, refused.texts("h1")) == (403, ["You may not do that"])
        assert "This needs the role editor." in refused.text


class _Row(msgspec.Struct, frozen=True):
    content: str


class _Count(msgspec.Struct, frozen=True):
    number: int


async def _stored(database: Database) -> int:
    [found] = await database.all(_Count, "SELECT count(*) AS number FROM console_sessions")
    return found.number
