"""The service on one database, with a stopped clock, for many examples of one test."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from unittest.mock import patch

import psycopg
from psycopg import sql

from segmentd.api.grpc.hot import HotReads
from segmentd.config import Settings
from segmentd.replica.replica import Replica
from segmentd.serve.wiring import open_node, service
from segmentd.storage.database import Database
from segmentd.storage.history import EARLIEST
from segmentd.storage.report_rows import REPORT_ROWS
from tests.support.asgi import Counted
from tests.support.client import DirectApi, Json
from tests.support.door import hot_path, middleware, open_to_all
from tests.support.follower_process import BOOT_TIMES, BootTime, FollowerProcess
from tests.support.grpc_door import Reflected, grpc_door

MICROSECOND: Final = timedelta(microseconds=1)

Answer = TypeVar("Answer")


class Marks(NamedTuple):
    """The latest time of the catalog, of one user, and of anything in the history."""

    catalog: datetime
    user: datetime
    everything: datetime


class Node(NamedTuple):
    """The doors of a node, and its follower."""

    api: DirectApi
    beside: Counted
    """The application behind the hot path: it counts what is left to it."""
    grpc: Reflected
    replica: Replica
    following: FollowerProcess


class Doors(NamedTuple):
    """The nodes, and a service that has no replica."""

    database: Database
    nodes: Sequence[Node]
    alone: DirectApi


class World:
    """Time stands still until it is set, so that each instant can be predicted to the microsecond.

    One node is asked, until it is the other one's turn.
    """

    def __init__(self, runner: asyncio.Runner, doors: Doors, boot: BootTime, own: psycopg.Connection) -> None:
        self._runner = runner
        self._own = own
        self._boot = boot
        self._nodes = doors.nodes
        self._turn = 0
        self._now = datetime.min.replace(tzinfo=UTC)
        self._replica_is_ahead = False
        self.database = doors.database
        self.alone = doors.alone
        self.seen: Counter[str] = Counter()
        own.execute("""
            CREATE TABLE standing_clock (instant timestamptz NOT NULL);
            INSERT INTO standing_clock VALUES ('-infinity');
            CREATE OR REPLACE FUNCTION clock_instant() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
                RETURN (SELECT instant FROM standing_clock);
            CREATE OR REPLACE FUNCTION reading_instant() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
                RETURN (SELECT instant FROM standing_clock);
        """)

    @property
    def node(self) -> Node:
        """The one that is asked."""
        return self._nodes[self._turn]

    @property
    def api(self) -> DirectApi:
        """Its HTTP door."""
        return self.node.api

    def turn(self) -> None:
        """From now on the other node is asked; it knows of the changes by this one from its follower."""
        self._turn = (self._turn + 1) % len(self._nodes)
        self.follow()
        self.see("the other node")

    def begin(self, instant: datetime) -> None:
        """Empties the tables, which takes a fraction of what a new database does, and the replicas."""
        self._own.execute("""
            DELETE FROM membership_events;
            DELETE FROM memberships;
            DELETE FROM registrations;
            DELETE FROM users;
            DELETE FROM rollouts;
            DELETE FROM imports;
            DELETE FROM segment_events;
            DELETE FROM segments;
            UPDATE catalog SET last_at = '-infinity';
        """)
        self._now = instant
        self.set_clock(instant)
        for node in self._nodes:
            node.replica.status.clear()
            node.following.begin()

    def set_clock(self, instant: datetime) -> None:
        self._own.execute("UPDATE standing_clock SET instant = %s", [instant])
        if instant < self._now:
            self._replica_is_ahead = True
        self._boot.now += max((instant - self._now) // MICROSECOND, 1)
        self._now = instant

    def follow(self) -> None:
        """One round of the follower."""
        self.node.following.round()

    def restart_follower(self) -> None:
        """The follower ends, and another one resumes its replica."""
        self.node.following.restart()
        self.see("a follower that began again")

    def explicit(self) -> dict[str, dict[int, datetime | None]]:
        """The explicit members of each living segment with their terms, as the tables have them."""
        rows = self._own.execute("""
            SELECT s.slug, m.user_id, m.until
            FROM segments s
            LEFT JOIN memberships m ON m.segment_id = s.id AND m.ended_at IS NULL AND m.included
            WHERE s.deleted_at IS NULL
        """)
        members: dict[str, dict[int, datetime | None]] = {}
        for slug, user_id, until in rows:
            of_segment = members.setdefault(slug, {})
            if user_id is not None:
                of_segment[user_id] = until
        return members

    def refresh(self) -> None:
        """Rounds of the follower, where answers are allowed to differ from the database's without one.

        That is when the replica is too old, and while its present is the catalog's or was, since the clock
        stepped back: it goes by the present of its last round (docs/data-model.md, "Time").
        """
        row = self._own.execute("SELECT last_at > instant FROM catalog, standing_clock").fetchone()
        is_ahead = row == (True,)
        if is_ahead or self._replica_is_ahead or self.node.replica.age() is None:
            self.follow()
        else:
            self.see("a read of the replica with no round before it")
        self._replica_is_ahead = is_ahead

    def run(self, answer: Coroutine[Any, Any, Answer]) -> Answer:
        return self._runner.run(answer)

    def send(self, method: str, path: str, body: Json = None) -> tuple[int, Json]:
        answer = self.run(self.api.request(method, path, json=body))
        return answer.status_code, answer.json() if answer.content else None

    def send_at_once(self, bodies: Sequence[tuple[int, Json]]) -> list[tuple[int, Json]]:
        """Changes of users, sent in one moment: they go in one transaction."""

        async def send_all() -> list[tuple[int, Json]]:
            sent = (self.api.post(f"users/{user}/segments", json=body) for user, body in bodies)
            return [(answer.status_code, answer.json()) for answer in await asyncio.gather(*sent)]

        return self.run(send_all())

    def see(self, what: str, *, when: bool = True) -> None:
        if when:
            self.seen[what] += 1

    def marks(self, user: int | None) -> Marks:
        """The latest times in the tables."""
        row = self._own.execute(
            """
            SELECT c.last_at, (SELECT u.last_at FROM users u WHERE u.id = %s),
                   greatest((SELECT max(at) FROM membership_events),
                            (SELECT greatest(max(registered_at), max(ended_at)) FROM registrations))
            FROM (SELECT nullif(last_at, '-infinity') AS last_at FROM catalog) c
            """,
            [user],
        ).fetchone()
        assert row is not None
        return Marks(*(mark or datetime.min.replace(tzinfo=UTC) for mark in row))

    def reported_rows(self, as_of: datetime) -> list[tuple[int, str, str, str]]:
        """The rows of a report over all times before this instant."""
        after = sql.Literal(as_of)
        everyone = sql.SQL("true")
        rows = sql.SQL(REPORT_ROWS).format(
            as_of=after,
            begins_at=sql.Literal(EARLIEST),
            ends_at=after,
            user_filter=everyone,
            segment_filter=everyone,
        )
        return self._own.execute(rows).fetchall()


@contextmanager
def inhabited(database_url: str, folder: Path, nodes: int = 1) -> Iterator[World]:
    boot = BootTime()
    with (
        asyncio.Runner() as runner,
        psycopg.connect(database_url, autocommit=True) as own,
        ExitStack() as outer,
    ):
        following = {}
        for number in range(nodes):
            replica = folder / f"node-{number}"
            replica.mkdir()
            following[replica] = outer.enter_context(closing(FollowerProcess(database_url, replica, boot)))
        for place in BOOT_TIMES:
            outer.enter_context(patch(place, boot))
        stack = AsyncExitStack()
        try:
            doors = runner.run(stack.enter_async_context(_doors(database_url, folder, following)))
            yield World(runner, doors, boot, own)
        finally:
            runner.run(stack.aclose())


@asynccontextmanager
async def _doors(
    database_url: str, folder: Path, following: Mapping[Path, FollowerProcess]
) -> AsyncIterator[Doors]:
    settings = Settings(data_dir=str(folder))
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        # As many connections as there are statements at once: none waits for another on a busy machine.
        # And a busy machine may hold a question up for longer than the service would wait.
        with patch("segmentd.storage.database._LONGEST_WAIT_S", 60.0):
            database = await enter(Database(database_url, pool_size=7))
        authenticator = await open_to_all(database)
        nodes = []
        for replica, follower in following.items():
            node = await enter(open_node(database, settings, replica))
            use_cases = service(database, settings, node)
            beside = Counted(middleware(use_cases, authenticator))
            hot = HotReads(node.replica, authenticator)
            nodes.append(
                Node(
                    await enter(DirectApi(hot_path(beside, node.replica, authenticator))),
                    beside,
                    await enter(grpc_door(use_cases, authenticator, hot=hot)),
                    node.replica,
                    follower,
                )
            )
        alone = await enter(DirectApi(middleware(service(database, settings), authenticator)))
        yield Doors(database, nodes, alone)


def same(answered: Json, expected: Json) -> None:
    """Compares, with both values in the message: pytest explains only the assertions of test modules."""
    assert answered == expected, f"answered:     {answered}\nexpected: {expected}"
