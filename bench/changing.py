"""Rows about changes of memberships, against pgbench's own TPC-B on the same server in the same run."""

from collections.abc import Iterator
from statistics import median
from typing import Final

import psycopg

from bench.closed_loop import Load, Requests, put_load
from bench.figures import Figure, Target
from bench.lab import MANY_SEGMENTS, Lab
from bench.pgbench import CLIENTS, SCALE, script_rate, tpcb_rate
from bench.population import SEGMENTS
from bench.processor import processor_seconds, server_process

CONNECTIONS: Final = 32
MORE_CONNECTIONS: Final = 64
# The first changes wait until all connections to the database are there.
_WARM_UP_SECONDS: Final = 3.0
_TPCB: Final = f"pgbench's TPC-B, scale {SCALE}, {CLIENTS} clients"

# The statement that the service sends for 2 adds and 1 removal of one user, chosen as in load.lua.
CHANGE: Final = r"""
\set user_id random(1, :users)
\set first random(0, 499)
\set one 1000 + :first
\set two 1000 + mod(:first + 167, 500)
\set three 1000 + mod(:first + 333, 500)
SELECT * FROM change_memberships(
    ARRAY[:user_id::bigint], '{bench}', '{NULL}', '{NULL}',
    '{1,1,1}', ARRAY['campaign-' || :one, 'campaign-' || :two, 'campaign-' || :three],
    '{t,t,f}', '{NULL,NULL,NULL}', '{NULL,NULL,NULL}', true
);
"""
# The same for many users, one in each of as many ranges of ids: they differ and ascend.
CHANGES: Final = r"""
\set range :users / :together
\set first_id random(1, :range)
\set first random(0, 499)
WITH wanted AS (
    SELECT place, :first_id::bigint + (place - 1) * :range::bigint AS user_id
    FROM generate_series(1, :together::int) AS places (place)
), users AS (
    SELECT array_agg(user_id ORDER BY place) AS ids, array_agg('bench'::text) AS actors,
           array_agg(NULL::text) AS nothing
    FROM wanted
), decisions AS (
    SELECT array_agg(place ORDER BY place, number) AS places,
           array_agg('campaign-' || 1000 + mod(:first::int + 7 * place + apart, 500)
                     ORDER BY place, number) AS slugs,
           array_agg(number < 3 ORDER BY place, number) AS adds,
           array_agg(NULL::timestamptz) AS untils, array_agg(NULL::bigint) AS ttls
    FROM wanted, unnest('{0,167,333}'::int[]) WITH ORDINALITY AS numbers (apart, number)
)
SELECT c.*
FROM users u, decisions d, change_memberships(
    u.ids, u.actors, u.nothing, u.nothing, d.places, d.slugs, d.adds, d.untils, d.ttls, true
) c;
"""
TOGETHER: Final = 64


def write(lab: Lab) -> Iterator[Figure]:
    """Changes over HTTP: their rate, and the processor time of each."""
    theirs: list[float] = []
    rates: dict[int, list[float]] = {CONNECTIONS: [], MORE_CONNECTIONS: []}
    http: list[float] = []
    postgres: list[float] = []
    _change(lab, CONNECTIONS, _WARM_UP_SECONDS)
    processes = [lab.node.http_workers(), [server_process(lab.database_url)]]
    for number in range(lab.plan.rounds):
        theirs.append(_tpcb(lab, f"write: TPC-B, round {number + 1}"))
        for connections, found in rates.items():
            lab.say(f"write: segmentd, {connections} connections, round {number + 1}")
            _settle(lab.database_url)
            before = [processor_seconds(pids) for pids in processes]
            load = _change(lab, connections, lab.plan.seconds)
            for pids, begun, costs in zip(processes, before, (http, postgres), strict=True):
                costs.append(1000 * (processor_seconds(pids) - begun) / load.requests)
            found.append(load.rate)
    for connections, found in rates.items():
        yield Figure(
            name="write" if connections == CONNECTIONS else f"write-{connections}",
            work=f"POST /users/{{id}}/segments, 2 adds and 1 removal, {connections} connections",
            unit="/s",
            values=found,
            reference=_TPCB,
            reference_values=theirs,
            target=Target(0.7, 1.0),
        )
    yield Figure(
        name="write-processor",
        work="processor time of the HTTP processes for one of these changes",
        unit="ms",
        values=http,
        rate=False,
        target=Target(0.4, 0.3, at_most=True),
        note=f"of PostgreSQL {median(postgres):.2f} ms",
    )


def write_alone(lab: Lab) -> Iterator[Figure]:
    """A change of a client that is alone, against a transaction of a TPC-B client that is alone."""
    ours: list[float] = []
    theirs: list[float] = []
    _change(lab, 1, _WARM_UP_SECONDS)
    for number in range(lab.plan.rounds):
        theirs.append(1000 / _tpcb(lab, f"write-alone: TPC-B, round {number + 1}", clients=1))
        lab.say(f"write-alone: segmentd, round {number + 1}")
        _settle(lab.database_url)
        ours.append(_change(lab, 1, lab.plan.seconds).p50_ms)
    yield Figure(
        name="write-alone",
        work="p50 of the same with one connection",
        unit="ms",
        values=ours,
        rate=False,
        reference="TPC-B, one client, mean",
        reference_values=theirs,
    )


def write_function(lab: Lab) -> Iterator[Figure]:
    """The SQL function alone, with one user a call and with many."""
    theirs: list[float] = []
    rates: dict[int, list[float]] = {1: [], TOGETHER: []}
    for number in range(lab.plan.rounds):
        theirs.append(_tpcb(lab, f"write-function: TPC-B, round {number + 1}"))
        for users, found in rates.items():
            lab.say(f"write-function: {users} a call, round {number + 1}")
            with lab.node.paused():
                found.append(_users_changed(lab, lab.database_url, lab.plan.size, users))
            lab.node.wait_for_replica()
    for users, found in rates.items():
        yield Figure(
            name="write-function" if users == 1 else f"write-function-{users}",
            work=f"users changed by our SQL function, {users} a call, by pgbench, {CLIENTS} clients",
            unit="/s",
            values=found,
            reference=_TPCB,
            reference_values=theirs,
            target=Target(0.6, 0.9) if users == 1 else Target(2.0, 3.0),
        )


def write_segments(lab: Lab) -> Iterator[Figure]:
    """What the SQL function costs where there are many segments against few."""
    costs: dict[str, list[float]] = {lab.small_database_url: [], lab.database_with_many_segments: []}
    server = [server_process(lab.server_url)]
    for number in range(lab.plan.rounds):
        for url, found in costs.items():
            lab.say(f"write-segments: round {number + 1}")
            begun = processor_seconds(server)
            changed = _users_changed(lab, url, lab.plan.small_size) * lab.plan.seconds
            found.append(1000 * (processor_seconds(server) - begun) / changed)
    few, many = costs.values()
    yield Figure(
        name="write-segments",
        work=f"processor time of our SQL function where there are {MANY_SEGMENTS:,} segments",
        unit="ms",
        values=many,
        rate=False,
        reference=f"where there are {SEGMENTS}",
        reference_values=few,
        target=Target(0.9, 0.97),
    )


def _change(lab: Lab, connections: int, seconds: float) -> Load:
    requests = Requests("change", lab.plan.size, connections)
    load = put_load(lab.node.url, requests, seconds, lab.next_seed())
    lab.node.wait_for_replica()
    return load


def _tpcb(lab: Lab, said: str, clients: int = CLIENTS) -> float:
    url, node = lab.tpcb_url, lab.node
    lab.say(said)
    with node.paused():
        rate = tpcb_rate(url, lab.plan.seconds, lab.next_seed(), clients)
    node.wait_for_replica()
    return rate


def _users_changed(lab: Lab, url: str, users: int, together: int = 1) -> float:
    """Users a second."""
    _settle(url)
    script = CHANGE if together == 1 else CHANGES
    calls = script_rate(url, script, lab.plan.seconds, lab.next_seed(), users=users, together=together)
    return calls * together


def _settle(url: str) -> None:
    """Vacuums and checkpoints, so that each side begins in the same state."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM users, memberships, membership_events")
        connection.execute("CHECKPOINT")
