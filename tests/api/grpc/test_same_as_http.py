"""Every method answers as the HTTP door does: the same requests to two services, one by each door."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from segmentd.api.grpc.server import services
from segmentd.api.problems import HTTP_PROBLEMS, PROBLEMS
from segmentd.api.roles import ROLES
from segmentd.auth.authenticator import AccessRules, Authenticator
from segmentd.config import Settings
from segmentd.domain.access import Actor, Role
from segmentd.domain.identifiers import Salt, Slug
from segmentd.domain.segments import NewSegment
from segmentd.domain.texts import Description
from segmentd.serve.wiring import service
from segmentd.storage import segments
from segmentd.storage.database import Database
from tests.support.client import Api, Json
from tests.support.door import middleware, open_to_all
from tests.support.grpc_door import Answered, Reflected, Refused, grpc_door
from tests.support.postgres import new_database
from tests.support.tokens import new_token

LARGEST: Final = 2**63 - 1
NEVER: Final = "00000000-0000-4000-8000-000000000000"


class Step(NamedTuple):
    """The same request in both forms."""

    method: str
    message: Json
    http: str
    path: str
    body: Json = None


def change(user_id: int, **wanted: Json) -> Step:
    """A change; a term is `ttl_seconds` in both."""
    over_grpc = {**wanted}
    if "add" in wanted:
        over_grpc["add"] = [_addition(each) for each in wanted["add"]]
    path = f"users/{user_id}/segments"
    return Step("Memberships/ChangeUserSegments", {"user_id": user_id, **over_grpc}, "POST", path, wanted)


def _addition(each: Json) -> Json:
    if isinstance(each, str):
        return {"slug": each}
    terms = {"ttl": f"{each['ttl_seconds']}s"} if "ttl_seconds" in each else {"until": each["until"]}
    return {"slug": each["slug"], **terms}


def changes(*each: tuple[int, Json], **rest: Json) -> Step:
    """Changes of many users."""
    body = {"changes": [{"user_id": user_id, **wanted} for user_id, wanted in each], **rest}
    message = {"changes": [change(user_id, **wanted).message for user_id, wanted in each], **rest}
    return Step("Memberships/ChangeManyUsers", message, "POST", "changes", body)


def post(method: str, path: str, **body: Json) -> Step:
    """A message that is the body, too."""
    return Step(method, body, "POST", path, body)


def get(method: str, path: str, **message: Json) -> Step:
    """A read."""
    return Step(method, message, "GET", path)


def patch(slug: str, mask: str, new: Json = None, body: Json = None) -> Step:
    """A change of a segment; the body is the new values, if it is not given."""
    message = {"slug": slug, "segment": new or {}, "update_mask": mask}
    return Step("Segments/UpdateSegment", message, "PATCH", f"segments/{slug}", new if body is None else body)


CREATE: Final = "Segments/CreateSegment"
LIST: Final = "Segments/ListSegments"
MEMBERS: Final = "Segments/ListSegmentUsers"
COUNT: Final = "Segments/CountSegment"
PREVIEW: Final = "Segments/PreviewPercent"
REGISTER: Final = "Users/RegisterUser"
LOOK_UP: Final = "Memberships/LookUp"
DESCRIBE: Final = "Memberships/DescribeUserSegments"
EXPLAIN: Final = "Memberships/ExplainMembership"
HISTORY: Final = "Memberships/ListHistory"
ORDER: Final = "Reports/OrderReport"
EARLY: Final = "2020-01-01T00:00:00Z"
LATE: Final = "2099-01-01T00:00:00Z"
ENDLESS: Final = {"from": LATE, "to": EARLY}

STEPS: Final = [
    post(CREATE, "segments", slug="A", percent=50, salt="22"),
    post(CREATE, "segments", slug="B", description="two", salt="-1"),
    post(CREATE, "segments", slug="C", percent=0, salt="3"),
    post(CREATE, "segments", slug="a"),
    post(CREATE, "segments", slug="bad slug"),
    post(CREATE, "segments", slug="D", percent=101),
    post(CREATE, "segments", slug="D", percent=0.00001),
    post(CREATE, "segments", slug="D", description="\0"),
    get("Segments/GetSegment", "segments/A", slug="A"),
    get("Segments/GetSegment", "segments/X", slug="X"),
    get(LIST, "segments"),
    get(LIST, "segments?limit=2", page_size=2),
    get(LIST, "segments?limit=1001", page_size=1001),
    get(LIST, "segments?cursor=x", page_token="x"),
    patch("A", "percent", {"percent": 60}),
    patch("A", "description", {"description": "x", "percent": 1}, {"description": "x"}),
    patch("C", "percent", body={"percent": None}),
    patch("C", "slug", {"slug": "B"}),
    patch("X", "", body={}),
    post(REGISTER, "users", id=7, name="Ada"),
    post(REGISTER, "users", id=7),
    post(REGISTER, "users", id=-1),
    post(REGISTER, "users", id=LARGEST),
    get("Users/GetUser", "users/7", id=7),
    get("Users/GetUser", "users/8", id=8),
    get("Users/GetUser", "users/0", id=0),
    get("Users/ListUsers", "users?limit=1", page_size=1),
    get("Users/ListUsers", "users?limit=-1", page_size=-1),
    change(1, add=["A", {"slug": "B", "ttl_seconds": 3600}], reason="ticket"),
    change(1, add=["A"], remove=["B"]),
    change(2, add=[{"slug": "B", "until": "2090-01-01T00:00:00Z"}], remove=["A"]),
    change(1, add=["A", "X"], remove=["Y"]),
    change(1),
    change(1, add=["A", "A"]),
    change(1, add=["A", {"slug": "B", "ttl_seconds": 0}]),
    change(1, add=[{"slug": "B", "until": EARLY}]),
    change(0, add=["A"]),
    changes(
        (3, {"add": ["B"], "reason": "own"}),
        (4, {"add": [{"slug": "B", "ttl_seconds": 3600}], "remove": ["A"]}),
        reason="all",
    ),
    get(HISTORY, "users/3/history", user_id=3),
    get(HISTORY, "users/4/history", user_id=4),
    changes(),
    changes((3, {"add": ["X"]}), (4, {"remove": ["B", "Y"]})),
    changes((3, {"remove": ["B"]}), (3, {"add": ["B"]})),
    changes((3, {"remove": ["B"]}), (0, {"add": ["B"]})),
    changes((3, {"remove": ["B"]}), (4, {"add": [{"slug": "B", "ttl_seconds": 0}]})),
    changes((3, {}), reason="x" * 501),
    changes(*[(user_id, {"add": ["B"]}) for user_id in range(1, 1002)]),
    get("Memberships/ListUserSegments", "users/1/segments", user_id=1),
    get("Memberships/ListUserSegments", "users/0/segments", user_id=0),
    post(LOOK_UP, "lookup", user_ids=[2, 1, 1, 99]),
    post(LOOK_UP, "lookup", user_ids=[]),
    post(LOOK_UP, "lookup", user_ids=[1, 0]),
    post(LOOK_UP, "lookup", user_ids=[1] * 1001),
    get(DESCRIBE, "users/2/segments?detail=true", user_id=2),
    get(DESCRIBE, f"users/2/segments?detail=true&at={EARLY}", user_id=2, at=EARLY),
    get(DESCRIBE, f"users/2/segments?detail=true&at={LATE}", user_id=2, at=LATE),
    get(EXPLAIN, "users/2/segments/A", user_id=2, slug="A"),
    get(EXPLAIN, "users/2/segments/B", user_id=2, slug="B"),
    get(EXPLAIN, "users/3/segments/B", user_id=3, slug="B"),
    get(EXPLAIN, "users/3/segments/X", user_id=3, slug="X"),
    get(HISTORY, "users/1/history", user_id=1),
    get(HISTORY, "users/1/history?limit=1", user_id=1, page_size=1),
    get(HISTORY, f"users/1/history?from={LATE}&to={EARLY}", user_id=1, **ENDLESS),
    get(MEMBERS, "segments/A/users", slug="A"),
    get(MEMBERS, f"segments/A/users?at={EARLY}", slug="A", at=EARLY),
    get(MEMBERS, "segments/X/users", slug="X"),
    get(COUNT, "segments/A/counts", slug="A"),
    get(COUNT, f"segments/A/counts?at={EARLY}", slug="A", at=EARLY),
    get(COUNT, "segments/X/counts", slug="X"),
    Step(PREVIEW, {"slug": "A", "percent": 90}, "POST", "segments/A/preview", {"percent": 90}),
    Step(PREVIEW, {"slug": "A", "percent": 1.5}, "POST", "segments/A/preview", {"percent": 1.5}),
    Step(PREVIEW, {"slug": "A", "percent": 101}, "POST", "segments/A/preview", {"percent": 101}),
    Step(PREVIEW, {"slug": "X", "percent": 1}, "POST", "segments/X/preview", {"percent": 1}),
    post(ORDER, "reports", month="2026-11", user_id=1, segment="A", header=True),
    post(ORDER, "reports", month="2026-13"),
    Step(ORDER, {"range": ENDLESS}, "POST", "reports", ENDLESS),
    post(ORDER, "reports", month="2026-11", user_id=999),
    get("Reports/GetReport", f"reports/{NEVER}", id=NEVER),
    Step("Users/DeleteUser", {"id": 7}, "DELETE", "users/7"),
    Step("Users/DeleteUser", {"id": 7}, "DELETE", "users/7"),
    Step("Users/DeleteUser", {"id": 2, "erase": True}, "DELETE", "users/2?erase=true"),
    Step("Segments/DeleteSegment", {"slug": "A"}, "DELETE", "segments/A"),
    Step("Segments/DeleteSegment", {"slug": "A"}, "DELETE", "segments/A"),
]

RENAMED: Final = {"next_cursor": "next_page_token", "ttl_seconds": "ttl"}
UNSAID: Final[tuple[Json, ...]] = (None, "", False, [])
"""What gRPC says by leaving a field out, or as its default."""
PREFIXES: Final = re.compile("(STATUS|SOURCE|OPERATION|CAUSE|BECAUSE)_")


class Both:
    """The same service twice, behind one door each."""

    def __init__(self, api: Api, client: Reflected) -> None:
        self.api = api
        self.client = client


@asynccontextmanager
async def both_doors(postgres_url: str, template_database: str, tmp_path: Path) -> AsyncIterator[Both]:
    async with AsyncExitStack() as stack:
        databases = []
        for _ in range(2):
            url = stack.enter_context(new_database(postgres_url, template_database))
            databases.append(await stack.enter_async_context(Database(url)))
        use_cases = [service(database, Settings(data_dir=str(tmp_path))) for database in databases]
        guards = [await open_to_all(database) for database in databases]
        api = await stack.enter_async_context(Api(middleware(use_cases[0], guards[0])))
        client = await stack.enter_async_context(grpc_door(use_cases[1], guards[1]))
        yield Both(api, client)


def comparable(value: Json, numbers: dict[str, str]) -> Json:
    """A value of either door, in one form: times and ids of reports by their order, numbers as text."""
    match value:
        case dict():
            found = {
                RENAMED.get(key, key): comparable(each, numbers)
                for key, each in value.items()
                if key not in {"age", "request_id"}
            }
            return {key: each for key, each in found.items() if each not in UNSAID}
        case list():
            return [comparable(each, numbers) for each in value]
        case int() | float() if not isinstance(value, bool):
            return str(int(value)) if value == int(value) else str(value)
        case str():
            return _text(value, numbers)
    return value


def _text(value: str, numbers: dict[str, str]) -> str:
    if re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", value):
        moment = datetime.fromisoformat(value)
        return str(moment) if moment.year >= 2080 else numbers.setdefault(str(moment), f"time {len(numbers)}")
    text = PREFIXES.sub("", value).lower().replace("_", "-") if PREFIXES.match(value) else value
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|signature=.*", "varies", text)


async def test_every_method_answers_as_the_http_door_does(
    postgres_url: str, template_database: str, tmp_path: Path
) -> None:
    async with both_doors(postgres_url, template_database, tmp_path) as both:
        await compare(both)


async def compare(both: Both) -> None:
    seen: dict[str, set[str]] = {}
    over_http: dict[str, str] = {}
    over_grpc: dict[str, str] = {}
    kinds = {problem.kind: problem for problem in (*PROBLEMS.values(), *HTTP_PROBLEMS.values())}
    for step in STEPS:
        answer = await both.api.request(step.http, step.path, json=step.body)
        found = await both.client.call(step.method, step.message)
        body = answer.json() if answer.content else {}
        if isinstance(found, Answered):
            assert answer.status_code < 400, (step, answer.text)
            if step.method == COUNT:  # its message leaves out the slug, which the caller knows
                del body["slug"]
            expected = comparable(body, over_http)
            # A walk's tokens are opaque, and differ where the databases do.
            assert bool(expected.pop("next_page_token", None)) == bool(
                found.message.get("next_page_token")
            ), step
            got = comparable({**found.message, "next_page_token": ""}, over_grpc)
            assert got == expected, step
            seen.setdefault(step.method, set()).add("answer")
            continue
        assert answer.status_code >= 400, (step, found)
        problem = kinds[body["type"].removeprefix("/problems/")]
        assert (found.code, found.reason) == (
            problem.grpc_status,
            problem.kind.upper().replace("-", "_"),
        ), (step, found, body)
        assert {*found.fields.values()} == {fault["detail"] for fault in body.get("errors", [])}, (step, body)
        if "segments" in body:
            assert found.facts["segments"].split(",") == body["segments"]
        seen.setdefault(step.method, set()).add("refusal")

    implemented = {f"{name}/{method}" for name, methods in services("").items() for method in methods}
    streams = {method for method in implemented if both.client.is_stream(method)}
    assert {method for method, kinds_seen in seen.items() if kinds_seen == {"answer", "refusal"}} == (
        implemented - streams - {"Reports/GetReport"}
    )


ONE: Final = "Memberships/ChangeUserSegments"
MANY: Final = "Memberships/ChangeManyUsers"
BAD_VALUES: Final[Sequence[tuple[str, Json, str]]] = [
    (ONE, {"user_id": 1, "add": [{"slug": "A"}, {"slug": "x y"}]}, "add[1].slug"),
    (ONE, {"user_id": 1, "remove": ["A", "x y"]}, "remove[1]"),
    (ONE, {"user_id": 1, "add": [{"slug": "A", "ttl": "0s"}]}, "add[0].ttl"),
    (ONE, {"user_id": 1, "add": [{"slug": "A", "ttl": "1.5s"}]}, "add[0].ttl"),
    (ONE, {"user_id": 1, "add": [{"slug": "A"}], "reason": "x" * 501}, "reason"),
    (ONE, {"user_id": 0, "add": [{"slug": "A"}]}, "user_id"),
    (MANY, {"changes": []}, "changes"),
    (MANY, {"changes": [{"user_id": 1, "remove": ["A"]}] * 2}, "changes[1].user_id"),
    (MANY, {"changes": [{"user_id": 1, "add": [{"slug": "A", "ttl": "0s"}]}]}, "changes[0].add[0].ttl"),
]


async def test_a_bad_value_is_named_by_its_path_and_each_call_has_a_request_id(
    database: Database, tmp_path: Path
) -> None:
    use_cases = service(database, Settings(data_dir=str(tmp_path)))
    async with grpc_door(use_cases, await open_to_all(database)) as client:
        for method, message, field in BAD_VALUES:
            refused = await client.call(method, message)
            assert isinstance(refused, Refused)
            assert (refused.code, [*refused.fields]) == ("INVALID_ARGUMENT", [field])
        own = await client.call("Segments/ListSegments", {}, x_request_id="mine")
        made = await client.call("Segments/ListSegments")

    assert isinstance(own, Answered)
    assert isinstance(made, Answered)
    assert own.metadata["x-request-id"] == "mine"
    assert re.fullmatch(r"[0-9a-f-]{36}", made.metadata["x-request-id"])


# Access


async def test_the_table_of_roles_holds_for_every_method(database: Database, tmp_path: Path) -> None:
    authenticator = Authenticator(database, AccessRules(may_be_open=False, bound_seconds=50))
    secrets = {role: await new_token(database, role, role) for role in Role}
    await authenticator.look()
    use_cases = service(database, Settings(data_dir=str(tmp_path)))
    operations = {
        f"{name}/{method}": each.operation
        for name, methods in services("").items()
        for method, each in methods.items()
    }
    # A stream of changes begins with one.
    await segments.create(database, NewSegment(Slug("A"), Description(""), None, Salt(1)), Actor("me"))
    async with grpc_door(use_cases, authenticator) as client:
        assert operations.keys() == {*client.methods}
        for method, operation in operations.items():
            needed = ROLES[operation]
            assert needed is not None
            for metadata in ({}, {"authorization": "Bearer segmentd_bad"}, {"authorization": "Basic eDp5"}):
                refused = await client.call(method, None, **metadata)
                assert isinstance(refused, Refused)
                assert refused.code == "UNAUTHENTICATED", method
            for role in Role:
                found = await client.call(method, None, authorization=f"Bearer {secrets[role]}")
                denied = isinstance(found, Refused) and found.code == "PERMISSION_DENIED"
                assert denied != role.covers(needed), (method, role, found)
                if isinstance(found, Refused) and denied:
                    assert found.facts == {"role": needed}
        erase = {"id": 1, "erase": True}
        refused = await client.call("Users/DeleteUser", erase, authorization=f"Bearer {secrets[Role.EDITOR]}")
        assert isinstance(refused, Refused)
        assert refused.code == "PERMISSION_DENIED"


async def test_a_change_has_its_caller_and_on_whose_behalf_it_was(database: Database, tmp_path: Path) -> None:
    use_cases = service(database, Settings(data_dir=str(tmp_path)))
    async with grpc_door(use_cases, await open_to_all(database)) as client:
        await client.call("Segments/CreateSegment", {"slug": "A"})
        wanted = {"user_id": 1, "add": [{"slug": "A"}]}
        await client.call("Memberships/ChangeUserSegments", wanted, x_on_behalf_of="ada")
        history = await client.call("Memberships/ListHistory", {"user_id": 1})

    assert isinstance(history, Answered)
    [event] = history.message["events"]
    assert (event["actor"], event["on_behalf_of"]) == ("anonymous", "ada")
