"""The row about mass changes: how old hot reads get while very many users change."""

import random
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Final

import psycopg

from bench.closed_loop import Load, Requests, put_load
from bench.figures import Figure, Target
from bench.lab import Lab
from bench.nodes import Node
from bench.reading import CONNECTIONS
from segmentd.replica.status import ReplicaStatus, status_path

USERS_PER_SECOND: Final = 30_000
_USERS_AT_ONCE: Final = 1_000
_SECONDS: Final = 4
"""Times as long as other rows."""
_LOOK_EVERY_S: Final = 0.05
_FALLBACKS: Final = "segmentd_replica_fallbacks_total{"

# One transaction of many users in a few statements: what the follower sees of it is all that matters here.
_CHANGE: Final = """
    WITH changed AS (
        UPDATE users SET version = version + 1
        WHERE id >= %(first)s AND id < %(end)s
        RETURNING id
    ), events AS (
        INSERT INTO membership_events (user_id, segment_id, at, operation, effective, cause, actor)
        SELECT id, %(segment)s, clock_timestamp(), 'add', true, 'request', 'bench' FROM changed
    )
    INSERT INTO memberships (user_id, segment_id, included, since)
    SELECT id, %(segment)s, true, clock_timestamp() FROM changed
"""


class _Changing(threading.Thread):
    """Adds one user after the other to a segment, all users to one and then to another, until it is ended."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(name="change many users")
        self._lab = lab
        self.ended = threading.Event()
        self.users = 0
        self.seconds = 0.0

    def run(self) -> None:
        begun = time.monotonic()
        with psycopg.connect(self._lab.database_url, autocommit=True) as connection:
            while not self.ended.is_set():
                place = self.users % self._lab.plan.size
                if place == 0:
                    [segment] = connection.execute(
                        "SELECT id FROM create_segment(%s, '', NULL, 1)", [f"mass-{self._lab.next_seed()}"]
                    ).fetchone() or [None]
                users = {"first": place + 1, "end": place + 1 + _USERS_AT_ONCE, "segment": segment}
                connection.execute(_CHANGE, users)
                self.users += min(_USERS_AT_ONCE, self._lab.plan.size - place)
                self.ended.wait(max(0.0, self.users / USERS_PER_SECOND - (time.monotonic() - begun)))
        self.seconds = time.monotonic() - begun


class _Watching(threading.Thread):
    """Looks how old the replica gets, and the answers about random users."""

    def __init__(self, node: Node, users: int, seed: int) -> None:
        super().__init__(name="look how old answers are")
        self._node = node
        self._users = users
        self._chance = random.Random(seed)
        self.ended = threading.Event()
        self.oldest_replica = 0.0
        self.oldest_answer = 0

    def run(self) -> None:
        with (
            closing(ReplicaStatus.open(status_path(self._node.folder / "node-1"))) as status,
            closing(HTTPConnection(*self._node.address, timeout=30)) as connection,
        ):
            while not self.ended.wait(_LOOK_EVERY_S):
                self.oldest_replica = max(self.oldest_replica, (status.age() or 0) / 1e6)
                user_id = self._chance.randint(1, self._users)
                connection.request("GET", f"/api/v1/users/{user_id}/segments")
                answer = connection.getresponse()
                answer.read()
                self.oldest_answer = max(self.oldest_answer, int(answer.headers["Age"]))


def mass_change(lab: Lab) -> Iterator[Figure]:
    """Hot reads while 30,000 users a second are changed by SQL, which paces itself by nothing."""
    requests = Requests("read", lab.plan.size, CONNECTIONS)
    ages: list[float] = []
    before: list[float] = []
    meanwhile: list[float] = []
    notes: list[str] = []
    put_load(lab.node.url, requests, 1, lab.next_seed())
    for number in range(lab.plan.rounds):
        lab.say(f"mass-change: reads alone, round {number + 1}")
        before.append(put_load(lab.node.url, requests, lab.plan.seconds, lab.next_seed()).rate)
        lab.say(f"mass-change: reads beside changes, round {number + 1}")
        asked = _fallbacks(lab.node)
        load, changing, watching = _measured(lab, requests)
        ages.append(watching.oldest_replica)
        meanwhile.append(load.rate)
        share = 1 - (_fallbacks(lab.node) - asked) / load.requests
        notes.append(
            f"{changing.users / changing.seconds:,.0f} users/s, {share:.1%} of the reads by the replica,"
            f" oldest answer {watching.oldest_answer} s"
        )
        lab.node.wait_for_replica()
    yield Figure(
        name="mass-change",
        work=f"greatest age of the replica while up to {USERS_PER_SECOND:,} users/s change for"
        f" {_SECONDS * lab.plan.seconds:.0f} s",
        unit="s",
        values=ages,
        rate=False,
        target=Target(5, 2, at_most=True),
        note="; ".join(notes),
    )
    yield Figure(
        name="mass-change-reads",
        work=f"the hot read beside it, {CONNECTIONS} connections",
        unit="/s",
        values=meanwhile,
        reference="the hot read alone",
        reference_values=before,
    )


def _measured(lab: Lab, requests: Requests) -> tuple[Load, _Changing, _Watching]:
    changing, watching = _Changing(lab), _Watching(lab.node, lab.plan.size, lab.next_seed())
    changing.start()
    watching.start()
    try:
        load = put_load(lab.node.url, requests, _SECONDS * lab.plan.seconds, lab.next_seed())
    finally:
        changing.ended.set()
        watching.ended.set()
        changing.join()
        watching.join()
    return load, changing, watching


def _fallbacks(node: Node) -> float:
    """How many hot reads the replica could not answer so far."""
    with urllib.request.urlopen(f"{node.url}/metrics") as answer:  # noqa: S310 - our own node
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(_FALLBACKS))
