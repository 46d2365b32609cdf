"""Clients that change users without a pause, over HTTP and gRPC, one by one, together and by imports."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import grpc

from proof.connection import Client, Json, Lost
from proof.ledger import Asked, Effect, Ledger, Told, change
from segmentd.api.grpc.generated import segmentd_pb2 as pb
from tests.support.grpc_door import stub

SLUGS: Final = [f"S{number:02}" for number in range(12)]
NO_SLUG: Final = "NOBODY_MADE_THIS"
USERS: Final = 40
TOGETHER: Final = 8
ROWS: Final = 60
# So that the ids of no two writers meet.
APART: Final = 10_000_000

# Nothing was changed: the request was bad, or it was refused before it was looked at.
_NOTHING_CHANGED: Final = {400, 401, 403, 404, 409, 413, 422, 429}
_UNCHANGED_BY_GRPC: Final = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
}


class Doors(NamedTuple):
    """Where the service is."""

    host: str
    port: int
    grpc_port: int
    token: str | None = None

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """Of calls by gRPC."""
        return [("authorization", f"Bearer {self.token}")] if self.token else []

    def client(self) -> Client:
        return Client(self.host, self.port, self.token)


class WrongAnswer(Exception):
    """An answer that no fault explains."""


class Writer:
    """One client with users of its own, so that it knows what they are in.

    Where it was not told what became of a change, it leaves the users to whom it was about.
    """

    def __init__(self, number: int, doors: Doors, ledger: Ledger, seed: int) -> None:
        self.number = number
        self.wrong: list[str] = []
        self._doors = doors
        self._client = doors.client()
        self._channel: grpc.aio.Channel | None = None
        self._ledger = ledger
        self._chance = random.Random(seed * 1000 + number)
        self._ids = itertools.count(1 + number * APART)
        self._numbers = itertools.count(1)
        self._users: dict[int, frozenset[str]] = {}

    async def write(self, pause: "Pause") -> None:
        """Changes users until it is cancelled; waits in each pause."""
        kinds: list[Callable[[str], Coroutine[Any, Any, None]]] = [self._single, self._bulk, self._import]
        kinds.append(self._grpc if self._doors.grpc_port else self._single)
        while True:
            async with pause.passed():
                reason = f"w{self.number}-{next(self._numbers)}"
                [act] = self._chance.choices(kinds, (12, 4, 1, 5))
                await act(reason)
                told = self._ledger.asked[reason].told
            if told is not Told.ACKNOWLEDGED:
                await asyncio.sleep(0.1)  # perhaps the service is away

    async def close(self) -> None:
        self._client.close()
        if self._channel is not None:
            await self._channel.close(None)

    def _some(self, count: int) -> list[int]:
        while len(self._users) < USERS:
            self._users[next(self._ids)] = frozenset()
        return self._chance.sample([*self._users], count)

    def _wish(self) -> tuple[list[str], list[str]]:
        """Segments to add and to remove; now and then one that does not exist."""
        chosen = self._chance.sample(SLUGS, self._chance.randint(1, 4))
        border = self._chance.randint(0, len(chosen))
        add, remove = chosen[:border], chosen[border:]
        if self._chance.random() < 0.04:
            add = [*add, NO_SLUG]
        return add, remove

    async def _single(self, reason: str) -> None:
        [user_id] = self._some(1)
        add, remove = self._wish()
        body = {"add": add, "remove": remove, "reason": reason}
        told, answer = await self._post(f"/api/v1/users/{user_id}/segments", body)
        self._settle(reason, [(user_id, add, remove)], told, [answer] if answer else [])

    async def _bulk(self, reason: str) -> None:
        changes = [(user_id, *self._wish()) for user_id in self._some(self._chance.randint(2, TOGETHER))]
        rows = [{"user_id": user_id, "add": add, "remove": remove} for user_id, add, remove in changes]
        told, answer = await self._post("/api/v1/changes", {"changes": rows, "reason": reason})
        self._settle(reason, changes, told, answer["changes"] if answer else [])

    async def _import(self, reason: str) -> None:
        user_ids = [next(self._ids) for _ in range(ROWS)]
        slug = self._chance.choice(SLUGS)
        content = "".join(f"{user_id}\n" for user_id in user_ids).encode()
        is_bad = self._chance.random() < 0.1
        if is_bad:
            content += b"not-a-number\n"
        path = f"/api/v1/imports?segment={slug}&reason={reason}"
        try:
            answer = await self._client.ask("POST", path, content=content, media_type="text/csv")
        except Lost as lost:
            told = Told.NOTHING if lost.sent else Told.REFUSED
        else:
            told = self._told(answer.status, 202, answer.body)
        if is_bad:
            told = Told.REFUSED  # if it is accepted, it fails because of its bad row
        effects = frozenset(Effect(user_id, slug, "add") for user_id in user_ids)
        self._ledger.note(Asked(reason, effects, told, is_import=True))

    async def _grpc(self, reason: str) -> None:
        [user_id] = self._some(1)
        add, remove = self._wish()
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(
                f"{self._doors.host}:{self._doors.grpc_port}", [("grpc.max_reconnect_backoff_ms", 500)]
            )
        request = pb.ChangeUserSegmentsRequest(
            user_id=user_id, add=[pb.Addition(slug=slug) for slug in add], remove=remove, reason=reason
        )
        answer = None
        call = stub(self._channel, "Memberships/ChangeUserSegments", pb.ChangedSegments)
        try:
            found = await call(request, timeout=30, metadata=self._doors.metadata)
            told, answer = Told.ACKNOWLEDGED, {"segments": [*found.segments]}
        except grpc.aio.AioRpcError as error:
            told = Told.REFUSED if error.code() in _UNCHANGED_BY_GRPC else Told.NOTHING
            if error.code() in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}:
                self.wrong.append(f"{reason}: {error.code().name} {error.details()}")
        self._settle(reason, [(user_id, add, remove)], told, [answer] if answer else [])

    async def _post(self, path: str, body: Json) -> tuple[Told, Json]:
        try:
            answer = await self._client.ask("POST", path, body)
        except Lost as lost:
            return (Told.NOTHING if lost.sent else Told.REFUSED), None
        told = self._told(answer.status, 200, answer.body)
        return told, answer.json() if told is Told.ACKNOWLEDGED else None

    def _told(self, status: int, good: int, body: bytes) -> Told:
        if status == good:
            return Told.ACKNOWLEDGED
        if status in _NOTHING_CHANGED:
            return Told.REFUSED
        if status != 503:
            self.wrong.append(f"{status} {body[:200]!r}")
        return Told.NOTHING

    def _settle(
        self, reason: str, changes: list[tuple[int, list[str], list[str]]], told: Told, answers: Json
    ) -> None:
        """Notes a change, and compares its answer."""
        effects: set[Effect] = set()
        for place, (user_id, add, remove) in enumerate(changes):
            after, due = change(user_id, self._users[user_id], add, remove)
            effects |= due
            if told is Told.ACKNOWLEDGED:
                self._users[user_id] = after
                if sorted(answers[place]["segments"]) != sorted(after):
                    self.wrong.append(f"{reason}: user {user_id} was answered {answers[place]['segments']}")
            elif told is Told.NOTHING:
                del self._users[user_id]
        self._ledger.note(Asked(reason, frozenset(effects), told))


class Pause:
    """Lets all writers wait between two changes."""

    def __init__(self) -> None:
        self._going = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._busy = 0
        self._going.set()

    @asynccontextmanager
    async def passed(self) -> AsyncIterator[None]:
        """For a writer: one change."""
        await self._going.wait()
        self._busy += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Nobody changes anything, and every change that was begun has its answer, or none will come."""
        self._going.clear()
        try:
            await self._idle.wait()
            yield
        finally:
            self._going.set()
