"""The service on one database, with a stopped clock, for many examples of one test."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

import psycopg
from psycopg import sql

from segmentd.config import Settings
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from segmentd.storage.history import EARLIEST
from segmentd.storage.report_rows import REPORT_ROWS
from tests.support.client import Api, Json
from tests.support.door import open_door

Answer = TypeVar("Answer")


class Marks(NamedTuple):
    """The latest time of the catalog, of one user, and of anything in the history."""

    catalog: datetime
    user: datetime
    everything: datetime


class World:
    """Time stands still until it is set, so that each instant can be predicted to the microsecond."""

    def __init__(self, runner: asyncio.Runner, database: Database, api: Api, own: psycopg.Connection) -> None:
        self._runner = runner
        self._own = own
        self.database = database
        self.api = api
        self.seen: Counter[str] = Counter()
        own.execute("""
            CREATE TABLE standing_clock (instant timestamptz NOT NULL);
            INSERT INTO standing_clock VALUES ('-infinity');
            CREATE OR REPLACE FUNCTION clock_instant() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
                RETURN (SELECT instant FROM standing_clock);
            CREATE OR REPLACE FUNCTION reading_instant() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
                RETURN (SELECT instant FROM standing_clock);
        """)

    def begin(self, instant: datetime) -> None:
        """Empties the tables, which takes a fraction of what a new database does."""
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
        self.set_clock(instant)

    def set_clock(self, instant: datetime) -> None:
        self._own.execute("UPDATE standing_clock SET instant = %s", [instant])

    def run(self, answer: Coroutine[Any, Any, Answer]) -> Answer:
        return self._runner.run(answer)

    def send(self, method: str, path: str, body: Json = None) -> tuple[int, Json]:
        answer = self.run(self.api.request(method, path, json=body))
        return answer.status_code, answer.json() if answer.content else None

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
def inhabited(database_url: str, folder: Path) -> Iterator[World]:
    with asyncio.Runner() as runner, psycopg.connect(database_url, autocommit=True) as own:
        stack = AsyncExitStack()
        try:
            # As many connections as there are statements at once: none waits for another on a busy machine.
            # And a busy machine may hold a question up for longer than the service would wait.
            with patch("segmentd.storage.database._LONGEST_WAIT_S", 60.0):
                database = runner.run(stack.enter_async_context(Database(database_url, pool_size=7)))
            use_cases = service(database, Settings(data_dir=str(folder)))
            door = runner.run(open_door(use_cases, database))
            api = runner.run(stack.enter_async_context(Api(door)))
            yield World(runner, database, api, own)
        finally:
            runner.run(stack.aclose())


def same(answered: Json, expected: Json) -> None:
    """Compares, with both values in the message: pytest explains only the assertions of test modules."""
    assert answered == expected, f"answered:     {answered}\nexpected: {expected}"
