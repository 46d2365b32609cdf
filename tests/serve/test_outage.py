"""The database goes away under a node of real processes, and whatever dies meanwhile, hot reads go on."""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from tests.support.processes import PATIENCE_S, TLS, Serving, eventually, run, serving
from tests.support.relay import Relay, relay_to
from tests.support.tokens import bearer

HALF_A_MINUTE_AND_MORE_S = 40


class Caller:
    """Somebody with a token, or without one where everybody may come."""

    def __init__(self, service: Serving, secret: str | None) -> None:
        self._url = service.url
        self._headers = bearer(secret) if secret else {}

    def ask(self, method: str, path: str, **body: object) -> httpx.Response:
        return httpx.request(
            method,
            f"{self._url}{path}",
            headers=self._headers,
            json=body if method != "GET" else None,
            timeout=PATIENCE_S,
            verify=TLS,
        )

    def reads(self, user_id: int = 1) -> list[str] | None:
        """The segments of a user; None where there is no answer."""
        try:
            answer = self.ask("GET", f"/api/v1/users/{user_id}/segments")
        except httpx.TransportError:
            return None
        found: list[str] | None = answer.json()["segments"] if answer.status_code == 200 else None
        return found


@pytest.fixture
async def relay(database_url: str) -> AsyncIterator[Relay]:
    async with relay_to(database_url) as relay:
        yield relay


async def becomes_true(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(eventually, condition)


def of_kind(service: Serving, module: str) -> set[int]:
    return {pid for pid, command in service.family().items() if module in command}


async def killed_and_replaced(service: Serving, module: str) -> None:
    before = of_kind(service, module)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await becomes_true(lambda: len(of_kind(service, module) - before) == len(before))


@pytest.mark.parametrize(
    ("serve_stale", "with_token"),
    [
        ("true", True),
        ("false", False),
        pytest.param("false", True, marks=pytest.mark.proof),
        pytest.param("true", False, marks=pytest.mark.proof),
    ],
)
async def test_hot_reads_go_on_without_the_database_whatever_dies_meanwhile(
    relay: Relay, database_url: str, tmp_path: Path, serve_stale: str, *, with_token: bool
) -> None:
    secret = None
    if with_token:
        arguments = ("create", "--role", "editor", "--name", "me", "--database-url", database_url)
        made = await asyncio.to_thread(run, "token", *arguments, cwd=tmp_path)
        secret = made.stdout.strip()
    env = {"SEGMENTD_DATABASE_URL": relay.url, "SEGMENTD_SERVE_STALE": serve_stale}
    with serving(cwd=tmp_path, workers=2, env=env) as service:
        await asyncio.to_thread(service.ready)
        caller = Caller(service, secret)

        def all_is_well() -> bool:
            caller.ask("POST", "/api/v1/segments", slug="A")
            done = caller.ask("POST", "/api/v1/users/1/segments", add=["A"]).status_code == 200
            return done and caller.ask("GET", "/readyz").status_code == 200

        def replica_is_there() -> bool:
            page = caller.ask("GET", "/metrics").text
            return "segmentd_replica_users 1.0" in page and caller.reads() == ["A"]

        await becomes_true(all_is_well)
        await becomes_true(replica_is_there)
        await relay.cut()
        assert await asyncio.to_thread(caller.reads) == ["A"]
        await becomes_true(lambda: {caller.ask("GET", "/readyz").status_code for _ in range(20)} == {503})
        answered = (await asyncio.to_thread(caller.ask, "GET", "/readyz")).json()
        assert answered["hot_reads"] is True
        assert isinstance(answered["age"], int)
        assert "database" in answered["detail"]
        assert (await asyncio.to_thread(caller.ask, "GET", "/readyz/hot-reads")).status_code == 200
        changed = await asyncio.to_thread(caller.ask, "POST", "/api/v1/users/1/segments", add=["A"])
        assert changed.status_code == 503

        await killed_and_replaced(service, "node_worker")
        assert [await asyncio.to_thread(caller.reads) for _ in range(10)] == [["A"]] * 10
        await killed_and_replaced(service, "http_worker")
        # The socket stays open: a client that connects before there is a process waits in it.
        assert [await asyncio.to_thread(caller.reads) for _ in range(10)] == [["A"]] * 10

        relay.mend()
        await becomes_true(all_is_well)
        await becomes_true(replica_is_there)
        assert (await asyncio.to_thread(service.stop)) == (0, "")


@pytest.mark.parametrize(
    "seconds", [7, pytest.param(HALF_A_MINUTE_AND_MORE_S, marks=pytest.mark.proof, id="proof")]
)
async def test_an_outage_ends_no_process(relay: Relay, tmp_path: Path, seconds: float) -> None:
    # The queue's pools give up after three seconds, and after three more.
    with serving(cwd=tmp_path, env={"SEGMENTD_DATABASE_URL": relay.url}) as service:
        await asyncio.to_thread(service.ready)
        caller = Caller(service, None)
        await becomes_true(lambda: caller.ask("POST", "/api/v1/segments", slug="A").status_code == 201)
        await becomes_true(lambda: "segmentd_replica_users 0.0" in caller.ask("GET", "/metrics").text)
        family = service.family().keys()
        await relay.cut()

        async with asyncio.timeout(seconds + PATIENCE_S):
            gone_at = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() < gone_at + seconds:
                assert await asyncio.to_thread(caller.reads) == []
        relay.mend()

        await becomes_true(lambda: caller.ask("GET", "/readyz").status_code == 200)
        assert service.family().keys() == family
        assert "process died" not in service.errors
        # Each of these is tried again every second, or several times a second.
        logged = Counter(
            (line["event"], line["error"], line.get("queue"))
            for line in map(json.loads, service.errors.splitlines())
            if line["event"].startswith(("cannot look for", "round failed", "background jobs wait"))
        )
        assert len({event for event, _, _ in logged}) >= 2
        assert not [line for line, times in logged.items() if times > 1 + seconds // 60]
