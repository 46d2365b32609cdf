"""Where the time of a hot read goes: `python -m bench.profiling [--size USERS] [--profile]`.

It calls the application in a loop without a server, on a replica of made-up data, and then its steps alone.
The rest of a request's time in the hot-read row is the server, the kernel and the client.
Times are processor times, so that a busy machine changes them little.
"""

import asyncio
import cProfile
import math
import pstats
import struct
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final, cast

import msgspec
from litestar.types import HTTPScope, Message, Receive, Scope, Send
from litestar.types.asgi_types import HTTPRequestEvent, ReceiveMessage
from rich.console import Console
from rich.table import Table

from bench.population import OVERRIDES, Calendar, batches, segments
from segmentd.api.http.edge.request_ids import RequestIds
from segmentd.api.http.hot.calls import HotCalls
from segmentd.api.http.hot.path import HotPath
from segmentd.api.http.hot.plain import USER_SEGMENTS
from segmentd.auth.authenticator import AccessRules, Authenticator
from segmentd.domain.access import ANONYMOUS, Principal
from segmentd.domain.bucketing import BUCKETS
from segmentd.observability.metrics import Metrics
from segmentd.observability.tally import Tally
from segmentd.replica.catalog import CatalogState
from segmentd.replica.environment import FORMAT
from segmentd.replica.replica import Replica, store_path
from segmentd.replica.states import EXCLUDED, HAS_TERM
from segmentd.replica.status import boot_time
from segmentd.replica.store import Store
from segmentd.storage.database import Database
from segmentd.storage.replication import ReplicatedSegment

_CALLS: Final = 10_000
_LOOKUPS: Final = 20
_LOOKUP_USERS: Final = 1000
_SEED: Final = 1
_UNIX_2000: Final = 946_684_800_000_000


@contextmanager
def replica_of_made_up_data(folder: Path, users: int) -> Iterator[Replica]:
    """A fresh replica with so many users, built without a database."""
    now = datetime.now(UTC)
    with closing(Store(store_path(folder, 1))) as store:
        living = [
            ReplicatedSegment(
                each.id, each.slug, each.salt, None if each.percent is None else each.percent * BUCKETS // 100
            )
            for each in segments(_SEED)
        ]
        store.put_catalog(CatalogState(1, living))
        for _, overrides in batches(users, Calendar.before(now), _SEED):
            columns = [column.reshape(-1, OVERRIDES).tolist() for column in overrides]
            store.append(
                (ids[0].to_bytes(8, "big"), _state(*rest)) for ids, *rest in zip(*columns, strict=True)
            )
        store.put([], [(b"format", FORMAT)])
    with closing(Replica(folder, 60)) as replica:
        replica.status.clock_offset = int(now.timestamp() * 1_000_000) - boot_time()
        replica.status.serving = 1
        replica.status.fresh_at = boot_time()
        yield replica


def _state(segment_ids: list[int], included: list[bool], _: list[int], until: list[int]) -> bytes:
    words = [
        segment_id + (0 if inside else EXCLUDED) + (HAS_TERM if end else 0)
        for segment_id, inside, end in zip(segment_ids, included, until, strict=True)
    ]
    ends = [end + _UNIX_2000 for end in until if end]
    return struct.pack(f">Q{len(words)}I{len(ends)}q", (1 << 20) + len(words), *words, *ends)


class Client:
    """Calls an ASGI application and counts the bytes of its answers."""

    def __init__(self, app: HotPath) -> None:
        self._app = app
        self.received = 0

    async def get(self, path: str) -> None:
        await self._app(_scope("GET", path), _nothing, self._take)

    async def post(self, path: str, body: bytes) -> None:
        async def receive() -> ReceiveMessage:
            return HTTPRequestEvent(type="http.request", body=body, more_body=False)

        await self._app(_scope("POST", path), receive, self._take)

    async def _take(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self.received += len(message["body"])


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    del receive, send
    raise ValueError(f"the hot path did not answer {scope['type']}")


async def _nothing() -> ReceiveMessage:
    return HTTPRequestEvent(type="http.request", body=b"", more_body=False)


def _scope(method: str, path: str) -> HTTPScope:
    headers = [(b"host", b"bench"), (b"content-type", b"application/json")]
    return cast(
        HTTPScope,
        {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": headers,
        },
    )


async def _reads(client: Client, user_ids: list[int]) -> None:
    for user_id in user_ids:
        await client.get(f"/api/v1/users/{user_id}/segments")


async def _lookups(client: Client, bodies: list[bytes]) -> None:
    for body in bodies:
        await client.post("/api/v1/lookup", body)


def _count(tally: Tally, durations: list[int]) -> None:
    for nanoseconds in durations:
        tally.add(nanoseconds)
    tally.flush()


def main() -> None:
    """Prints microseconds a call, and on request what cProfile says."""
    parser = ArgumentParser("python -m bench.profiling")
    parser.add_argument("--size", type=int, default=200_000, help="users")
    parser.add_argument("--profile", action="store_true", help="with cProfile, which slows everything down")
    options = parser.parse_args()
    chance = Random(_SEED)
    user_ids = [chance.randint(1, options.size) for _ in range(_CALLS)]
    bodies = [
        msgspec.json.encode({"user_ids": [chance.randint(1, options.size) for _ in range(_LOOKUP_USERS)]})
        for _ in range(_LOOKUPS)
    ]
    with (
        TemporaryDirectory(prefix="segmentd-bench-") as name,
        replica_of_made_up_data(Path(name), options.size) as replica,
    ):
        client = Client(_open_hot_path(replica))
        tally = Metrics().tally("GET", USER_SEGMENTS, "200")
        durations = [chance.randint(5_000, 50_000) for _ in range(_CALLS)]
        made = Table("step", "µs", "calls/s")
        steps: dict[str, tuple[Callable[[], object], int]] = {
            "hot read, ASGI": (lambda: asyncio.run(_reads(client, user_ids)), _CALLS),
            "lookup of 1,000, a user": (
                lambda: asyncio.run(_lookups(client, bodies)),
                _LOOKUPS * _LOOKUP_USERS,
            ),
            "age": (lambda: [replica.age() for _ in user_ids], _CALLS),
            "tally of a hot read": (lambda: _count(tally, durations), _CALLS),
            "slugs of a user": (lambda: [replica.segments(user_id) for user_id in user_ids], _CALLS),
        }
        for step, (work, calls) in steps.items():
            seconds = min(_seconds(work) for _ in range(7))
            made.add_row(step, f"{seconds / calls * 1e6:.2f}", f"{calls / seconds:,.0f}")
        Console().print(made)
        if options.profile:
            with cProfile.Profile() as profile:
                asyncio.run(_reads(client, user_ids))
            pstats.Stats(profile).sort_stats("tottime").print_stats(20)


class _OpenToAll(Authenticator):
    """Lets everybody in, without a database."""

    def admit(self, authorization: bytes | None) -> Principal:
        del authorization
        return ANONYMOUS


def _open_hot_path(replica: Replica) -> HotPath:
    """The hot path of a service that everybody may call, without a database."""
    rules = AccessRules(may_be_open=True, bound_seconds=math.inf)
    return HotPath(_refuse, HotCalls(replica, _OpenToAll(Database(""), rules), RequestIds(), Metrics()))


def _seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


if __name__ == "__main__":
    main()
