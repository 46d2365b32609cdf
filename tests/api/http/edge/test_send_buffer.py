"""Answers are begun while there is room for them in memory."""

from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import pytest
from structlog.testing import capture_logs

from segmentd.api.http.edge.send_buffer import Bound
from segmentd.api.http.hot.path import HotPath
from segmentd.config import Settings
from segmentd.observability.metrics import Metrics
from segmentd.replica.follower import Follower
from segmentd.serve.http_door import http_door
from segmentd.serve.wiring import open_node, service
from segmentd.storage.database import Database
from tests.support.client import Api, Json
from tests.support.door import open_to_all

MOST: Final = 2**20
Call = tuple[str, str, Json]
SEGMENTS: Final = [f"{number:03}{'x' * 125}" for number in range(150)]


class Door(NamedTuple):
    """The whole door of a node with a fresh replica, and a client of it."""

    hot_path: HotPath
    api: Api
    metrics: Metrics

    def refusals(self) -> str:
        """The figure, as it is scraped."""
        page = self.metrics.page([], "").content.decode()
        return next(line for line in page.splitlines() if 'reason="unsent-bytes"' in line)


@pytest.fixture
async def door(database: Database, api: Api, tmp_path: Path) -> AsyncIterator[Door]:
    for slug in SEGMENTS:
        await api.create(slug)
    await api.add(1, *SEGMENTS)
    await api.add(2, SEGMENTS[0])
    settings = Settings(data_dir=str(tmp_path), max_unsent_bytes=MOST)
    with closing(Follower(database, tmp_path / "node")) as follower:
        await follower.round()
    metrics = Metrics()
    async with open_node(database, settings, tmp_path / "node") as node:
        authenticator = await open_to_all(database)
        use_cases = service(database, settings, node)
        hot_path, _, _ = http_door(use_cases, settings, authenticator, node.replica, metrics)
        async with Api(hot_path) as client:
            client.headers["Accept-Encoding"] = "identity"  # compressed, many would be small
            yield Door(hot_path, client, metrics)


def is_overloaded(answer: httpx.Response) -> bool:
    if answer.status_code != 503:
        assert answer.status_code == 200, answer.text
        return False
    assert answer.json()["type"] == "/problems/overloaded"
    assert answer.headers["Content-Length"] == str(len(answer.content))
    assert int(answer.headers["Retry-After"]) > 0
    return True


async def test_while_too_much_is_unsent_large_answers_are_refused_and_all_others_given(door: Door) -> None:
    api, unsent = door.api, door.hot_path.calls.room.unsent
    large: list[Call] = [
        ("GET", "users/1/segments", None),
        ("GET", "users/1/segments?detail=true", None),
        ("GET", "segments", None),
        ("GET", "/openapi.json", None),
        ("POST", "lookup", {"user_ids": [1]}),
        ("POST", "lookup", {"user_ids": [2] * 500}),
    ]
    small: list[Call] = [
        ("GET", "users/2/segments", None),
        ("GET", "users", None),
        ("GET", "/livez", None),
        ("GET", "/metrics", None),
        ("GET", "/docs/swagger-ui-bundle.js", None),
        ("POST", "lookup", {"user_ids": [2]}),
        ("POST", "users/1/segments", {"remove": [SEGMENTS[1]]}),
    ]

    async def overloaded(calls: list[Call]) -> list[bool]:
        return [is_overloaded(await api.request(method, path, json=body)) for method, path, body in calls]

    unsent.change(MOST - 1)
    assert not any(await overloaded(large + small))

    unsent.change(1)
    with capture_logs() as logged:
        assert all(await overloaded(large))
        assert not any(await overloaded(small))
        head = await api.head("segments")
    assert (head.status_code, head.content) == (503, b"")
    assert [line for line in logged if line["event"] == "a bound is reached"] == [
        {"event": "a bound is reached", "log_level": "warning", "of": "unsent bytes", "most": MOST}
    ]
    assert door.refusals().endswith(f" {len(large) + 1}.0")

    unsent.change(-1)
    assert not any(await overloaded(large))


def test_a_bound_that_is_reached_is_said_once_a_minute() -> None:
    times = [0.0, 59.0, 60.0, 119.0, 120.0]
    bound = Bound("things", 1, now=lambda: times[0])
    with capture_logs() as logged:
        while times:
            bound.say()
            del times[0]

    assert len(logged) == 3
