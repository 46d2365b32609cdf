"""A node that follows another one over HTTP, without a database: what it answers, and what it refuses."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from segmentd.api.grpc.generated import segmentd_pb2 as pb
from tests.support.grpc_door import stub
from tests.support.processes import PATIENCE_S, TLS, Serving, eventually, failure, run, serving
from tests.support.relay import relay_to
from tests.support.tokens import bearer

ADMIN = "segmentd_an-admin-of-both-nodes-and-long-enough"


class Caller:
    """Somebody with a token, who asks one node."""

    def __init__(self, node: Serving, secret: str = ADMIN) -> None:
        self._node = node
        self._headers = bearer(secret)

    def ask(self, method: str, path: str, body: object = None) -> httpx.Response:
        return httpx.request(
            method,
            f"{self._node.url}{path}",
            headers=self._headers,
            json=body,
            timeout=PATIENCE_S,
            verify=TLS,
        )

    def status(self, path: str) -> int:
        return self.ask("GET", path).status_code

    def reads(self, user_id: int = 1) -> list[str] | None:
        answer = self.ask("GET", f"/api/v1/users/{user_id}/segments")
        found: list[str] | None = answer.json()["segments"] if answer.status_code == 200 else None
        return found

    def add(self, user_id: int, *slugs: str) -> None:
        assert self.ask("POST", f"/api/v1/users/{user_id}/segments", {"add": [*slugs]}).status_code == 200


def answers_reads_with_its_age(far: Caller, near: Caller) -> None:
    read = far.ask("GET", "/api/v1/users/1/segments")
    assert (read.json(), int(read.headers["Age"]) < 5) == ({"segments": ["A"], "user_id": 1}, True)
    for path, body in (
        ("/api/v1/lookup", {"user_ids": [1, 2, 3]}),
        ("/ofrep/v1/evaluate/flags/A", {"context": {"targetingKey": "1"}}),
    ):
        there, here = near.ask("POST", path, body), far.ask("POST", path, body)
        assert (here.status_code, here.json()) == (200, there.json())
        assert "Age" in here.headers
    assert [far.status(path) for path in ("/livez", "/readyz", "/readyz/hot-reads")] == [200] * 3
    page = far.ask("GET", "/metrics").text
    assert "segmentd_replica_users 1.0" in page
    assert "segmentd_database_up" not in page
    assert far.status("/console/") == 404


def refuses_the_rest(far: Caller, neighbour: str) -> None:
    asked: list[tuple[str, str, Any]] = [
        ("POST", "/api/v1/users/1/segments", {"add": ["A"]}),
        ("POST", "/api/v1/segments", {"slug": "B"}),
        ("GET", "/api/v1/segments", None),
        ("GET", "/api/v1/users/1/segments?at=2026-01-01T00:00:00Z", None),
        ("GET", "/api/v1/changes", None),
        ("POST", "/api/v1/reports", {"month": "2026-01"}),
    ]
    for method, path, body in asked:
        answer = far.ask(method, path, body)
        assert answer.status_code == 501, (path, answer.text)
        problem = answer.json()
        assert (problem["type"], problem["service"]) == ("/problems/no-database", neighbour)
        assert neighbour in problem["detail"]


def commands_say_what_it_follows(folder: Path, env: Mapping[str, str], neighbour: str) -> None:
    assert f"database: none; follows {neighbour}" in run("check", cwd=folder, env=env).stdout
    assert "has no database" in failure(run("migrate", cwd=folder, env=env))
    both = {**env, "SEGMENTD_DATABASE_URL": "postgresql://somewhere/else"}
    assert "follow or database_url" in failure(run("serve", cwd=folder, env=both))


async def answers_grpc(port: int) -> None:
    known: Any = {"metadata": [("authorization", f"Bearer {ADMIN}")], "timeout": PATIENCE_S}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        read = stub(channel, "Memberships/ListUserSegments", pb.UserSegments)
        found = await read(pb.ListUserSegmentsRequest(user_id=1), wait_for_ready=True, **known)
        assert [*found.segments] == ["A"]
        listing = stub(channel, "Segments/ListSegments", pb.ListSegmentsResponse)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await listing(pb.ListSegmentsRequest(), **known)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port: int = chosen.getsockname()[1]
        return port


def environment(near: str, token_file: Path) -> Mapping[str, str]:
    token_file.write_text(ADMIN + "\n")
    return {"SEGMENTD_FOLLOW": near, "SEGMENTD_NEIGHBOUR_TOKEN_FILE": str(token_file)}


async def test_a_following_node_answers_reads_and_refuses_the_rest(database_url: str, tmp_path: Path) -> None:
    async def come(condition: Callable[[], object]) -> None:
        await asyncio.to_thread(eventually, condition)

    here = {name: tmp_path / name for name in ("near", "far", "third")}
    for folder in here.values():
        folder.mkdir()
    of_near = {"SEGMENTD_DATABASE_URL": database_url, "SEGMENTD_ADMIN_TOKEN": ADMIN}
    made = await asyncio.to_thread(
        run, "token", "create", "--role", "reader", "--name", "r", "--database-url", database_url,
        cwd=tmp_path,
    )  # fmt: skip
    with ExitStack() as stack:
        near_node = stack.enter_context(serving(cwd=here["near"], env=of_near))
        await asyncio.to_thread(near_node.ready)
        near = Caller(near_node)
        async with relay_to(near_node.url) as relay:
            neighbour = relay.url.replace("@", "")
            env = environment(neighbour, tmp_path / "token")
            grpc_port = free_port()
            doors = {**env, "SEGMENTD_GRPC_PORT": str(grpc_port)}
            far_node = stack.enter_context(serving(cwd=here["far"], env=doors))
            await asyncio.to_thread(far_node.ready)
            far, reader = Caller(far_node), Caller(far_node, made.stdout.strip())

            def create() -> None:
                assert near.ask("POST", "/api/v1/segments", {"slug": "A"}).status_code == 201
                near.add(1, "A")

            await asyncio.to_thread(create)
            await come(lambda: reader.reads() == ["A"])
            await asyncio.to_thread(answers_reads_with_its_age, far, near)
            await asyncio.to_thread(refuses_the_rest, far, neighbour)
            await answers_grpc(grpc_port)
            assert await asyncio.to_thread(Caller(far_node, "x" * 40).reads) is None

            await asyncio.to_thread(commands_say_what_it_follows, here["far"], env, neighbour)
            [worker] = [pid for pid, name in far_node.family().items() if "following_work" in name]
            os.kill(worker, signal.SIGKILL)
            await asyncio.to_thread(near.add, 2, "A")
            await come(lambda: far.reads(2) == ["A"])

            await relay.cut()
            await asyncio.to_thread(near.add, 3, "A")
            assert await asyncio.to_thread(far.reads, 2) == ["A"]
            relay.mend()
            await come(lambda: far.reads(3) == ["A"])

            revoke = ("token", "revoke", "r", "--database-url", database_url)
            assert (await asyncio.to_thread(run, *revoke, cwd=tmp_path)).returncode == 0
            await come(lambda: reader.ask("GET", "/api/v1/users/1/segments").status_code == 401)

            copying = {
                "SEGMENTD_DATABASE_URL": database_url,
                "SEGMENTD_COPY_FROM": near_node.url,
                "SEGMENTD_NEIGHBOUR_TOKEN": ADMIN,
            }
            third_node = stack.enter_context(serving(cwd=here["third"], env=copying))
            await asyncio.to_thread(third_node.ready)
            third = Caller(third_node)
            await come(lambda: "segmentd_replica_users 3.0" in third.ask("GET", "/metrics").text)
            assert "users came from the neighbour" in third_node.errors
            await asyncio.to_thread(third.add, 4, "A")
            await come(lambda: far.reads(4) == ["A"])
            assert (await asyncio.to_thread(far_node.stop)) == (0, "")
