"""Clients of two nodes, by every door, whose requests and answers are recorded with their times."""

import itertools
import random
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from proof.checking import FeedEvent, History, Read, Segments, Write
from proof.connection import Client, Json, Lost
from proof.writers import Doors
from segmentd.api.grpc.generated import segmentd_pb2 as pb
from tests.support.grpc_door import stub

# So many that a state of a user hardly ever comes again: a read then has one place among the writes.
SLUGS: Final = [f"T{number:02}" for number in range(24)]
_TOGETHER: Final = 3
_LOOKED_UP: Final = 5


@dataclass
class Recording:
    """What was recorded."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    operations: int = 0
    failed_reads: int = 0
    """Reads that had no answer, or 503."""
    wrong: list[str] = field(default_factory=list)

    def history(self, feeds: dict[str, list[FeedEvent]]) -> History:
        return History(self.writes, self.reads, feeds)


class Recorder:
    """One client of all nodes; it asks one after the other, and mostly does not care which."""

    def __init__(
        self, name: str, nodes: dict[str, Doors], users: int, recording: Recording, chance: random.Random
    ) -> None:
        self._name = name
        self._users = users
        self._recording = recording
        self._chance = chance
        self._numbers = itertools.count(1)
        self._clients: dict[str, Client] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._tags: dict[tuple[str, int], tuple[str, Segments]] = {}
        self.asking: str | None = None
        """The node that is asked at the moment."""
        self.nodes: set[str] = set()
        """Those that it asks from now on."""
        for node, doors in nodes.items():
            self.join(node, doors)

    def join(self, node: str, doors: Doors) -> None:
        """From now on it asks this node too."""
        self._clients[node] = doors.client()
        self._channels[node] = grpc.aio.insecure_channel(
            f"{doors.host}:{doors.grpc_port}", [("grpc.max_reconnect_backoff_ms", 500)]
        )
        self.nodes.add(node)

    async def work(self, over: Callable[[], bool]) -> None:
        """Asks until it is over."""
        acts: list[tuple[Callable[[str], Coroutine[Any, Any, None]], int]] = [
            (self._change, 18),
            (self._change_by_grpc, 6),
            (self._change_many, 6),
            (self._read, 28),
            (self._look_up, 10),
            (self._read_by_grpc, 8),
            (self._look_up_by_grpc, 4),
            (self._evaluate, 8),
            (self._evaluate_all, 8),
            (self._read_database, 4),
        ]
        while not over():
            [act] = self._chance.choices([act for act, _ in acts], [weight for _, weight in acts])
            self.asking = self._chance.choice(sorted(self.nodes))
            try:
                await act(self.asking)
            except Lost:
                self._recording.failed_reads += 1
            finally:
                self._recording.operations += 1
                self.asking = None

    async def close(self) -> None:
        for client in self._clients.values():
            client.close()
        for channel in self._channels.values():
            await channel.close(None)

    def _user(self) -> int:
        return self._chance.randint(1, self._users)

    def _wish(self) -> tuple[Segments, Segments]:
        chosen = self._chance.sample(SLUGS, self._chance.randint(1, 4))
        border = self._chance.randint(0, len(chosen))
        return frozenset(chosen[:border]), frozenset(chosen[border:])

    def _reason(self) -> str:
        return f"{self._name}-{next(self._numbers)}"

    # Writes.

    async def _change(self, node: str) -> None:
        user_id, (add, remove), reason = self._user(), self._wish(), self._reason()
        body = {"add": [*add], "remove": [*remove], "reason": reason}
        await self._write(node, f"/api/v1/users/{user_id}/segments", body, {user_id: (add, remove)}, reason)

    async def _change_many(self, node: str) -> None:
        wishes = {
            user_id: self._wish()
            for user_id in self._chance.sample(range(1, self._users + 1), min(_TOGETHER, self._users))
        }
        rows = [
            {"user_id": user_id, "add": [*add], "remove": [*remove]}
            for user_id, (add, remove) in wishes.items()
        ]
        reason = self._reason()
        await self._write(node, "/api/v1/changes", {"changes": rows, "reason": reason}, wishes, reason)

    async def _write(
        self, node: str, path: str, body: Json, wishes: dict[int, tuple[Segments, Segments]], reason: str
    ) -> None:
        begin = time.monotonic()
        answers: list[Json] = []
        try:
            answer = await self._clients[node].ask("POST", path, body)
        except Lost as lost:
            if not lost.sent:
                return
        else:
            self._expect(answer.status, path, answer.body)
            if answer.status == 200:
                answers = answer.json().get("changes") or [answer.json()]
            elif answer.status != 503:
                return
        self._note(node, begin, wishes, answers, reason)

    async def _change_by_grpc(self, node: str) -> None:
        user_id, (add, remove), reason = self._user(), self._wish(), self._reason()
        request = pb.ChangeUserSegmentsRequest(
            user_id=user_id, add=[pb.Addition(slug=slug) for slug in add], remove=remove, reason=reason
        )
        begin = time.monotonic()
        call = stub(self._channels[node], "Memberships/ChangeUserSegments", pb.ChangedSegments)
        answers: list[Json] = []
        try:
            found = await call(request, timeout=30)
            answers = [
                {
                    "user_id": user_id,
                    "segments": [*found.segments],
                    "added": [*found.added],
                    "removed": [*found.removed],
                }
            ]
        except grpc.aio.AioRpcError as error:
            self._expect_grpc(error)
        self._note(node, begin, {user_id: (add, remove)}, answers, reason)

    def _note(
        self,
        node: str,
        begin: float,
        wishes: dict[int, tuple[Segments, Segments]],
        answers: list[Json],
        reason: str,
    ) -> None:
        end = time.monotonic()
        after = {answer["user_id"]: frozenset(answer["segments"]) for answer in answers}
        changed = {answer["user_id"]: frozenset([*answer["added"], *answer["removed"]]) for answer in answers}
        self._recording.writes += [
            Write(
                *(user_id, node, begin, end, add, remove),
                after=after.get(user_id),
                reason=reason,
                changed=changed.get(user_id),
            )
            for user_id, (add, remove) in wishes.items()
        ]

    # Reads.

    async def _read(self, node: str) -> None:
        user_id = self._user()
        begin = time.monotonic()
        answer = await self._clients[node].ask("GET", f"/api/v1/users/{user_id}/segments")
        if self._is_read(answer.status, "a read", answer.body):
            self._seen(node, "GET", begin, {user_id: answer.json()["segments"]}, answer.age)

    async def _read_database(self, node: str) -> None:
        user_id = self._user()
        begin = time.monotonic()
        answer = await self._clients[node].ask("GET", f"/api/v1/users/{user_id}/segments?detail=true")
        if self._is_read(answer.status, "a detailed read", answer.body):
            slugs = [each["slug"] for each in answer.json()["segments"]]
            self._seen(node, "detail", begin, {user_id: slugs}, 0, from_database=True)

    async def _look_up(self, node: str) -> None:
        asked = self._chance.sample(range(1, self._users + 1), min(_LOOKED_UP, self._users))
        begin = time.monotonic()
        answer = await self._clients[node].ask("POST", "/api/v1/lookup", {"user_ids": asked})
        if self._is_read(answer.status, "a lookup", answer.body):
            found = {each["user_id"]: each["segments"] for each in answer.json()["users"]}
            self._seen(node, "lookup", begin, found, answer.age)

    async def _read_by_grpc(self, node: str) -> None:
        user_id = self._user()
        begin = time.monotonic()
        request = pb.ListUserSegmentsRequest(user_id=user_id)
        found = await self._called(node, "Memberships/ListUserSegments", pb.UserSegments, request)
        if found is not None:
            self._seen(node, "gRPC", begin, {user_id: found.segments}, found.age.seconds)

    async def _look_up_by_grpc(self, node: str) -> None:
        asked = self._chance.sample(range(1, self._users + 1), min(_LOOKED_UP, self._users))
        begin = time.monotonic()
        request = pb.LookUpRequest(user_ids=asked)
        found = await self._called(node, "Memberships/LookUp", pb.LookUpResponse, request)
        if found is not None:
            users = {each.user_id: each.segments for each in found.users}
            self._seen(node, "lookup by gRPC", begin, users, found.age.seconds)

    async def _called(self, node: str, method: str, answer: type[Any], request: object) -> Any:  # noqa: ANN401
        """The answer to a read by gRPC; None if it failed as reads may."""
        try:
            return await stub(self._channels[node], method, answer)(request, timeout=30)
        except grpc.aio.AioRpcError as error:
            self._recording.failed_reads += 1
            self._expect_grpc(error)
            return None

    async def _evaluate(self, node: str) -> None:
        user_id, slug = self._user(), self._chance.choice(SLUGS)
        begin = time.monotonic()
        answer = await self._clients[node].ask("POST", f"/ofrep/v1/evaluate/flags/{slug}", _context(user_id))
        if self._is_read(answer.status, "a flag", answer.body):
            on = [slug] if answer.json()["value"] else []
            self._seen(node, "flag", begin, {user_id: on}, answer.age, only=slug)

    async def _evaluate_all(self, node: str) -> None:
        user_id = self._user()
        tag, before = self._tags.get((node, user_id), ("", frozenset()))
        headers = f"if-none-match: {tag}\r\n" if tag else ""
        begin = time.monotonic()
        answer = await self._clients[node].ask(
            "POST", "/ofrep/v1/evaluate/flags", _context(user_id), headers=headers
        )
        if answer.status == 304:
            self._seen(node, "flags, not modified", begin, {user_id: before}, answer.age)
        elif self._is_read(answer.status, "flags", answer.body):
            on = frozenset(flag["key"] for flag in answer.json()["flags"] if flag["value"])
            self._tags[node, user_id] = answer.headers["etag"], on
            self._seen(node, "flags", begin, {user_id: on}, answer.age)

    def _seen(
        self,
        node: str,
        door: str,
        begin: float,
        found: dict[int, Iterable[str]],
        age: int,
        only: str | None = None,
        *,
        from_database: bool = False,
    ) -> None:
        end = time.monotonic()
        self._recording.reads += [
            Read(user_id, self._name, node, door, begin, end, frozenset(slugs), age, only, from_database)
            for user_id, slugs in found.items()
        ]

    def _expect(self, status: int, what: str, body: bytes) -> bool:
        """Whether it is an answer; 503 is none, and all else is wrong."""
        if status not in {200, 503}:
            self._recording.wrong.append(f"{what} was answered {status} {body[:200]!r}")
        return status == 200

    def _is_read(self, status: int, what: str, body: bytes) -> bool:
        self._recording.failed_reads += status != 200
        return self._expect(status, what, body)

    def _expect_grpc(self, error: grpc.aio.AioRpcError) -> None:
        if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
            self._recording.wrong.append(f"gRPC answered {error.code().name} {error.details()}")


def _context(user_id: int) -> Json:
    return {"context": {"targetingKey": str(user_id)}}


async def feed_of(client: Client) -> list[FeedEvent]:
    """The whole feed, from its beginning."""
    events: list[FeedEvent] = []
    position = "begin"
    while True:
        answer = await client.ask("GET", f"/api/v1/changes?after={position}&limit=1000")
        page = answer.json()
        if answer.status != 200 or (not page["changes"] and page["next"] == position):
            return events
        position = page["next"]
        events += [
            FeedEvent(each["user_id"], each["segment"], each["operation"] == "add", each["reason"])
            for each in page["changes"]
            if each["kind"] == "membership"
        ]
        if not page["changes"]:
            return events
