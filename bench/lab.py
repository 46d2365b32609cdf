"""What the rows share: the plan of a run, one PostgreSQL, the loaded databases, a node on the large one."""

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

from bench.loading import Progress, load_events, load_users
from bench.nodes import Node, node
from bench.population import Calendar
from bench.programs import BenchError
from segmentd.storage import embedded
from segmentd.storage.migrate import migrate

SEED: Final = 20261121
POOL_SIZE: Final = 8


class Plan(NamedTuple):
    """How much a run does."""

    size: int
    """Users."""
    rounds: int
    seconds: float
    """How long a server is under load in each round."""
    small_size: int
    """Users of the database that growth is measured from."""
    events: int
    """In the month that a report is made of."""
    writes: int
    """Whose way to another node is timed, in each round."""
    requests: int
    """Between the two looks at the memory of the HTTP workers."""
    pairs: int
    """Of nodes with and without metrics, each made anew and compared."""

    @classmethod
    def usual(cls, size: int, rounds: int) -> "Plan":
        """Ten minutes on two cores for a million users."""
        return cls(
            size, rounds, 5.0, min(100_000, size), min(5_000_000, 5 * size), 200, 1_000_000, 2 * rounds
        )

    @classmethod
    def quick(cls, size: int, rounds: int) -> "Plan":
        """Two minutes: to see that everything works, not to judge by."""
        return cls(size, rounds, 2.0, max(1, size // 10), 2 * size, 50, 50_000, 1)


class Lab:
    """Made when first asked for, and cleared away at the end of the context."""

    def __init__(self, plan: Plan, folder: Path, say: Progress) -> None:
        self.plan = plan
        self.folder = folder
        self.say = say
        self.calendar = Calendar.before(datetime.now(UTC))
        self._undo = ExitStack()
        self._seeds = iter(range(1, 1_000_000))
        self.top_rate: float | None = None
        """Of the hot read, once it is measured."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._undo.close()

    def next_seed(self) -> int:
        """Another one each time, the same in every run."""
        return next(self._seeds)

    @cached_property
    def server_url(self) -> str:
        """The embedded PostgreSQL as `segmentd serve` starts it, on a disk that is synced to."""
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
        """The same, with the month of events."""
        load_events(self.database_url, self.plan.events, self.plan.size, self.calendar, SEED, self.say)
        return self.database_url

    @cached_property
    def node(self) -> Node:
        """A node on the database with all users, with a worker for each core, answering from its copy."""
        return self._undo.enter_context(self.node_on(self.database_url, "node"))

    @contextmanager
    def node_on(
        self, database_url: str, name: str, workers: int = 0, flags: Sequence[str] = ()
    ) -> Iterator[Node]:
        """A node of its own that answers from its copy."""
        self.say(f"starting {name}")
        with node(
            self.folder / name, database_url=database_url, workers=workers, pool_size=POOL_SIZE, flags=flags
        ) as started:
            self.say(f"{name} makes its copy")
            started.wait_for_copy()
            yield started

    @contextmanager
    def small_node(self) -> Iterator[Node]:
        """A node on a database with few users."""
        with self.node_on(self._loaded("bench_small", self.plan.small_size), "small node") as started:
            yield started

    def body_sample(self) -> bytes:
        """An answer of the hot read as long as such answers are on the average."""
        bodies = [read(self.node.url, user_id) for user_id in range(1, min(self.plan.size, 500) + 1)]
        length = sum(map(len, bodies)) / len(bodies)
        return min(bodies, key=lambda body: abs(len(body) - length))

    def _loaded(self, name: str, size: int) -> str:
        with psycopg.connect(self.server_url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        url = urlsplit(self.server_url)._replace(path=f"/{name}").geturl()
        asyncio.run(migrate(url))
        load_users(url, size, self.calendar, SEED, self.say)
        return url


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
