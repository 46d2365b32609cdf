"""What the rows share: the plan of a run, one PostgreSQL, the loaded databases, a node on the larger one."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cached_property
from http.client import HTTPConnection
from pathlib import Path
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from bench.loading import Progress, load_events, load_more_segments, load_users
from bench.nodes import Node, node
from bench.pgbench import make_tpcb
from bench.population import USUAL, Calendar, Shape
from bench.programs import BenchError
from segmentd.storage import embedded
from segmentd.storage.migrate import migrate

SEED: Final = 20261121
POOL_SIZE: Final = 8
MANY_SEGMENTS: Final = 10_000
SHAPED_USERS: Final = 200_000


class Plan(NamedTuple):
    """How much a run does."""

    size: int
    """Users."""
    rounds: int
    seconds: float
    """How long a server is under load in each round."""
    small_size: int
    """Users of the small database, against which growth is measured."""
    shaped_size: int
    """Users of each database whose segments are of another shape."""
    events: int
    """Events in the month of the report."""
    writes: int
    """Writes of each round whose way to another node is timed."""
    requests: int
    """Requests between the two measurements of the HTTP workers' memory."""
    pairs: int
    """Pairs of a new node with metrics and a new one without, which are compared."""

    @classmethod
    def usual(cls, size: int, rounds: int) -> "Plan":
        """Ten minutes on two cores for a million users."""
        return cls(
            size,
            rounds,
            5.0,
            min(100_000, size),
            min(SHAPED_USERS, size),
            min(5_000_000, 5 * size),
            200,
            1_000_000,
            2 * rounds,
        )

    @classmethod
    def quick(cls, size: int, rounds: int) -> "Plan":
        """Two minutes: to check that everything works, not to judge figures."""
        return cls(size, rounds, 2.0, max(1, size // 10), max(1, size // 10), 2 * size, 50, 50_000, 1)


class Lab:
    """Each part is made when it is first used, and removed at the end of the context."""

    def __init__(self, plan: Plan, folder: Path, say: Progress) -> None:
        self.plan = plan
        self.folder = folder
        self.say = say
        self.calendar = Calendar.before(datetime.now(UTC))
        self._undo = ExitStack()
        self._seeds = iter(range(1, 1_000_000))
        self._shaped: dict[str, str] = {}
        self.top_rate: float | None = None
        """The rate of the hot read, once it is measured."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._undo.close()

    def next_seed(self) -> int:
        """A new one for each call; every run has the same sequence."""
        return next(self._seeds)

    @cached_property
    def server_url(self) -> str:
        """The embedded PostgreSQL as `segmentd serve` starts it, on a real disk with fsync."""
        self.say("starting PostgreSQL")
        server = embedded.start(self.folder / "postgres")
        self._undo.callback(server.stop)
        return server.url

    @cached_property
    def database_url(self) -> str:
        """A database with all the plan's users."""
        return self._loaded("bench_all", self.plan.size)

    @cached_property
    def database_with_events(self) -> str:
        """The same database, with the month of events."""
        load_events(self.database_url, self.plan.events, self.plan.size, self.calendar, SEED, self.say)
        return self.database_url

    @cached_property
    def node(self) -> Node:
        """A node on the database with all users, with a worker for each core, answering from its replica."""
        return self._undo.enter_context(self.node_on(self.database_url, "node"))

    @contextmanager
    def node_on(
        self, database_url: str, name: str, workers: int = 0, flags: Sequence[str] = ()
    ) -> Iterator[Node]:
        """A new node that answers from its replica."""
        self.say(f"starting {name}")
        with node(
            self.folder / name, database_url=database_url, workers=workers, pool_size=POOL_SIZE, flags=flags
        ) as started:
            self.say(f"{name} builds its replica")
            started.wait_for_replica()
            yield started

    @cached_property
    def small_database_url(self) -> str:
        """A database with few users."""
        return self._loaded("bench_small", self.plan.small_size)

    @cached_property
    def database_with_many_segments(self) -> str:
        """A database with the same few users, and with many more segments that nobody is in."""
        url = self._loaded("bench_segments", self.plan.small_size)
        load_more_segments(url, MANY_SEGMENTS, self.calendar)
        return url

    @cached_property
    def tpcb_url(self) -> str:
        """A database with the tables of pgbench's TPC-B."""
        self.say("making the tables of TPC-B")
        url = self.made("bench_tpcb")
        make_tpcb(url)
        return url

    @contextmanager
    def small_node(self) -> Iterator[Node]:
        """A node on a database with few users."""
        with self.node_on(self.small_database_url, "small node") as started:
            yield started

    def body_sample(self) -> bytes:
        """An answer of the hot read of about the average length."""
        return average_body(self.node, self.plan.size)

    def migrated(self, name: str) -> str:
        """A new database with an empty schema."""
        url = self.made(name)
        asyncio.run(migrate(url))
        return url

    @contextmanager
    def node_of_shape(self, name: str, shape: Shape) -> Iterator[Node]:
        """A node on a database with few users and data of another shape, which are loaded once."""
        if name not in self._shaped:
            self._shaped[name] = self._loaded(f"bench_{name}", self.plan.shaped_size, shape)
        with self.node_on(self._shaped[name], f"node {name}") as started:
            yield started

    def _loaded(self, name: str, size: int, shape: Shape = USUAL) -> str:
        url = self.migrated(name)
        load_users(url, size, self.calendar, SEED, self.say, shape)
        return url

    def made(self, name: str) -> str:
        """A new database with nothing in it."""
        with psycopg.connect(self.server_url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return urlsplit(self.server_url)._replace(path=f"/{name}").geturl()


def average_body(node: Node, users: int) -> bytes:
    """An answer of a node with so many users, of about the average length."""
    bodies = [read(node.url, user_id) for user_id in range(1, min(users, 500) + 1)]
    length = sum(map(len, bodies)) / len(bodies)
    return min(bodies, key=lambda body: abs(len(body) - length))


def read(url: str, user_id: int) -> bytes:
    """One hot read. Raises BenchError."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request("GET", f"/api/v1/users/{user_id}/segments")
        answer = connection.getresponse()
        if answer.status != 200:  # noqa: PLR2004 - OK
            raise BenchError(f"a read was answered with {answer.status}")
        return answer.read()
    finally:
        connection.close()
