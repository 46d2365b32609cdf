"""The service over one database, with a clock that stands, for many examples of one test."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from segmentd.api.http.app import create_app
from segmentd.config import Settings
from segmentd.domain.instants import rfc3339
from segmentd.serve.wiring import service
from segmentd.storage.database import Database
from tests.client import Api, Json

Answer = TypeVar("Answer")


class World:
    """Time stands until it is set, so that the instant of everything can be foretold to the microsecond."""

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

    def reported_rows(self) -> list[tuple[int, str, str, str]]:
        """The rows of a report over all times."""
        rows = self._own.execute("""
            SELECT c.user_id, s.slug, c.operation, c.at
            FROM effective_changes(reading_instant()) c
            JOIN segments s ON s.id = c.segment_id
            ORDER BY c.user_id, c.at, s.slug, s.id
        """)
        return [(user_id, slug, operation, rfc3339(at)) for user_id, slug, operation, at in rows]


@contextmanager
def inhabited(database_url: str, folder: Path) -> Iterator[World]:
    with asyncio.Runner() as runner, psycopg.connect(database_url, autocommit=True) as own:
        stack = AsyncExitStack()
        try:
            database = runner.run(stack.enter_async_context(Database(database_url, pool_size=4)))
            app = create_app(service(database, Settings(data_dir=str(folder))))
            api = runner.run(stack.enter_async_context(Api(app)))
            yield World(runner, database, api, own)
        finally:
            runner.run(stack.aclose())
