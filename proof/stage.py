"""A node, its PostgreSQL, relays before both, and those who use it, for faults of every kind."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psycopg

from proof.company import Company
from proof.connection import Client, Lost
from proof.ledger import Asked, Effect, Told
from proof.node import Node, running_node
from proof.writers import SLUGS
from segmentd.domain.access import Role
from segmentd.domain.errors import SegmentdError
from segmentd.storage import embedded
from segmentd.storage.database import Database
from tests.support.processes import descendants, processes
from tests.support.relay import Relay, relay_to
from tests.support.tokens import new_token, revoke

_WRITERS: Final = 8
_SETTLED: Final = range(1, 21)
_LONGEST_READ_S: Final = 10.0
_REVOKED_WITHIN_S: Final = 15.0
_PATIENCE_S: Final = 180.0


class Server:
    """A PostgreSQL of its own, which is stopped and started behind the node's back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: embedded.EmbeddedPostgres | None = None

    @property
    def url(self) -> str:
        """Its URL while it runs."""
        assert self._running is not None  # noqa: S101 - it was started
        return self._running.url

    async def start(self) -> None:
        self._running = await asyncio.to_thread(embedded.start, self.folder, 200)

    async def stop(self) -> None:
        if self._running is not None:
            await asyncio.to_thread(self._running.stop)

    def is_running(self) -> bool:
        return self._running is not None and self._running.is_running()

    def pids(self) -> list[int]:
        """All its processes."""
        pgdata = f"-D {self.folder / 'postgres'}"
        [postmaster] = [pid for pid, (_, command) in processes().items() if pgdata in command][:1] or [0]
        return [postmaster, *descendants(postmaster)] if postmaster else []


class Stage:
    """What the faults are done to."""

    def __init__(self, node: Node, server: Server, database: Relay, door: Relay, token: str) -> None:
        self.node = node
        self.server = server
        self.database = database
        """Between the node and PostgreSQL."""
        self.door = door
        """Between the writers and the node."""
        self.token = token

    def client(self) -> Client:
        """One that is not led through the relay."""
        return Client(self.node.doors.host, self.node.doors.port, self.token)

    async def restart_postgres(self) -> None:
        """It is then led to by the relay again."""
        await self.server.stop()
        await self.server.start()
        self.database.lead_to(self.server.url)


class Reader:
    """Reads users whom nobody changes, and fails with the first answer that is not the right one."""

    def __init__(self, stage: Stage) -> None:
        self._client = stage.client()
        self.answered = 0
        self.slowest_s = 0.0
        self.wrong: list[str] = []

    async def read(self) -> None:
        """Until it is cancelled."""
        while True:
            for user_id in _SETTLED:
                begun = time.monotonic()
                try:
                    answer = await self._client.ask("GET", f"/api/v1/users/{user_id}/segments")
                except Lost:
                    self.wrong.append("a hot read had no answer")
                else:
                    if (answer.status, answer.body[-8:]) != (200, b'["S00"]}'):
                        self.wrong.append(f"a hot read was answered {answer.status} {answer.body[:200]!r}")
                    self.answered += 1
                took = time.monotonic() - begun
                self.slowest_s = max(self.slowest_s, took)
                if took > _LONGEST_READ_S:
                    self.wrong.append(f"a hot read took {took:.1f} s")
                await asyncio.sleep(0.02)

    def close(self) -> None:
        self._client.close()


class Victim:
    """A caller whose token is revoked while the fault lasts."""

    def __init__(self, stage: Stage, name: str) -> None:
        self._stage = stage
        self._name = name
        self._secret = ""

    async def begin(self) -> None:
        async with Database(self._stage.server.url, pool_size=1) as database:
            self._secret = await new_token(database, self._name)

    async def be_revoked(self) -> None:
        """As soon as the database can be reached by its own address."""
        while True:
            with suppress(SegmentdError, psycopg.Error):
                async with Database(self._stage.server.url, pool_size=1) as database:
                    await revoke(database, self._name)
                    return
            await asyncio.sleep(0.5)

    async def wrong(self) -> list[str]:
        """Whether the token still opens anything, some time after the fault."""
        deadline = time.monotonic() + _REVOKED_WITHIN_S
        doors = self._stage.node.doors
        refused = 0
        while refused < 6:
            client = Client(doors.host, doors.port, self._secret)
            try:
                status = (await client.ask("GET", "/api/v1/users/1/segments")).status
            except Lost:
                status = 0
            finally:
                client.close()
            refused = refused + 1 if status == 401 else 0
            if status != 401:
                if time.monotonic() > deadline:
                    return [f"a revoked token is answered {status}"]
                await asyncio.sleep(0.2)
        return []


@asynccontextmanager
async def stage_in(folder: Path, pg_folder: Path) -> AsyncIterator[tuple[Stage, Company]]:
    """All of it, with writers at work; the data of PostgreSQL is in a folder that may be on a small disk."""
    async with AsyncExitStack() as stack:
        server = Server(pg_folder)
        await server.start()
        stack.push_async_callback(server.stop)
        database = await stack.enter_async_context(relay_to(server.url))
        env = {
            "SEGMENTD_DATABASE_URL": database.url,
            "SEGMENTD_RECEIVE_SECONDS": "4",
            "SEGMENTD_POOL_SIZE": "5",
        }
        node = await stack.enter_async_context(running_node(folder, env))
        door = await stack.enter_async_context(relay_to(f"http://{node.doors.host}:{node.doors.port}"))
        async with Database(server.url, pool_size=1) as own:
            token = await new_token(own, "writers", Role.EDITOR)
        through = node.doors._replace(port=urlsplit(door.url).port or 0, token=token)
        stage = Stage(node, server, database, door, token)
        users = Company(through, lambda: server.url, _WRITERS, 1)
        stack.push_async_callback(users.close)
        await _settle(stage, users)
        yield stage, users


async def _settle(stage: Stage, users: Company) -> None:
    client = stage.client()
    for user_id in _SETTLED:
        reason = f"settled-{user_id}"
        body = {"add": [SLUGS[0]], "reason": reason}
        while True:  # the processes learn of the first token within a second
            answer = await client.ask("POST", f"/api/v1/users/{user_id}/segments", body)
            if answer.status == 200:
                break
            await asyncio.sleep(0.2)
        users.ledger.note(Asked(reason, frozenset({Effect(user_id, SLUGS[0], "add")}), Told.ACKNOWLEDGED))
    client.close()


async def all_answer(stage: Stage, kinds: Sequence[str] = ("segments", "users/1/history")) -> None:
    """Returns when the node answers from the database again."""
    client = stage.client()
    async with asyncio.timeout(_PATIENCE_S):
        good = 0
        while good < 6:
            client.close()
            statuses = set()
            for kind in kinds:
                try:
                    statuses.add((await client.ask("GET", f"/api/v1/{kind}")).status)
                except Lost:
                    statuses.add(0)
            good = good + 1 if statuses == {200} else 0
            if statuses != {200}:
                await asyncio.sleep(0.2)
    client.close()
