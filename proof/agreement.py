"""Compares all that knows of memberships: what was acknowledged, the tables, the replica and the feed."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Final, LiteralString, NamedTuple

import psycopg

from proof.connection import Client, Lost
from proof.ledger import Effect, Ledger
from proof.node import NodeFailed

_EVENTS: Final[LiteralString] = """
    SELECT e.reason, e.user_id, s.slug, e.operation::text
    FROM membership_events e JOIN segments s ON s.id = e.segment_id
    WHERE e.cause = 'request'
"""
_FEED: Final[LiteralString] = """
    SELECT e.user_id, s.slug, e.operation::text, coalesce(e.reason, ''),
           to_char(e.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    FROM membership_events e JOIN segments s ON s.id = e.segment_id
"""
_MEMBERS: Final[LiteralString] = """
    SELECT u.id, array_remove(array_agg(s.slug), NULL)
    FROM users u
    LEFT JOIN memberships m ON m.user_id = u.id AND m.ended_at IS NULL AND m.included
    LEFT JOIN segments s ON s.id = m.segment_id
    GROUP BY u.id
"""
# Another, if anything was written meanwhile: events are never changed, and no membership changes without one.
_SIGN: Final[LiteralString] = """
    SELECT pg_postmaster_start_time(),
           (SELECT count(*) FROM membership_events),
           (SELECT count(*) FROM memberships WHERE ended_at IS NULL),
           (SELECT count(*) FROM users),
           (SELECT md5(string_agg(concat(reason, status), ' ' ORDER BY reason)) FROM imports)
"""
CONTRADICTIONS: Final[Mapping[str, LiteralString]] = {
    "the latest event says who is a member": """
        SELECT count(*)
        FROM (
            SELECT DISTINCT ON (user_id, segment_id) user_id, segment_id, operation = 'add' AS adds
            FROM membership_events
            ORDER BY user_id, segment_id, at DESC
        ) e
        FULL JOIN (
            SELECT user_id, segment_id, true AS adds FROM memberships WHERE ended_at IS NULL AND included
        ) m USING (user_id, segment_id)
        WHERE coalesce(e.adds, false) <> coalesce(m.adds, false)
    """,
    "additions and removals alternate": """
        SELECT count(*)
        FROM (
            SELECT operation, lag(operation) OVER (PARTITION BY user_id, segment_id ORDER BY at) AS before
            FROM membership_events
            WHERE effective
        ) e
        WHERE operation = before
    """,
    "each membership began with an event": """
        SELECT count(*)
        FROM memberships m
        WHERE NOT EXISTS (
            SELECT
            FROM membership_events e
            WHERE e.user_id = m.user_id AND e.segment_id = m.segment_id AND e.at = m.since
        )
    """,
    "each user has a life": """
        SELECT count(*)
        FROM memberships m
        WHERE NOT EXISTS (SELECT FROM registrations r WHERE r.user_id = m.user_id AND r.ended_at IS NULL)
    """,
}
"""Statements of sentences that have to hold: each counts what contradicts its sentence."""
# Until when all has to agree that needs a moment: the feed, the replica, an import.
_PATIENCE_S: Final = 60.0
_LOOKED_UP_AT_ONCE: Final = 1000


class Tables(NamedTuple):
    """What is written."""

    events: Mapping[str, Sequence[Effect]]
    members: Mapping[int, set[str]]
    imports: Mapping[str, str]
    feed: Counter[tuple[Any, ...]]
    contradictions: Mapping[str, int]


class Reading:
    """Reads the tables, and again only when they have changed: there are more and more of their rows."""

    def __init__(self, url: Callable[[], str]) -> None:
        self._url = url
        self._sign: object = None
        self._tables: Tables | None = None

    async def tables(self) -> Tables:
        """As of one moment. Raises psycopg.OperationalError, NodeFailed."""
        async with await psycopg.AsyncConnection.connect(self._url()) as connection:
            await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            sign = await (await connection.execute(_SIGN)).fetchone()
            if self._tables is None or sign != self._sign:
                self._tables, self._sign = await _tables(connection), sign
            return self._tables


async def _tables(connection: psycopg.AsyncConnection) -> Tables:
    events: dict[str, list[Effect]] = defaultdict(list)
    for reason, *effect in await (await connection.execute(_EVENTS)).fetchall():
        events[reason].append(Effect(*effect))
    members: dict[int, list[str]] = dict(await (await connection.execute(_MEMBERS)).fetchall())
    imports: dict[str, str] = dict(
        await (await connection.execute("SELECT reason, status FROM imports")).fetchall()
    )
    feed = Counter(await (await connection.execute(_FEED)).fetchall())
    found = {}
    for sentence, query in CONTRADICTIONS.items():
        [(found[sentence],)] = await (await connection.execute(query)).fetchall()
    return Tables(events, {user: {*slugs} for user, slugs in members.items()}, imports, feed, found)


class Follower:
    """One who follows the feed through everything, from a position to the next."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._position = "begin"
        self.changes: Counter[tuple[Any, ...]] = Counter()
        self.wrong: list[str] = []

    async def follow(self) -> None:
        """Until it is cancelled."""
        while True:
            if not await self.read(wait_s=5):
                await asyncio.sleep(0.1)  # the service is away

    def close(self) -> None:
        self._client.close()

    async def read(self, wait_s: int = 0) -> bool:
        """One page; whether it came. It goes on after its position until a page is empty."""
        path = f"/api/v1/changes?after={self._position}&limit=1000&wait={wait_s}"
        try:
            answer = await self._client.ask("GET", path)
        except Lost:
            return False
        if answer.status != 200:
            if answer.status != 503:
                self.wrong.append(f"the feed answered {answer.status} {answer.body[:200]!r}")
            return False
        page = answer.json()
        self._position = page["next"]
        for each in page["changes"]:
            if each["kind"] == "membership":
                self.changes[
                    each["user_id"], each["segment"], each["operation"], each["reason"] or "", each["at"]
                ] += 1
        return True


class Agreement:
    """What is compared, and with whom."""

    def __init__(self, ledger: Ledger, follower: Follower, reader: Client) -> None:
        self._ledger = ledger
        self._follower = follower
        self._reader = reader

    def close(self) -> None:
        self._reader.close()

    async def differences(self, url: Callable[[], str], *, final: bool = False) -> list[str]:
        """What does not agree, after some time to come to agree. Nobody changes anything meanwhile."""
        told = partial(self._of_those_who_were_told, final=final)
        reading = Reading(url)
        return await _left(lambda: self._found(reading, told), (4 if final else 1) * _PATIENCE_S)

    async def differences_within(self, url: Callable[[], str]) -> list[str]:
        """As `differences`, but what was acknowledged does not count, and neither does the feed until now."""
        reading = Reading(url)
        return await _left(lambda: self._found(reading, lambda _: iter(())), _PATIENCE_S)

    async def _found(self, reading: Reading, more: Callable[[Tables], Iterator[str]]) -> AsyncIterator[str]:
        """What the tables say against themselves, and against the replica; and `more` of them."""
        try:
            there = await reading.tables()
        except (psycopg.OperationalError, NodeFailed) as error:
            yield f"the database does not answer: {error}"
            return
        for difference in chain(_contradictions(there), more(there)):
            yield difference
        async for difference in self._of_replica(there.members):
            yield difference

    def _of_those_who_were_told(self, there: Tables, *, final: bool) -> Iterator[str]:
        """What the ledger and the follower of the feed say against the tables."""
        yield from self._ledger.differences(there.events, there.imports, final=final)
        for user_id, due in self._ledger.members(there.events).items():
            if (present := there.members.get(user_id, set())) != due:
                yield f"user {user_id} is in {sorted(present)} and should be in {sorted(due)}"
        yield from _of_feed(self._follower.changes, there.feed)

    async def _of_replica(self, members: Mapping[int, set[str]]) -> AsyncIterator[str]:
        user_ids = [*members]
        for begin in range(0, len(user_ids), _LOOKED_UP_AT_ONCE):
            asked = user_ids[begin : begin + _LOOKED_UP_AT_ONCE]
            try:
                answer = await self._reader.ask("POST", "/api/v1/lookup", {"user_ids": asked})
            except Lost:
                yield "a lookup has no answer"
                return
            if answer.status != 200:
                yield f"a lookup was answered {answer.status}"
                return
            for each in answer.json()["users"]:
                if {*each["segments"]} != members[each["user_id"]]:
                    yield f"the replica says that user {each['user_id']} is in {each['segments']}"


async def _left(found: Callable[[], AsyncIterator[str]], patience_s: float) -> list[str]:
    """What is still found after so long."""
    deadline = time.monotonic() + patience_s
    while True:
        differences = [each async for each in found()]
        if not differences or time.monotonic() > deadline:
            return differences
        await asyncio.sleep(0.3)


def _contradictions(there: Tables) -> Iterator[str]:
    for sentence, count in there.contradictions.items():
        if count:
            yield f"{sentence}: {count} contradict"


def _of_feed(came: Counter[tuple[Any, ...]], written: Counter[tuple[Any, ...]]) -> Iterator[str]:
    if missing := written - came:
        yield f"the feed lacks {missing.total()} changes, such as {next(iter(missing))}"
    if more := came - written:
        yield f"the feed has {more.total()} changes too many, such as {next(iter(more))}"
