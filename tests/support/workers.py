"""HTTP processes of a node without the network: real processes, because LMDB lets each open a file only once.

They live for the whole run, because Python starts slowly; nodes are opened and closed in them.
"""

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import msgspec

from segmentd.api.http.hot.path import HotPath
from segmentd.config import Settings
from segmentd.observability.logs import set_up_logging
from segmentd.observability.metrics import Metrics
from segmentd.replica.files import Unusable
from segmentd.replica.node import Node
from segmentd.replica.replica import MICROSECONDS
from segmentd.replica.status import ReplicaStatus, boot_time
from segmentd.serve.http_door import http_door
from segmentd.serve.wiring import open_authenticator, open_node, service
from segmentd.storage.database import Database
from segmentd.storage.replication import OwnWrite
from tests.support.asgi import JSON, Answer, Request, ask
from tests.support.commands import Piped

Json = Any


PATIENCE_S: Final = 60


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits until it becomes true."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 - another process or server makes it true
            await asyncio.sleep(0.01)


def replicas(folder: Path) -> list[Path]:
    """The files of a node's replicas, without their locks and notes."""
    return sorted(folder.glob("*.lmdb"))


class Worker:
    """Another process, in which this test's node is opened."""

    def __init__(self) -> None:
        self._process = Piped("tests.support.workers")
        self._turn = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        """Ends the process."""
        self._process.end()

    @asynccontextmanager
    async def open_node(
        self,
        database_url: str,
        folder: Path,
        *,
        patience_s: float = 3,
        access_url: str | None = None,
        **settings: Json,
    ) -> AsyncIterator["Worker"]:
        """A node's HTTP process while the context lives; it waits `patience_s` for a database that is away.

        It reads the tokens from `access_url`, if that is another database.
        """
        await self._do("open", database_url, str(folder), patience_s, access_url or database_url, settings)
        try:
            yield self
        finally:
            await self._do("close")

    async def age(self) -> int | None:
        """How old the replica is, in whole seconds; None if it may not be used."""
        age: int | None = await self._do("age")
        return age

    async def replicated(self, *user_ids: int) -> list[list[str]]:
        """The segments of users in the replica, whatever its age. Raises Unusable."""
        found: list[list[str]] = await self._do("replicated", user_ids)
        return found

    def replicated_now(self, *user_ids: int) -> list[list[str]]:
        """`replicated`, but blocking."""
        found: list[list[str]] = self._answered(("replicated", user_ids))
        return found

    async def show_user(self, user_id: int, write: OwnWrite) -> None:
        """An own write."""
        await self._do("show_user", user_id, msgspec.to_builtins(write))

    async def send(self, method: str, path: str, body: Json = None) -> Answer:
        """A request to the hot path, with the application behind it."""
        text = "" if body is None else json.dumps(body)
        status, headers, answer = await self._do("send", method, f"/api/v1/{path}", text)
        return Answer(status, headers, answer.encode())

    async def get(self, user_id: int) -> list[str]:
        """The segments of a user, by a successful request."""
        answer = await self.send("GET", f"users/{user_id}/segments")
        assert answer.status == 200, answer
        segments: list[str] = json.loads(answer.body)["segments"]
        return segments

    async def change(self, user_id: int, add: Sequence[str] = (), remove: Sequence[str] = ()) -> None:
        """A successful change."""
        answer = await self.send("POST", f"users/{user_id}/segments", {"add": [*add], "remove": [*remove]})
        assert answer.status == 200, answer

    async def _do(self, *command: Json) -> Json:
        return await asyncio.to_thread(self._answered, command)

    def _answered(self, command: Json) -> Json:
        with self._turn:
            return self._asked(command)

    def _asked(self, command: Json) -> Json:
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the process ended with {self._process.poll()}"
        answer = json.loads(line)
        if "unusable" in answer:
            raise Unusable(answer["unusable"])
        assert "error" not in answer, answer["error"]
        return answer["result"]


async def tells_its_age(worker: Worker, status: ReplicaStatus) -> bool:
    """Whether the process shows the age from the replica status, which may change meanwhile."""
    begun, shown_before = boot_time(), status.fresh_at
    age = await worker.age()
    least, most = begun - status.fresh_at, boot_time() - shown_before
    return age is not None and least // MICROSECONDS <= age <= most // MICROSECONDS


class _Opened(NamedTuple):
    stack: AsyncExitStack
    node: Node
    app: HotPath


class _Duty:
    """What the process does."""

    def __init__(self) -> None:
        self._now: _Opened | None = None

    async def do(self, name: str, *values: Json) -> Json:
        return await getattr(self, name)(*values)

    async def open(
        self, database_url: str, folder: str, patience_s: float, access_url: str, settings: Json
    ) -> None:
        stack = AsyncExitStack()
        chosen = Settings(**{"data_dir": str(Path(folder).parent)} | settings)
        with patch("segmentd.storage.database._LONGEST_WAIT_S", patience_s):
            database = await stack.enter_async_context(Database(database_url, pool_size=4))
        node = await stack.enter_async_context(open_node(database, chosen, Path(folder)))
        authenticator = await stack.enter_async_context(
            open_authenticator(access_url, chosen, Path(folder), may_be_open=True, rate_key=b"key")
        )
        door, _, _ = http_door(
            service(database, chosen, node), chosen, authenticator, node.replica, Metrics()
        )
        self._now = _Opened(stack, node, door)

    async def close(self) -> None:
        if self._now is not None:
            await self._now.stack.aclose()
            self._now = None

    async def age(self) -> int | None:
        return self._here.node.replica.age()

    async def replicated(self, user_ids: Sequence[int]) -> list[list[str]]:
        found = await self._here.node.replica.segments_of_many(user_ids)
        return [json.loads(b"[%b]" % slugs) for slugs in found]

    async def show_user(self, user_id: int, write: Json) -> None:
        self._here.node.replica.show_users([(user_id, msgspec.convert(write, OwnWrite))])

    async def send(self, method: str, path: str, text: str) -> Json:
        answer = await ask(self._here.app, Request(method, path, JSON if text else (), [text.encode()]))
        return [answer.status, answer.headers, answer.body.decode()]

    @property
    def _here(self) -> _Opened:
        assert self._now is not None
        return self._now


async def _work() -> None:
    duty = _Duty()
    lines = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async for line in lines:
        try:
            answer = {"result": await duty.do(*json.loads(line))}
        except Unusable as error:
            answer = {"unusable": str(error)}
        except Exception as error:  # noqa: BLE001 - the test shall see it
            answer = {"error": repr(error)}
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
        sys.stdout.flush()
    await duty.close()


if __name__ == "__main__":
    set_up_logging("error")
    asyncio.run(_work())
