"""The table of roles holds at every address."""

import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import psycopg
import pytest
from litestar import Litestar, Router, get
from litestar.routes import HTTPRoute
from psycopg import sql

from segmentd.api.http.app import create_app
from segmentd.api.http.edge.guard import operation_of
from segmentd.api.http.hot.changes import HotChanges
from segmentd.api.http.resources.replica import replica_router
from segmentd.api.roles import ROLES
from segmentd.auth.authenticator import AccessRules, Authenticator
from segmentd.auth.told_tokens import TokenTeller
from segmentd.config import Settings
from segmentd.domain.access import Role
from segmentd.observability.metrics import Metrics
from segmentd.replica.follower import Follower
from segmentd.replica.replica import Replica
from segmentd.replica.source import Source
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.support.client import Api, Json
from tests.support.door import behind_middleware
from tests.support.office import ALL_TIMES, Office
from tests.support.tokens import bearer, new_token

CLOSED: Final = AccessRules(may_be_open=False, bound_seconds=50)
NOT_SENT: Final = 'Bearer realm="segmentd"'
NO_GOOD: Final = 'Bearer realm="segmentd", error="invalid_token"'

TABLES: Final = (
    *("users", "registrations", "segments", "rollouts", "memberships", "membership_events", "catalog"),
    *("segment_events",),
    *("console_sessions", "tokens", "access", "audit_log", "erasures", "reports", "signing_keys"),
    *("imports", "import_ranges", "import_errors"),
)

# The values for the parameters of paths.
FILLED: Final = {
    "{slug:str}": "TAKEN",
    "{user_id:str}": "1000",
    "{report_id:str}": "11111111-1111-4111-8111-111111111111",
    "{import_id:str}": "11111111-1111-4111-8111-111111111111",
    "{name:str}": "start.js",
    "{key:str}": "TAKEN",
}


class Caller(NamedTuple):
    """Somebody with a token or without; `role` is the one that it proves."""

    name: str
    role: Role | None

    def may(self, needed: Role | None) -> bool:
        return needed is None or (self.role is not None and self.role.covers(needed))


CALLERS: Final = [
    Caller("no token", None),
    Caller("a bad token", None),
    Caller("a reader", Role.READER),
    Caller("an editor", Role.EDITOR),
    Caller("an admin", Role.ADMIN),
]


class Door(NamedTuple):
    """A service with access control, and what each caller sends."""

    app: Litestar
    api: Api
    headers: Mapping[str, dict[str, str]]


@pytest.fixture
async def door(database: Database, tmp_path: Path) -> AsyncIterator[Door]:
    use_cases = service(database, Settings(data_dir=str(tmp_path)))
    authenticator = Authenticator(database, CLOSED)
    headers = {"no token": {}, "a bad token": bearer("segmentd_bad")} | {
        caller.name: bearer(await new_token(database, caller.name, caller.role))
        for caller in CALLERS
        if caller.role is not None
    }
    await authenticator.look()
    metrics = Metrics()
    follower = Follower(database, tmp_path / "node")
    await follower.round()
    follower.close()
    with closing(Replica(tmp_path / "node", 50)) as replica:
        others = replica_router(Source(replica), TokenTeller(authenticator))
        app = create_app(use_cases, authenticator, metrics, replica=others)
        asked = behind_middleware(HotChanges(app, use_cases, authenticator), metrics)
        async with Api(asked) as api:
            api.headers.update(headers["an admin"])
            await api.create("TAKEN", percent=10)
            await api.add(1000, "TAKEN")
            del api.headers["Authorization"]
            yield Door(app, api, headers)


@pytest.fixture
def stored(database_url: str) -> Iterator[Callable[[], list[tuple[str, str]]]]:
    """All that is stored now, table by table."""
    rows = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {}, row::text FROM {} AS row").format(table, sql.Identifier(table))
        for table in TABLES
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield lambda: sorted(connection.execute(rows).fetchall())


def operations(app: Litestar) -> Iterator[tuple[str, str, str]]:
    """Every operation that the application answers: its name, method and a path of it."""
    for route in app.routes:
        assert isinstance(route, HTTPRoute)
        path = route.path
        for parameter, value in FILLED.items():
            path = path.replace(parameter, value)
        assert "{" not in path
        for handler in route.route_handlers:
            for method in handler.http_methods:
                yield operation_of(handler), method, path


# The table


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.name)
async def test_every_operation_is_refused_exactly_to_those_whom_the_table_leaves_out(
    door: Door, stored: Callable[[], list[tuple[str, str]]], caller: Caller
) -> None:
    for operation, method, path in operations(door.app):
        needed, before = ROLES[operation], stored()
        # A body that is no good in any way is not looked at before access was granted.
        body = {"content": b"{", "headers": {**door.headers[caller.name], "Content-Type": "text/plain"}}

        answer = await door.api.request(method, path, **body)

        answered = (operation, method, answer.status_code, answer.text)
        assert answer.status_code < 500, answered
        if caller.may(needed):
            assert answer.status_code not in {401, 403}, answered
            assert "WWW-Authenticate" not in answer.headers
            continue
        if path.startswith("/ofrep/"):
            status = 401 if caller.role is None else 403
            assert (answer.status_code, answer.json()["errorCode"]) == (status, "GENERAL"), answered
            assert stored() == before, answered
            continue
        assert answer.headers["Content-Type"] == "application/problem+json"
        problem = answer.json()
        if caller.role is None:
            assert (answer.status_code, problem["type"]) == (401, "/problems/unauthenticated"), answered
            expected = NOT_SENT if caller.name == "no token" else NO_GOOD
            assert answer.headers["WWW-Authenticate"] == expected
            assert "role" not in problem
        else:
            assert (answer.status_code, problem["type"]) == (403, "/problems/forbidden"), answered
            assert problem["role"] == needed
            assert problem["detail"] == f"This needs the role {needed}."
        assert stored() == before, answered


# What only the console has; tests/console looks at it.
OF_CONSOLE = {"console", "list_reports", "list_tokens", "create_token", "revoke_token"}


async def test_the_table_names_every_operation_and_no_other(door: Door) -> None:
    served = {operation for operation, _, _ in operations(door.app)}

    assert served | {"erase_user"} | OF_CONSOLE == set(ROLES)


async def test_the_page_about_access_is_the_table(door: Door) -> None:
    served = {
        (method, route.path_format, ROLES[operation_of(handler)] or "–")
        for route in door.app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in handler.http_methods - {"OPTIONS"}
    } | {("DELETE", "/api/v1/users/{user_id}?erase=true", ROLES["erase_user"])}
    page = Path(__file__).parents[3] / "docs/access.md"
    row = re.compile(r"\| `([A-Z]+) (\S+)` \| `?([a-z–]+)`? \|")
    rows = [match.groups() for line in page.read_text("utf-8").splitlines() if (match := row.fullmatch(line))]

    assert {*rows} == served
    assert len(rows) == len(served)


async def test_each_role_may_do_what_the_ones_before_it_may() -> None:
    assert [*Role] == ["reader", "editor", "admin"]
    for index, role in enumerate(Role):
        assert [other for other in Role if role.covers(other)] == [*Role][: index + 1]


@pytest.mark.parametrize("in_document", [True, False])
async def test_a_handler_that_the_table_does_not_name_is_refused_when_the_application_is_made(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_document: bool
) -> None:
    @get("/forgotten", include_in_schema=in_document)
    async def forgotten() -> None:
        """A handler without a row in the table of roles."""

    monkeypatch.setattr("segmentd.api.http.app.audit_router", Router("/", route_handlers=[forgotten]))
    use_cases = service(database, Settings(data_dir=str(tmp_path)))

    with pytest.raises(LookupError, match="forgotten"):
        create_app(use_cases, Authenticator(database, CLOSED))


# Erasure and links


async def test_to_erase_a_user_needs_admin_and_to_delete_one_an_editor(
    door: Door, stored: Callable[[], list[tuple[str, str]]]
) -> None:
    before = stored()
    for path in ("users/1000?erase=true", "users/1000?erase=%74rue", "users/999?erase=true"):
        for caller, status in {"no token": 401, "a reader": 403, "an editor": 403}.items():
            refused = await door.api.delete(path, headers=door.headers[caller])
            assert refused.status_code == status
    assert refused.json()["role"] == "admin"
    assert stored() == before

    assert (await door.api.delete("users/1000", headers=door.headers["an editor"])).status_code == 204
    admin = door.headers["an admin"]
    assert (await door.api.delete("users/1000?erase=true", headers=admin)).status_code == 204


async def test_the_link_of_a_report_needs_no_token_and_its_state_does(
    door: Door, database: Database, tmp_path: Path
) -> None:
    door.api.headers.update(door.headers["an editor"])
    report = await Office(door.api, database, tmp_path).make(**ALL_TIMES)
    del door.api.headers["Authorization"]

    assert (await door.api.get(report["url"])).status_code == 200
    assert (await door.api.get(report["url"], headers=bearer("bad"))).status_code == 200
    assert (await door.api.get(f"reports/{report['id']}")).status_code == 401
    # Without its signature it is as if there were none.
    assert (await door.api.get(report["url"].partition("?")[0])).status_code in {404, 422}


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/docs", "/docs/start.js", "/openapi.json"])
async def test_public_addresses_answer_whatever_is_sent_as_a_token(door: Door, path: str) -> None:
    for headers in ({}, bearer("bad"), {"Authorization": "Basic eDp5"}):
        assert (await door.api.get(path, headers=headers)).status_code == 200


async def test_an_unknown_address_and_a_wrong_method_tell_no_more_without_a_token(door: Door) -> None:
    for headers in door.headers.values():
        assert (await door.api.get("nothing/here", headers=headers)).status_code == 404
        assert (await door.api.put("segments", headers=headers)).status_code == 405


# The document


async def test_the_document_says_of_each_operation_which_role_it_needs(door: Door) -> None:
    document = (await door.api.get("/openapi.json")).json()

    described = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len(described) > 15
    for operation in described:
        needed = ROLES[operation["operationId"]]
        keys: Json = [{"bearer": []}, *([{"api_key": []}] if "OpenFeature" in operation["tags"] else [])]
        assert operation.get("security", []) == (keys if needed else [])
        role = f"Needs the role `{needed}`." if needed else "Needs no token."
        assert operation["description"].endswith(role)
        if operation["operationId"] != "watch_flags":  # OFREP's refusals are the same everywhere
            assert ({"401", "403", "429"} <= operation["responses"].keys()) == (needed is not None)
    assert "security" not in document  # else it would hold for those that need no token


async def test_the_document_says_how_a_token_is_sent(door: Door) -> None:
    document = (await door.api.get("/openapi.json")).json()

    scheme = document["components"]["securitySchemes"]["bearer"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
