"""The row about bytes: what users, overrides and events take, and how much each write adds to the log."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Final, LiteralString

import psycopg

from bench.figures import Figure
from bench.lab import Lab
from bench.listing import IMPORTED, Import, connected, import_begun, made
from bench.population import SEGMENTS
from bench.programs import BenchError

TOGETHER: Final = 64
_CALLS: Final = 2_000
_MOST_USERS: Final = 200_000

# As the service sends it: for each user 2 adds and the removal of what the turn before added first.
_CHANGE: Final[LiteralString] = """
    WITH wanted AS (
        SELECT place, %(first)s + place - 1 AS user_id FROM generate_series(1, %(together)s) AS p (place)
    ), decided AS (
        SELECT place, number,
               'campaign-' || 1000 + mod(%(turn)s * 2 + 7 * user_id + apart, %(segments)s) AS slug
        FROM wanted, unnest('{2,3,0}'::int[]) WITH ORDINALITY AS n (apart, number)
    )
    SELECT count(*)
    FROM (SELECT array_agg(user_id ORDER BY place) AS ids, array_agg('bench'::text) AS actors,
                 array_agg(NULL::text) AS nothing FROM wanted) u,
         (SELECT array_agg(place ORDER BY place, number) AS places,
                 array_agg(slug ORDER BY place, number) AS slugs,
                 array_agg(number < 3 ORDER BY place, number) AS adds,
                 array_agg(NULL::timestamptz) AS untils, array_agg(NULL::bigint) AS ttls FROM decided) d,
         change_memberships(u.ids, u.actors, u.nothing, u.nothing, d.places, d.slugs, d.adds, d.untils,
                            d.ttls, true) c
"""
# Tables with their indexes; of partitions all together.
_SIZES: Final[LiteralString] = """
    SELECT sum(pg_total_relation_size(t.relid)) FILTER (WHERE t.root IN ('users', 'registrations')),
           sum(pg_total_relation_size(t.relid)) FILTER (WHERE t.root = 'memberships'),
           sum(pg_total_relation_size(t.relid)) FILTER (WHERE t.root = 'membership_events'),
           (SELECT count(*) FROM users), (SELECT count(*) FROM memberships),
           (SELECT count(*) FROM membership_events)
    FROM (
        SELECT c.oid AS relid, coalesce(p.relname, c.relname) AS root
        FROM pg_class c
        LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
        LEFT JOIN pg_class p ON p.oid = i.inhparent
        WHERE c.relkind = 'r'
    ) t
"""


def sizes(lab: Lab) -> Iterator[Figure]:
    """Bytes of a database that was filled by imports and changes, and of the write-ahead log."""
    rows = min(lab.plan.size, _MOST_USERS)
    url = lab.migrated("bench_sizes")
    logged: dict[str, list[float]] = {"imported": [], "single": [], "grouped": []}
    with (
        lab.node_on(url, "node of sizes") as node,
        connected(node) as http,
        psycopg.connect(url) as connection,
    ):
        connection.autocommit = True
        made(http, {"slug": IMPORTED})
        turns = itertools.count()
        for number in range(SEGMENTS):
            made(http, {"slug": f"campaign-{1000 + number}"})
        lab.say(f"sizes: an import of {rows:,} rows")
        before = _log(connection)
        state = import_begun(http, 1, rows)
        while not state.status.final:
            state = Import.of(http, state.id)
        if state.added != rows:
            raise BenchError(f"the import ended as {state.status} with {state.added} of {rows} added")
        logged["imported"].append((_log(connection) - before) / rows)
        for number in range(lab.plan.rounds):
            lab.say(f"sizes: changes, round {number + 1}")
            # After a checkpoint each page is written whole once: that depends on how often there is one.
            for together, name in ((1, "single"), (TOGETHER, "grouped")):
                calls = _CALLS // together
                for is_first in (True, False):
                    before, turn = _log(connection), next(turns)
                    for call in range(calls):
                        _changed(connection, 1 + call * together, together, turn)
                    if not is_first:
                        logged[name].append((_log(connection) - before) / (calls * together))
        connection.execute("VACUUM")
        yield from _stored(connection)
    yield from _of_log(logged)


def _stored(connection: psycopg.Connection) -> Iterator[Figure]:
    [found] = connection.execute(_SIZES).fetchall()
    bytes_of, counts = found[:3], found[3:]
    for what, size, count in zip(("user", "override", "event"), bytes_of, counts, strict=True):
        yield _figure(f"bytes-{what}", f"tables and indexes for each {what}", [float(size) / count])


def _of_log(logged: dict[str, list[float]]) -> Iterator[Figure]:
    yield _figure("wal-import", "write-ahead log of a row of an import, all of it", logged["imported"])
    yield _figure("wal-single", "the same of 2 adds and 1 removal, pages touched before", logged["single"])
    yield _figure("wal-grouped", f"the same, {TOGETHER} users a transaction", logged["grouped"])


def _figure(name: str, work: str, values: Sequence[float]) -> Figure:
    return Figure(name=name, work=work, unit="B", values=values, rate=False)


def _changed(connection: psycopg.Connection, first: int, together: int, turn: int) -> None:
    parameters = {"first": first, "together": together, "turn": turn, "segments": SEGMENTS}
    connection.execute(_CHANGE, parameters)


def _log(connection: psycopg.Connection) -> float:
    """Bytes of the write-ahead log so far."""
    [(place,)] = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchall()
    return float(place)
