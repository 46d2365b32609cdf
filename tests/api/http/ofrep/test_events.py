"""Streams of events: a provider is asked to fetch its flags again whenever they are others."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

import httpx
import pytest

from segmentd.api.http.ofrep.event_links import EVENTS, RENEWED_EVERY_S, EventLinks
from segmentd.api.http.ofrep.events import HEARTBEAT_S
from segmentd.api.http.ofrep.events import _events as events_of
from segmentd.domain.errors import Denied
from segmentd.domain.identifiers import UserId
from segmentd.storage.database import Database
from segmentd.storage.signing_keys import SigningKeys
from tests.api.http.ofrep.conftest import FLAGS, context
from tests.support.asgi import JSON
from tests.support.postgres import new_database
from tests.support.processes import Serving, eventually, serving

KEY: Final = b"k" * 32
SEEN: Final = bytes(range(12))
LINK: Final = re.compile(r"/ofrep/v1/events\?user=(.*)&seen=(.*)&until=(.*)&signature=(.*)")


class Times:
    """A clock that the test moves."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def links(clock: Times, *keys: bytes) -> EventLinks:
    return EventLinks(SigningKeys(Database(""), keys), clock)


def parts(path: str | None) -> tuple[str, ...]:
    match = LINK.fullmatch(path or "")
    assert match is not None
    return match.groups()


# Links


def test_a_link_is_the_same_for_half_an_hour_and_good_for_as_long_again() -> None:
    clock = Times()
    made = links(clock, KEY)
    changes, latest = [], made.path(UserId(7), SEEN)
    for minute in range(60):
        clock.now = Times.now + 60 * minute
        path = made.path(UserId(7), SEEN)
        if path != latest:
            changes.append(minute)
            latest = path
        left = made.read(*parts(path)).until - clock.now
        assert RENEWED_EVERY_S < left <= 2 * RENEWED_EVERY_S
    assert len(changes) == 2
    assert changes[1] - changes[0] == 30


def test_links_of_different_users_are_renewed_at_different_times() -> None:
    made = links(Times(), KEY)

    untils = {made.read(*parts(made.path(UserId(user_id), SEEN))).until for user_id in range(1, 200)}

    assert len(untils) > 150


def test_a_link_says_whose_flags_and_which_of_them_are_known() -> None:
    made = links(Times(), KEY)

    link = made.read(*parts(made.path(UserId(2**63 - 1), SEEN)))

    assert (link.user_id, link.seen) == (2**63 - 1, SEEN.hex())
    assert KEY.decode() not in str(made.path(UserId(1), SEEN))


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("other", ["", "8", "x", "-1", "9" * 5000, "\u0661", "é"])
def test_a_link_with_anything_changed_is_refused(place: int, other: str) -> None:
    made = links(Times(), KEY)
    forged = [*parts(made.path(UserId(7), SEEN))]
    forged[place] = other

    with pytest.raises(Denied):
        made.read(*forged)


def test_a_link_expires_and_is_good_under_an_earlier_key_until_then() -> None:
    clock = Times()
    path = links(clock, KEY).path(UserId(7), SEEN)
    after_rotation = links(clock, b"n" * 32, KEY)

    until = after_rotation.read(*parts(path)).until
    clock.now = until - 1
    after_rotation.read(*parts(path))
    for now, keys in ((until, [KEY]), (until - 1, [b"n" * 32])):
        clock.now = now
        with pytest.raises(Denied):
            links(clock, *keys).read(*parts(path))


def test_without_a_key_there_is_no_link() -> None:
    assert links(Times()).path(UserId(7), SEEN) is None


# What a stream says


class Watched:
    """One watched user, in the place of a service."""

    def __init__(self) -> None:
        self.fingerprint = SEEN
        self.ended = False
        self.waits: list[float] = []
        self.wakes = 0

    def watch(self, user_id: UserId) -> "Watched":
        assert user_id == 7
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Leaves nothing."""

    async def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.wakes -= 1
        return self.wakes >= 0


async def stream(clock: Times, watched: Watched, seen: str = SEEN.hex()) -> AsyncIterator[str]:
    made = links(clock, KEY)
    link = made.read(*parts(made.path(UserId(7), SEEN)))
    async for event in events_of(watched, made, link, seen):  # type: ignore[arg-type]
        yield event.decode()


REFETCH: Final = 'event: message\ndata: {"type":"refetchEvaluation"}\n\n'


async def test_a_stream_begins_with_what_is_known_and_asks_for_a_fetch_at_each_change() -> None:
    watched = Watched()
    events = stream(Times(), watched)

    assert re.fullmatch(rf"retry: [1-5]\d{{3}}\nid: {SEEN.hex()}\n\n", await anext(events))
    assert await anext(events) == ":\n\n"
    assert watched.waits == [HEARTBEAT_S]
    watched.fingerprint, watched.wakes = b"other", 1
    assert await anext(events) == f"id: {b'other'.hex()}\n{REFETCH}"
    assert await anext(events) == ":\n\n"  # nothing new


@pytest.mark.parametrize("known", [b"then".hex(), "nonsense"])
async def test_what_changed_before_the_client_came_back_is_said_at_once(known: str) -> None:
    events = stream(Times(), Watched(), known)

    await anext(events)
    assert await anext(events) == f"id: {SEEN.hex()}\n{REFETCH}"


async def test_a_fetch_is_asked_for_when_answers_have_another_link_and_then_the_stream_ends() -> None:
    clock = Times()
    events = stream(clock, Watched())
    await anext(events)
    clock.now += RENEWED_EVERY_S
    assert await anext(events) == f"id: {SEEN.hex()}\n{REFETCH}"
    assert await anext(events) == ":\n\n"

    clock.now += RENEWED_EVERY_S
    assert [event async for event in events] == []


async def test_a_stream_ends_with_the_process() -> None:
    watched = Watched()
    events = stream(Times(), watched)
    await anext(events)

    watched.ended = True

    assert [event async for event in events] == []


# Against real nodes


class Nodes:
    """Two nodes on one database."""

    def __init__(self, one: Serving, other: Serving) -> None:
        self.one, self.other = one.ready().url, other.ready().url


@pytest.fixture(scope="module")
def nodes(
    postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("served")
    with ExitStack() as stack:
        url = stack.enter_context(new_database(postgres_url, template_database))
        options = ("--database-url", url, "--max-streams", "2", "--cors-origins", "*")
        one, other = (stack.enter_context(serving(*options, cwd=folder)) for _ in range(2))
        nodes = Nodes(one, other)
        httpx.post(f"{nodes.one}/api/v1/segments", json={"slug": "A"}).raise_for_status()
        yield nodes


def flags_of(url: str, user_id: int, known: str = "") -> httpx.Response:
    headers = {**dict(JSON), "If-None-Match": known}
    return httpx.post(f"{url}{FLAGS}", content=context(str(user_id)), headers=headers)


def stream_url(url: str, answer: httpx.Response) -> str:
    [stream] = answer.json()["eventStreams"]
    assert (stream["type"], stream["inactivityDelaySec"]) == ("sse", 120)
    path: str = stream["endpoint"]["requestUri"]
    return url + path


async def next_event(lines: AsyncIterator[str]) -> dict[str, str]:
    event: dict[str, str] = {}
    async for line in lines:
        if not line and "data" in event:
            return event
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value
    raise AssertionError(event)


def change(url: str, user_id: int, **wanted: object) -> None:
    httpx.post(f"{url}/api/v1/users/{user_id}/segments", json=wanted).raise_for_status()


async def test_a_change_on_another_node_asks_the_provider_to_fetch_what_is_new(nodes: Nodes) -> None:
    before = flags_of(nodes.one, 5)
    async with (
        httpx.AsyncClient(timeout=60) as client,
        client.stream("GET", stream_url(nodes.one, before), headers={"Origin": "http://page.test"}) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        lines = answer.aiter_lines()
        await asyncio.to_thread(change, nodes.other, 6, add=["A"])
        await asyncio.to_thread(change, nodes.other, 5, add=["A"])

        event = await asyncio.wait_for(next_event(lines), 60)

        assert (event["event"], json.loads(event["data"])) == ("message", {"type": "refetchEvaluation"})
        after = flags_of(nodes.one, 5, before.headers["ETag"])
        assert [flag["value"] for flag in after.json()["flags"]] == [True]
    # Who comes back with the last id is asked again only if there was a change meanwhile.
    async with (
        httpx.AsyncClient(timeout=60) as client,
        client.stream("GET", stream_url(nodes.one, before), headers={"Last-Event-ID": event["id"]}) as answer,
    ):
        lines = answer.aiter_lines()
        await asyncio.to_thread(change, nodes.one, 5, remove=["A"])
        again = await asyncio.wait_for(next_event(lines), 60)
        assert again["id"] != event["id"]


async def test_a_page_may_send_what_its_provider_sends_and_read_what_it_reads(nodes: Nodes) -> None:
    asked = "content-type, if-none-match, x-api-key, authorization"
    preflight = {
        "Origin": "http://page.test",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": asked,
    }
    async with httpx.AsyncClient(base_url=nodes.one) as client:
        allowed = await client.options(FLAGS, headers=preflight)
        sent = {**dict(JSON), "Origin": "http://page.test", "Sec-Fetch-Site": "cross-site"}
        answer = await client.post(FLAGS, content=context("5"), headers=sent)

    assert allowed.status_code == 204
    assert allowed.headers["Access-Control-Allow-Headers"] == asked
    assert allowed.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.status_code == 200
    assert {"ETag", "Retry-After"} <= {*answer.headers["Access-Control-Expose-Headers"].split(", ")}


async def test_streams_are_bounded_and_a_wrong_link_is_forbidden(nodes: Nodes) -> None:
    url = stream_url(nodes.one, flags_of(nodes.one, 9))
    async with httpx.AsyncClient(timeout=60) as client:
        forged = await client.get(url[:-2] + ("AA" if url[-2] != "A" else "BB"))
    assert (forged.status_code, forged.json()["errorCode"]) == (403, "GENERAL")
    async with httpx.AsyncClient(timeout=60) as client, client.stream("GET", url), client.stream("GET", url):
        refused = await client.get(url)
        assert (refused.status_code, refused.json()["errorCode"]) == (503, "GENERAL")
        assert refused.headers["Retry-After"].isdecimal()


async def test_a_stop_ends_the_streams_and_no_log_has_their_signatures(
    database_url: str, tmp_path: Path
) -> None:
    with serving("--database-url", database_url, "--log-level", "debug", cwd=tmp_path) as node:
        node.ready()
        # A process that has just begun may not know the keys of links yet.
        eventually(lambda: "eventStreams" in flags_of(node.url, 9).json())
        url = stream_url(node.url, flags_of(node.url, 9))
        async with httpx.AsyncClient(timeout=60) as client, client.stream("GET", url) as answer:
            stopping = asyncio.create_task(asyncio.to_thread(node.stop))
            received = await asyncio.wait_for(answer.aread(), 60)
        assert received.startswith(b"retry: ")
        assert (await stopping)[0] == 0
        assert EVENTS in node.errors
        assert "signature" not in node.errors
