"""The audit log: who changed what, on whose behalf, from what to what; and nothing personal."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import psycopg
import pytest

from segmentd.auth.authenticator import AccessRules, Authenticator
from segmentd.config import Settings
from segmentd.domain.access import Actor, Role
from segmentd.domain.errors import TokenExists, TokenNotFound
from segmentd.domain.instants import rfc3339
from segmentd.serve.wiring import service
from segmentd.storage import reports, tokens
from segmentd.storage.database import Database
from tests.support.client import Api, Json
from tests.support.clock import Clock
from tests.support.door import middleware
from tests.support.office import problem
from tests.support.rows import Rows, rows_of
from tests.support.tokens import bearer, new_token, revoke

FOR_ANN: Final = {"X-On-Behalf-Of": "ann@example.com"}
USER: Final = 7_236_837_451
NAME: Final = "Zinaida Test"


@pytest.fixture
async def admin(database: Database, tmp_path: Path) -> AsyncIterator[Api]:
    """A client with the token of an admin named `boss`."""
    authenticator = Authenticator(database, AccessRules(may_be_open=False, bound_seconds=50))
    secret = await new_token(database, "boss", Role.ADMIN)
    await authenticator.look()
    door = middleware(service(database, Settings(data_dir=str(tmp_path))), authenticator)
    async with Api(door) as api:
        api.headers.update(bearer(secret))
        yield api


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    with rows_of(database_url) as rows:
        yield rows


async def entries(api: Api) -> list[Json]:
    """The newest entries but the one of the admin's own token, the oldest first."""
    answer = await api.get("audit")
    assert answer.status_code == 200, answer.text
    return [entry for entry in reversed(answer.json()["entries"]) if entry["subject"] != "boss"]


def segment(slug: str, description: str = "", percent: float | None = None) -> Json:
    """What the log shows of a segment."""
    return {"slug": slug, "description": description, "percent": percent, "salt": "22"}


def entry(operation: str, subject: str | None, before: Json, after: Json, who: Json = None) -> Json:
    return {
        "operation": operation,
        "subject": subject,
        "before": before,
        "after": after,
        **(who or {"actor": "boss", "on_behalf_of": None}),
    }


def timeless(found: list[Json]) -> list[Json]:
    return [{key: value for key, value in each.items() if key != "at"} for each in found]


# Each operation


async def test_the_audit_log_has_each_step_of_a_segment_s_life_with_who_and_for_whom(admin: Api) -> None:
    await admin.create("A", percent=12.5, salt="22", description="voice")
    await admin.change_segment("A", slug="B")
    for_ann = await admin.patch("segments/B", json={"percent": None, "description": "text"}, headers=FOR_ANN)
    assert for_ann.status_code == 200
    assert (await admin.delete("segments/B")).status_code == 204

    one, two, three = segment("A", "voice", 12.5), segment("B", "voice", 12.5), segment("B", "text")
    assert timeless(await entries(admin)) == [
        entry("segment-created", "A", None, one),
        entry("segment-changed", "A", one, two),
        entry("segment-changed", "B", two, three, {"actor": "boss", "on_behalf_of": "ann@example.com"}),
        entry("segment-deleted", "B", three, None),
    ]


@pytest.mark.parametrize("percent", [0, 0.0001, 10, 33.3333, 100])
async def test_a_percentage_is_shown_as_it_was_given(admin: Api, percent: float) -> None:
    await admin.create("A", percent=percent)

    [created] = await entries(admin)
    assert created["after"]["percent"] == percent


async def test_entries_have_the_time_of_the_change(admin: Api, clock: Clock) -> None:
    clock.advance(days=400)
    before = clock.now()

    await admin.create("A")

    [created] = await entries(admin)
    assert rfc3339(before) <= created["at"] <= rfc3339(clock.now())


async def test_tokens_and_keys_are_shown_without_a_secret(
    admin: Api, database: Database, clock: Clock
) -> None:
    end = clock.now().replace(year=2100, microsecond=0)
    secret = await new_token(database, "billing", Role.EDITOR, end)
    await tokens.revoke(database, "billing", Actor("somebody"))
    await reports.replace_signing_key(database, end - clock.now(), Actor("somebody"))

    found = await entries(admin)

    shown = [each["before"] or each["after"] or {} for each in found]
    assert [each.pop("expires_at", "")[:4] for each in shown] == ["2100", "2100", ""]
    somebody, operator = ({"actor": name, "on_behalf_of": None} for name in ("somebody", "operator"))
    assert timeless(found) == [
        entry("token-created", "billing", None, {"role": "editor"}, operator),
        entry("token-revoked", "billing", {"role": "editor"}, None, somebody),
        entry("signing-key-replaced", None, None, None, somebody),
    ]
    assert secret not in str(found)


async def test_the_history_of_an_open_service_names_the_caller_anonymous(api: Api) -> None:
    await api.create("A")

    [created] = await entries(api)
    assert created["actor"] == "anonymous"


# What leaves no entry


async def test_a_change_of_nothing_leaves_no_entry(admin: Api) -> None:
    await admin.create("A", percent=10, description="voice")
    before = await entries(admin)

    for same in ({}, {"percent": 10}, {"slug": "A"}, {"description": "voice", "percent": 10.0}):
        await admin.change_segment("A", **same)

    assert await entries(admin) == before


async def test_what_was_refused_leaves_no_entry(admin: Api, database: Database) -> None:
    await admin.create("A")
    await admin.create("B")
    before = await entries(admin)

    assert (await admin.post("segments", json={"slug": "a"})).status_code == 409
    assert (await admin.patch("segments/A", json={"slug": "b"})).status_code == 409
    assert (await admin.patch("segments/Z", json={"percent": 1})).status_code == 404
    assert (await admin.delete("segments/Z")).status_code == 404
    assert (await admin.delete("users/1?erase=true")).status_code == 404
    assert (await admin.post("segments", json={"slug": "C"}, headers=bearer("x"))).status_code == 401
    with pytest.raises(TokenExists):
        await new_token(database, "boss")
    with pytest.raises(TokenNotFound):
        await revoke(database, "nobody")

    assert await entries(admin) == before


async def test_what_history_tells_leaves_no_entry(admin: Api) -> None:
    await admin.create("A")
    before = await entries(admin)

    await admin.add(1000, "A")
    await admin.remove(1000, "A")
    assert (await admin.delete("users/1000")).status_code == 204

    assert await entries(admin) == before


# Pages


async def test_pages_are_the_newest_first_and_stay_as_they_are_while_entries_come(admin: Api) -> None:
    for number in range(5):
        await admin.create(f"OLD{number}")

    first = (await admin.get("audit", params={"limit": 2})).json()
    await admin.create("NEW")
    cursor, later = first["next_cursor"], []
    while cursor is not None:
        page = (await admin.get("audit", params={"limit": 2, "cursor": cursor})).json()
        assert len(page["entries"]) <= 2
        cursor = page["next_cursor"]
        later += page["entries"]

    found = [each["subject"] for each in [*first["entries"], *later]]
    assert found == ["OLD4", "OLD3", "OLD2", "OLD1", "OLD0", "boss"]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=x", "cursor="])
async def test_a_bad_page_is_refused(admin: Api, query: str) -> None:
    answer = await admin.get(f"audit?{query}")

    assert problem(answer) == (422, "validation")
    assert answer.json()["errors"][0]["pointer"] == f"/{query.partition('=')[0]}"


# Erasure


async def test_an_erasure_leaves_one_line_and_nothing_of_the_user(admin: Api, rows: Rows) -> None:
    await admin.create("A")
    assert (await admin.post("users", json={"id": USER, "name": NAME})).status_code == 201
    await admin.add(USER, "A")
    before = await entries(admin)

    answer = await admin.delete(f"users/{USER}?erase=true", headers=FOR_ANN)

    assert answer.status_code == 204
    who = {"actor": "boss", "on_behalf_of": "ann@example.com"}
    assert timeless((await entries(admin))[len(before) :]) == [entry("user-erased", None, None, None, who)]
    kept = str(rows("SELECT log::text FROM audit_log log"))
    assert str(USER) not in kept
    assert NAME not in kept


# Append-only


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET actor = 'nobody'",
        "UPDATE audit_log SET actor = actor WHERE false",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
    ],
)
async def test_the_database_refuses_to_change_what_is_written(
    admin: Api, database_url: str, statement: str
) -> None:
    await admin.create("A")
    before = await entries(admin)

    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(psycopg.errors.RaiseException, match="only ever appended to"),
    ):
        connection.execute(statement.encode())

    assert await entries(admin) == before


# On whose behalf


@pytest.mark.parametrize("name", ["ann", "Ann O'Hara, 3rd", "Аня", "安", "a" * 256, "Я" * 256])
async def test_history_names_for_whom_somebody_acts(admin: Api, name: str) -> None:
    raw = [(b"X-On-Behalf-Of", name.encode())]
    await admin.create("A")
    await admin.create("B")

    answer = await admin.post("users/1000/segments", json={"add": ["A"]}, headers=raw)
    assert answer.status_code == 200, answer.text
    await admin.add(1000, "B")
    assert (await admin.delete("users/1000", headers=raw)).status_code == 204

    recorded = {
        (event["segment"], event["operation"]): (event["actor"], event["on_behalf_of"])
        for event in await admin.history(1000)
    }
    assert recorded == {
        ("A", "add"): ("boss", name),
        ("B", "add"): ("boss", None),
        ("A", "remove"): ("boss", name),
        ("B", "remove"): ("boss", name),
    }


async def test_a_change_is_on_behalf_of_one_person(admin: Api) -> None:
    await admin.create("A")
    two = [(b"X-On-Behalf-Of", b"ann"), (b"X-On-Behalf-Of", b"bob")]

    answer = await admin.post("users/1000/segments", json={"add": ["A"]}, headers=two)

    assert problem(answer) == (422, "validation")
    assert await admin.segments(1000) == []


@pytest.mark.parametrize(
    "value",
    [b"", b"a\tb", b"\x7f", b"a\x01", "a\u200e".encode(), "a\u2028b".encode(), b"a" * 257, b"\xff", b"\xd0"],
)
async def test_for_whom_somebody_acts_is_a_name_that_people_can_read(
    admin: Api, rows: Rows, value: bytes
) -> None:
    await admin.create("A")
    before = await entries(admin)
    raw = [(b"X-On-Behalf-Of", value)]

    for answer in (
        await admin.post("users/1000/segments", json={"add": ["A"]}, headers=raw),
        await admin.post("segments", json={"slug": "B"}, headers=raw),
        await admin.patch("segments/A", json={"percent": 1}, headers=raw),
        await admin.delete("segments/A", headers=raw),
        await admin.delete("users/1000?erase=true", headers=raw),
    ):
        assert problem(answer) == (422, "validation")
        [fault] = answer.json()["errors"]
        assert fault["pointer"] == "/X-On-Behalf-Of"

    assert await entries(admin) == before
    assert rows("SELECT FROM users") == []
