"""Rows about what goes on beside an import: hot reads, and changes of segments."""

import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Final

from bench.figures import Figure, Target, quantile
from bench.lab import Lab
from bench.listing import IMPORTED, Import, connected, import_begun, made, sent
from bench.open_loop import latencies
from bench.programs import BenchError
from segmentd.domain.imports import Status

READS_A_SECOND: Final = 1_000
_USERS: Final = 100_000
# More than are applied meanwhile.
_ROWS_A_SECOND: Final = 100_000
_PAUSE_SECONDS: Final = 0.25
_LOOK_EVERY_SECONDS: Final = 0.01
_CHECK_SECONDS: Final = 600.0


class _Creating(threading.Thread):
    """Creates segments, one after the other, and times each."""

    def __init__(self, connection: HTTPConnection, prefix: str) -> None:
        super().__init__(name="create segments")
        self._connection = connection
        self._prefix = prefix
        self.ended = threading.Event()
        self.milliseconds: list[float] = []

    def run(self) -> None:
        while not self.ended.wait(_PAUSE_SECONDS):
            begun = time.perf_counter()
            made(self._connection, {"slug": f"{self._prefix}-{len(self.milliseconds)}"})
            self.milliseconds.append(1000 * (time.perf_counter() - begun))


def beside_import(lab: Lab) -> Iterator[Figure]:
    """The p99 of hot reads, and the slowest creation of a segment, while an import is applied."""
    alone: list[float] = []
    beside: list[float] = []
    creations: list[float] = []
    rates: list[float] = []
    rows = round(_ROWS_A_SECOND * lab.plan.seconds)
    with (
        lab.node_on(lab.migrated("bench_beside"), "node of an import") as node,
        connected(node) as connection,
        connected(node) as other,
    ):
        made(connection, {"slug": IMPORTED})
        for number in range(lab.plan.rounds):
            lab.say(f"import-reads: alone, round {number + 1}")
            seconds, seed = lab.plan.seconds, lab.next_seed()
            found = latencies(node.address, _USERS, READS_A_SECOND, seconds, seed)
            alone.append(quantile(found, 0.99))
            lab.say(f"import-reads: beside an import, round {number + 1}")
            begun = _applying(connection, import_begun(connection, 1 + number * rows, rows))
            creating, since = _Creating(other, f"made-{number}"), time.perf_counter()
            creating.start()
            try:
                found = latencies(node.address, _USERS, READS_A_SECOND, seconds, seed)
            finally:
                creating.ended.set()
                creating.join()
            now = Import.of(connection, begun.id)
            rates.append((now.applied_users - begun.applied_users) / (time.perf_counter() - since))
            if now.status is not Status.APPLYING:
                raise BenchError(f"the import was {now.status} before the reads had ended")
            sent(connection, "DELETE", f"/api/v1/imports/{now.id}").read()
            beside.append(quantile(found, 0.99))
            creations.append(max(creating.milliseconds))
            node.wait_for_replica()
    yield Figure(
        name="import-reads",
        work=f"p99 of the hot read at {READS_A_SECOND:,}/s beside an import",
        unit="ms",
        values=beside,
        rate=False,
        reference="the same alone, in ms",
        reference_values=alone,
        target=Target(0.5, 0.9),
        note=f"{quantile(rates, 0.5):,.0f} rows/s meanwhile",
    )
    yield Figure(
        name="import-segment",
        work="slowest creation of a segment beside it",
        unit="ms",
        values=creations,
        rate=False,
        target=Target(100, 50, at_most=True),
    )


def _applying(connection: HTTPConnection, begun: Import) -> Import:
    """The import once it is applied. Raises BenchError."""
    give_up = time.monotonic() + _CHECK_SECONDS
    while (now := Import.of(connection, begun.id)).status is not Status.APPLYING or not now.applied_users:
        if now.status.final or time.monotonic() > give_up:
            raise BenchError(f"the import became {now.status}")
        time.sleep(_LOOK_EVERY_SECONDS)
    return now
