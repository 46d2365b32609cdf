"""The feed as server-sent events, against real nodes."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from segmentd.api.http.resources.feed import _events as events_of
from segmentd.api.http.types import Ids
from segmentd.domain.feed import EVERYTHING
from segmentd.feed import following
from segmentd.feed.following import Feed
from segmentd.observability.metrics import Metrics
from segmentd.storage.database import Database
from segmentd.streams import Streams
from tests.support.client import Json
from tests.support.postgres import new_database
from tests.support.processes import Serving, serving

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture(scope="module")
def nodes(
    postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Serving, Serving]]:
    """Two nodes on one database."""
    folder = tmp_path_factory.mktemp("served")
    with ExitStack() as stack:
        url = stack.enter_context(new_database(postgres_url, template_database))
        options = ("--database-url", url, "--max-streams", "9")
        one, other = (stack.enter_context(serving(*options, cwd=folder)).ready() for _ in range(2))
        httpx.post(f"{one.url}/api/v1/segments", json={"slug": "A"}).raise_for_status()
        yield one, other


def change(node: Serving, user_id: int, **wanted: Json) -> None:
    httpx.post(f"{node.url}/api/v1/users/{user_id}/segments", json=wanted).raise_for_status()


async def events(answer: httpx.Response) -> AsyncIterator[tuple[str, Json]]:
    """Each event's id and data."""
    found: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if not line:
            if "data" in found:
                yield found["id"], json.loads(found["data"])
            found = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            found[name] = value


def feed(node: Serving) -> str:
    return f"{node.url}/api/v1/changes"


async def test_a_change_on_one_node_wakes_those_who_follow_on_the_other(
    nodes: tuple[Serving, Serving],
) -> None:
    one, other = nodes
    async with httpx.AsyncClient(timeout=60) as client:
        now = (await client.get(feed(one), params={"after": "now"})).json()["next"]
        waiting = asyncio.create_task(client.get(feed(one), params={"after": now, "wait": 60}))
        async with client.stream("GET", feed(one), params={"after": now}, headers=STREAM) as answer:
            assert answer.status_code == 200
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            assert answer.headers["Cache-Control"] == "no-store"
            coming = events(answer)
            await asyncio.to_thread(change, other, 5, add=["A"])

            position, data = await asyncio.wait_for(anext(coming), 60)

            assert (data["kind"], data["user_id"], data["operation"]) == ("membership", 5, "add")
            assert data["position"] == position
            page = (await asyncio.wait_for(waiting, 60)).json()
            assert [each["user_id"] for each in page["changes"]] == [5]


async def test_a_stream_goes_on_after_the_last_event_that_came_also_on_another_node(
    nodes: tuple[Serving, Serving],
) -> None:
    one, other = nodes
    async with httpx.AsyncClient(timeout=60) as client:
        now = (await client.get(feed(one), params={"after": "now"})).json()["next"]
        for user_id in range(10, 16):
            await asyncio.to_thread(change, one, user_id, add=["A"])
        came: list[int] = []
        last = now
        for node in (one, other, one):
            headers = {**STREAM, "Last-Event-ID": last}
            async with client.stream("GET", feed(node), params={"after": "begin"}, headers=headers) as answer:
                coming = events(answer)
                for _ in range(2):
                    last, data = await asyncio.wait_for(anext(coming), 60)
                    came.append(data["user_id"])

        assert came == [*range(10, 16)]


async def test_a_refusal_comes_instead_of_the_first_event(nodes: tuple[Serving, Serving]) -> None:
    one, _ = nodes
    async with httpx.AsyncClient(timeout=60) as client:
        refused = await client.get(feed(one), params={"after": "x"}, headers=STREAM)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/after")


async def test_a_stop_ends_the_streams(database_url: str, tmp_path: Path) -> None:
    with serving("--database-url", database_url, cwd=tmp_path) as node:
        url = feed(node.ready())
        async with (
            httpx.AsyncClient(timeout=60) as client,
            client.stream("GET", url, headers=STREAM) as answer,
        ):
            stopping = asyncio.create_task(asyncio.to_thread(node.stop))
            received = await asyncio.wait_for(answer.aread(), 60)
        assert received.startswith(b"retry: ")
        assert (await stopping)[0] == 0


async def test_a_quiet_stream_says_that_it_lives_and_where_it_is(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "QUIET_S", 0.05)
    feed = Feed(database, Metrics(), Streams(), 60)
    pages = feed.stream("now", EVERYTHING)
    written = events_of(await anext(pages), pages, Ids.NUMBER)

    assert re.fullmatch(rb"retry: 1000\nid: \S+\n\n", await anext(written))
    for _ in range(2):
        assert re.fullmatch(rb":\nid: \S+\n\n", await anext(written))
    feed.end_waiting()
    assert [each async for each in written] == []


async def test_a_client_that_leaves_or_asks_for_the_head_alone_frees_its_place(
    nodes: tuple[Serving, Serving],
) -> None:
    one, _ = nodes

    async def streams(client: httpx.AsyncClient) -> float:
        page = (await client.get(f"{one.url}/metrics")).text
        [line] = re.findall(r"^segmentd_event_streams (\S+)$", page, re.MULTILINE)
        return float(line)

    async with httpx.AsyncClient(timeout=60) as client, asyncio.timeout(60):
        async with client.stream("GET", feed(one), params={"after": "now"}, headers=STREAM):
            while await streams(client) != 1:  # noqa: ASYNC110 - it sets no event
                await asyncio.sleep(0.02)
        head = await client.head(feed(one), params={"after": "now"}, headers=STREAM)
        assert (head.status_code, head.content) == (200, b"")
        while await streams(client) != 0:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
