"""Two nodes, one of which follows the other, through all troubles that they may have."""

import asyncio
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.serve.test_following_node import ADMIN, Caller, environment
from tests.support.processes import PATIENCE_S, TLS, Serving, eventually, serving
from tests.support.relay import Relay, relay_to
from tests.support.tokens import bearer


class Writer:
    """Adds one user after the other at one node, and knows when each was acknowledged."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ended = threading.Event()
        self.acknowledged: list[float] = []
        """By the id of the user, less one."""

    @contextmanager
    def writing(self) -> Iterator[None]:
        thread = threading.Thread(target=self._write)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _write(self) -> None:
        with httpx.Client(headers=bearer(ADMIN), timeout=PATIENCE_S, verify=TLS) as client:
            while not self._ended.wait(0.005):
                path = f"{self._url}/api/v1/users/{len(self.acknowledged) + 1}/segments"
                try:
                    done = client.post(path, json={"add": ["A"]}).status_code == 200
                except httpx.TransportError:
                    done = False
                if done:
                    self.acknowledged.append(time.monotonic())


class Reader:
    """Reads the last thousand users at the following node: what is older than its age has to be there."""

    def __init__(self, url: str, writer: Writer) -> None:
        self._writer = writer
        self.client = httpx.Client(base_url=url, headers=bearer(ADMIN), timeout=PATIENCE_S, verify=TLS)
        self.answers = 0
        self.greatest_age = 0

    def look(self) -> bool:
        """Whether all that was acknowledged more than a second ago is there."""
        asked = time.monotonic()
        acknowledged = [*self._writer.acknowledged]
        last = len(acknowledged)
        users = [*range(max(1, last - 999), last + 1)]
        answer = self.client.post("/api/v1/lookup", json={"user_ids": users})
        if answer.status_code != 200:
            assert answer.status_code == 503, answer.text
            return False
        age = int(answer.headers["Age"])
        found = {each["user_id"] for each in answer.json()["users"] if each["segments"] == ["A"]}
        due = {user for user in users if acknowledged[user - 1] < asked - age - 1}
        assert due <= found, (age, sorted(due - found)[:5])
        self.answers += 1
        self.greatest_age = max(self.greatest_age, age)
        return {user for user in users if acknowledged[user - 1] < asked - 1} <= found

    def look_until_level(self) -> None:
        """Looks again and again until nothing is missing."""
        eventually(self.look)

    def look_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look()
            time.sleep(0.01)


def kill(node: Serving, name: str) -> None:
    for pid, command in node.family().items():
        if name in command:
            os.kill(pid, signal.SIGKILL)


class Pair:
    """Two nodes, one of which follows the other through a relay."""

    def __init__(self, near: Serving, far: Serving, relay: Relay, again: Callable[[], Serving]) -> None:
        self.near = near
        self.far = far
        self.relay = relay
        self.again = again
        """Starts the other one again, in the same folder and on the same port."""
        self.writer = Writer(near.url)
        self.reader = Reader(far.url, self.writer)

    def start_again(self, replica: Path | None = None) -> None:
        """Stops the node that is followed, maybe removes its replica, and starts it."""
        self.near.stop()
        if replica is not None:
            shutil.rmtree(replica)
        self.near = self.again().ready()

    async def trouble(self, step: Callable[[], object] = lambda: None, seconds: float = 2.0) -> None:
        """Looks while it lasts, and until nothing is missing afterwards."""
        await asyncio.to_thread(step)
        await asyncio.to_thread(self.reader.look_for, seconds)
        await asyncio.to_thread(self.reader.look_until_level)

    async def go_through(self, replica: Path) -> None:
        """One trouble after the other."""
        await asyncio.to_thread(self.reader.look_until_level)
        for name in ("node_worker", "http_worker"):
            await self.trouble(partial(kill, self.near, name))
        for name in ("following_work", "http_worker"):
            await self.trouble(partial(kill, self.far, name))
        await self.trouble(self.start_again)
        await self.trouble(partial(self.start_again, replica))
        await self.relay.cut()
        await asyncio.to_thread(self.reader.look_for, 3.0)
        self.relay.mend()
        await self.trouble()
        self.relay.hush()
        await asyncio.to_thread(self.reader.look_for, 12.0)
        self.relay.flowing.set()
        await self.trouble()
        self.relay.delay_s = 0.3
        await asyncio.to_thread(self.reader.look_for, 4.0)
        self.relay.delay_s = 0.0
        await self.trouble()


@pytest.mark.proof
@pytest.mark.timeout(300)
async def test_whatever_happens_between_two_nodes_no_answer_is_older_than_it_says(
    database_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "near"
    for each in (folder, tmp_path / "far"):
        each.mkdir()
    of_near = {"SEGMENTD_DATABASE_URL": database_url, "SEGMENTD_ADMIN_TOKEN": ADMIN}
    with ExitStack() as stack:
        near = stack.enter_context(serving(cwd=folder, env=of_near))
        await asyncio.to_thread(near.ready)
        port = int(near.url.rpartition(":")[2])

        def again() -> Serving:
            return stack.enter_context(serving(cwd=folder, env=of_near, port=port))

        async with relay_to(near.url) as relay:
            env = environment(relay.url.replace("@", ""), tmp_path / "token")
            far = stack.enter_context(serving(cwd=tmp_path / "far", env=env))
            await asyncio.to_thread(far.ready)
            made = await asyncio.to_thread(Caller(near).ask, "POST", "/api/v1/segments", {"slug": "A"})
            assert made.status_code == 201
            pair = Pair(near, far, relay, again)
            with pair.reader.client, pair.writer.writing():
                await pair.go_through(folder / "data" / "node-1")
            assert pair.reader.answers > 100
            assert pair.reader.greatest_age >= 3
            assert "another copy is needed" in far.errors
