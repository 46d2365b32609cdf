"""Callers of nodes whose PostgreSQL fails over, and what they were told."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import grpc
import httpx

from proof.node import own_port
from segmentd.api.grpc.generated import segmentd_pb2 as pb
from tests.support.grpc_door import stub
from tests.support.processes import PATIENCE_S, Serving, eventually, serving

Ids = set[int]


class Callers:
    """Writers add users to the segment A, each asking until it has an answer; others read meanwhile.

    Where the node has a gRPC door, one writes by that, and another one by imports.
    """

    def __init__(self, node: "Node", first: int, step: int) -> None:
        self._url = node.url
        self._grpc_address = node.grpc_address
        self._is_over = Event()
        self._first = first
        self._step = step
        self.asked: Ids = set()
        self.answered: Ids = set()
        self.batches: list[Ids] = []
        self.statuses: Counter[int] = Counter()
        self.codes: Counter[grpc.StatusCode] = Counter()
        self.words: set[str] = set()
        self.latest = 0.0
        self.reads: Counter[int] = Counter()
        self.ages: set[int] = set()
        self.expired = 0

    @property
    def work(self) -> list[Callable[[], None]]:
        """What each of them does until the end."""
        by_every_door = [self._write_by_grpc, self._import] if self._grpc_address else []
        return [self._write, self._write_many, self._read, self._follow, *by_every_door]

    def end(self) -> None:
        self._is_over.set()

    def _write(self) -> None:
        """One user after the other."""
        with self._client() as client:
            for user_id in range(self._first, 10**9, self._step):
                path = f"/api/v1/users/{user_id}/segments"
                if not self._insists(client, path, {"add": ["A"]}, {user_id}):
                    return

    def _write_many(self) -> None:
        """Some users at once, all or none."""
        with self._client() as client:
            for batch in self._new_batches(1, 5):
                body = {"changes": [{"user_id": user_id, "add": ["A"]} for user_id in batch]}
                if not self._insists(client, "/api/v1/changes", body, batch):
                    return

    def _import(self) -> None:
        """Lists of users; each is accepted, and then applied whole."""
        with self._client() as client:
            for batch in self._new_batches(2, 20):
                self.asked |= batch
                while not self._is_over.is_set():
                    answer = client.post(
                        "/api/v1/imports",
                        params={"segment": "A", "operation": "add"},
                        content="".join(f"{user_id}\n" for user_id in batch),
                        headers={"content-type": "text/csv"},
                    )
                    self.statuses[answer.status_code] += 1
                    if answer.status_code == 202:
                        self.answered |= batch
                        break
                    self._is_over.wait(0.05)
                if self._is_over.wait(0.2):
                    return

    def _new_batches(self, door: int, size: int) -> Iterator[Ids]:
        for begin in range(door * 10**9 + self._first, (door + 1) * 10**9, 2 * size * self._step):
            batch = {begin + self._step * number for number in range(size)}
            self.batches.append(batch)
            yield batch

    def _write_by_grpc(self) -> None:
        """One user after the other."""
        with grpc.insecure_channel(self._grpc_address, [("grpc.max_reconnect_backoff_ms", 500)]) as channel:
            call = stub(channel, "Memberships/ChangeUserSegments", pb.ChangedSegments)
            for user_id in range(3 * 10**9 + self._first, 4 * 10**9, self._step):
                self.asked.add(user_id)
                request = pb.ChangeUserSegmentsRequest(user_id=user_id, add=[pb.Addition(slug="A")])
                while not self._is_over.is_set():
                    try:
                        call(request, timeout=PATIENCE_S)
                    except grpc.RpcError as error:
                        self.codes[error.code()] += 1
                        self._is_over.wait(0.05)
                    else:
                        self.answered.add(user_id)
                        break
                if self._is_over.is_set():
                    return

    def _insists(self, client: httpx.Client, path: str, body: object, user_ids: Ids) -> bool:
        """False at the end."""
        self.asked |= user_ids
        while not self._is_over.is_set():
            answer = client.post(path, json=body)
            self.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                self.answered |= user_ids
                self.latest = time.monotonic()
                return True
            assert "retry-after" in answer.headers
            self.words.add(answer.json()["detail"])
            self._is_over.wait(0.05)
        return False

    def _read(self) -> None:
        with self._client() as client:
            while not self._is_over.wait(0.02):
                answer = client.get("/api/v1/users/1/segments")
                self.reads[answer.status_code] += 1
                self.ages.add(int(answer.headers.get("age", -1)))

    def _follow(self) -> None:
        after = "now"
        with self._client() as client:
            while not self._is_over.wait(0.02):
                answer = client.get("/api/v1/changes", params={"after": after})
                self.expired += answer.status_code == 410
                if answer.status_code == 200:
                    after = answer.json()["next"]
                elif answer.status_code == 410:
                    after = "now"

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self._url, timeout=PATIENCE_S)


@contextmanager
def running(*work: Callable[[], None]) -> Iterator[None]:
    """Does all of it at once."""
    raised: list[BaseException] = []

    def kept(each: Callable[[], None]) -> None:
        try:
            each()
        except BaseException as error:  # noqa: BLE001 - raised at the end
            raised.append(error)

    threads = [Thread(target=kept, args=(each,)) for each in work]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()
    assert raised == []


class Node:
    """A node that runs."""

    def __init__(self, service: Serving, grpc_address: str = "") -> None:
        self.url = service.url
        self.grpc_address = grpc_address
        """Empty if it has no gRPC door."""
        self._client = httpx.Client(base_url=f"{service.url}/api/v1", timeout=PATIENCE_S)

    def get(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 - JSON
        """The answer to a call that succeeds, or does so the next time."""
        return self._answer(path, parameters).json()

    def _answer(self, path: str, parameters: Mapping[str, str]) -> httpx.Response:
        answer = self._client.get(path, params=parameters)
        if answer.status_code == 503:  # by a connection that lay idle when PostgreSQL went
            answer = self._client.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer

    def close(self) -> None:
        self._client.close()

    def post(self, path: str, body: object) -> httpx.Response:
        return self._client.post(path, json=body)

    def position(self) -> str:
        """The present position of the feed."""
        return str(self.get("/changes", after="now")["next"])

    def changes(self, after: str) -> list[Mapping[str, Any]]:
        """All changes since a position."""
        found: list[Mapping[str, Any]] = []
        while page := self.get("/changes", after=after, limit="1000"):
            found += page["changes"]
            if not page["changes"]:
                return found
            after = page["next"]
        return found

    def members(self) -> Ids:
        """Those whom PostgreSQL has in A."""
        answer = self._answer("/segments/A/export", {"format": "ndjson"})
        return {int(line.split('"user_id":')[1].split(",")[0]) for line in answer.text.splitlines()}

    def replicated(self, user_ids: Ids) -> Ids:
        """Those whom hot reads have in A."""
        found: Ids = set()
        for begin in range(0, len(user_ids), 1000):
            batch = sorted(user_ids)[begin : begin + 1000]
            answer = self._client.post("/lookup", json={"user_ids": batch})
            found |= {each["user_id"] for each in answer.json()["users"] if "A" in each["segments"]}
        return found

    def reported(self) -> Ids:
        """Those whom the report of this month has in A."""
        order = {"month": f"{datetime.now(UTC):%Y-%m}", "segment": "A"}
        answer = self._client.post("/reports", json=order, headers={"prefer": "wait=60"})
        assert answer.json()["status"] == "done", answer.text
        lines = self._client.get(answer.json()["url"]).text.splitlines()
        return {int(line.split(";")[0]) for line in lines}

    def imports_are_over(self) -> bool:
        """Whether nothing is done any more for the latest hundred imports; some may have been cut off."""
        found = {each["status"] for each in self.get("/imports", limit="100")["imports"]}
        return found.isdisjoint({"checking", "applying"})

    def metric(self, name: str) -> float:
        page = httpx.get(f"{self.url}/metrics", timeout=PATIENCE_S).text
        return float(page.split(f"\n{name} ")[1].split("\n")[0])


@contextmanager
def node_of(database_url: str, folder: Path, *, has_grpc: bool = False) -> Iterator[Node]:
    """A node with the segment A, and user 1 in it."""
    folder.mkdir()
    store = folder.parent / "reports"
    store.mkdir(exist_ok=True)
    port = own_port() if has_grpc else 0
    flags = ("--database-url", database_url, "--report-store", store.as_uri())
    # One caller brings more lists at a time than one is usually allowed to.
    env = {"SEGMENTD_GRPC_PORT": str(port), "SEGMENTD_IMPORTS_PER_CALLER": "10000"}
    with serving(*flags, cwd=folder, env=env) as service:
        node = Node(service.ready(), f"127.0.0.1:{port}" if has_grpc else "")
        assert node.post("/segments", {"slug": "A"}).status_code in {201, 409}
        assert node.post("/users/1/segments", {"add": ["A"]}).status_code == 200
        eventually(lambda: node.metric("segmentd_replica_users") >= 1)
        try:
            yield node
        finally:
            node.close()
