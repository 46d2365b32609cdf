"""The metrics of a process. Names and labels stay as they are: operators build dashboards on them."""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.metrics_core import InfoMetricFamily

from segmentd import __version__
from segmentd.domain.memberships import Changed
from segmentd.observability import FOLDER_VARIABLE
from segmentd.observability.exposition import Page, add_tally, added_up, written
from segmentd.observability.figures import keep_without_holes, write_unwritten
from segmentd.observability.tally import BUCKETS_S, Tallies, Tally

NO_ROUTE: Final = "unknown"
OTHER_METHOD: Final = "other"

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUESTS: Final = "segmentd_http_request_duration_seconds"
# A process has room for so many tallies in its file.
_MOST_TALLIES: Final = 8
_REPORT_BUCKETS_S: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class Refusal(StrEnum):
    """Why a request was refused."""

    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    RATE_LIMIT = "rate-limit"
    OVERLOAD = "overload"
    TIMEOUT = "timeout"
    SLOW_CLIENT = "slow-client"
    HEADERS_TOO_LARGE = "headers-too-large"
    TOO_MANY_REPORTS = "too-many-reports"
    REPORT_STORE_FULL = "report-store-full"
    TOO_MANY_IMPORTS = "too-many-imports"
    IMPORT_STORE_FULL = "import-store-full"
    TOO_MANY_EXPORTS = "too-many-exports"
    CONNECTIONS = "connections"
    UNSENT_BYTES = "unsent-bytes"
    LONG_READ = "long-read"


# Kinds of problems that are refusals.
_REFUSALS: Final = {
    "unauthenticated": Refusal.UNAUTHENTICATED,
    "forbidden": Refusal.FORBIDDEN,
    "too-many-requests": Refusal.RATE_LIMIT,
    "too-many-reports": Refusal.TOO_MANY_REPORTS,
    "report-store-full": Refusal.REPORT_STORE_FULL,
    "too-many-imports": Refusal.TOO_MANY_IMPORTS,
    "import-store-full": Refusal.IMPORT_STORE_FULL,
    "too-many-exports": Refusal.TOO_MANY_EXPORTS,
}


class Fallen(StrEnum):
    """What became of a hot read that the replica could not answer at once."""

    DATABASE = "database"
    REPLICA = "replica"
    REFUSED = "refused"


class ExportEnd(StrEnum):
    """How an export ended."""

    DONE = "done"
    ABANDONED = "abandoned"
    TIMEOUT = "timeout"
    FAILED = "failed"


class FeedReader(StrEnum):
    """For whom the feed was read from the database: for all who are level, or for one who is behind."""

    SHARED = "shared"
    ALONE = "alone"


class Metrics:
    """Counts what happens in one process.

    All processes of a node get the same folder. Each of them then shows the sum of all processes, ended ones
    included. Without a folder it shows only what this process counted. Raises ValueError if prometheus_client
    has another folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None and os.environ.get(FOLDER_VARIABLE) != str(folder):
            raise ValueError(f"{FOLDER_VARIABLE} is not {folder}")
        keep_without_holes()
        self._folder = folder
        self._registry = CollectorRegistry()
        counter = partial(Counter, namespace="segmentd", registry=self._registry)
        # Live processes only: an ended process has no requests and no connections.
        gauge = partial(Gauge, namespace="segmentd", registry=self._registry, multiprocess_mode="livesum")
        histogram = partial(Histogram, registry=self._registry)

        self._requests = histogram(
            _REQUESTS,
            "Time to answer a request.",
            ["method", "route", "status"],
            buckets=BUCKETS_S,
        )
        self._tallies = Tallies(_MOST_TALLIES, folder)
        self._tallied: list[Mapping[str, str]] = []
        self.requests_in_progress = gauge("http_requests_in_progress", "Requests in progress.")
        self.http_connections = gauge("http_connections", "Connections of clients.")
        self.event_streams = gauge("event_streams", "Streams of events to clients.")
        self._feed_readings = _each(
            counter("feed_readings", "Readings of the feed from the database.", ["reader"]),
            map(str, FeedReader),
        )
        self.feed_changes = counter("feed_changes", "Changes that were sent to those who follow the feed.")
        self.http_unsent_bytes = gauge(
            "http_unsent_bytes", "Bytes of answers in the send buffers of slow clients."
        )
        self._refused = _each(
            counter("http_refused", "Requests that were refused.", ["reason"]), map(str, Refusal)
        )

        self._rounds = _each(
            counter("replica_rounds", "Rounds in which the replica follows the database.", ["outcome"]),
            ("done", "failed"),
        )
        self._rounds_behind = gauge("replica_rounds_behind", "Failed rounds since the last good one.")
        self._rebuilds = counter(
            "replica_rebuilds", "Times that a replica was built, the first time included."
        )
        self._fallbacks = _each(
            counter("replica_fallbacks", "Hot reads that the replica could not answer at once.", ["outcome"]),
            map(str, Fallen),
        )
        self._connections = _each(
            gauge("database_pool_connections", "Database connections in the pools.", ["state"]),
            ("busy", "idle"),
        )
        self._waiting = gauge("database_pool_waiting", "Statements that wait for a database connection.")
        self.long_reads = gauge("long_reads", "Reads of whole segments in progress: counts and previews.")

        self._changes = _each(
            counter("membership_changes", "Segments in changes of users, by outcome.", ["outcome"]),
            ("added", "removed", "updated", "unchanged"),
        )
        self._settled = _each(
            counter("users_settled", "Users for whom events of ended memberships were written.", ["why"]),
            ("term", "deletion"),
        )
        self._report_seconds = histogram(
            "segmentd_report_seconds", "Time to build a report.", buckets=_REPORT_BUCKETS_S
        )
        self._report_rows = counter("report_rows", "Rows of the reports that were built.")
        self.report_waiters = gauge("report_waiters", "Requests that wait for a report.")
        self._reports_failed = counter("reports_failed", "Reports that failed.")
        self.imports_received = gauge("imports_received", "Imports whose rows are being received.")
        self.import_waiters = gauge("import_waiters", "Requests that wait for an import.")
        self._imports_ended = _each(
            counter("imports_ended", "Imports that ended.", ["status"]), ("done", "failed", "canceled")
        )
        self._import_users = counter("import_users", "Users whom imports changed, or looked at in a dry run.")
        self._import_paused = counter(
            "import_paused_seconds", "Time for which imports left the node to its replica and to hot reads."
        )

        self.exports_running = gauge("exports_running", "Exports that are being sent.")
        self._exports = _each(counter("exports", "Exports that ended.", ["outcome"]), map(str, ExportEnd))
        self.export_rows = counter("export_rows", "Rows of exports.")

    # Requests

    def answered(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """A request was answered; `route` is the template of its address."""
        # A client must not be able to make new series.
        known = method if method in _METHODS else OTHER_METHOD
        self._requests.labels(known, route or NO_ROUTE, status).observe(seconds)

    def tally(self, method: str, route: str, status: str) -> Tally:
        """Collects the durations of such requests; `answered` takes forty times as long for each.

        All processes of a node ask for the same tallies in the same order.
        """
        labels = {"method": method, "route": route, "status": status}
        if labels not in self._tallied:
            self._requests.labels(**labels)
            self._tallied.append(labels)
        return self._tallies.own[self._tallied.index(labels)]

    def hot_calls(self) -> int:
        """How many calls the tallies of all processes of the node have counted. Reads files."""
        return sum(sum(counted.buckets) for counted in self._tallies.counted())

    def flush(self) -> None:
        """Adds up what the tallies collected since the last time. In the thread that collects it."""
        self._tallies.flush()
        write_unwritten()

    def refused(self, reason: Refusal) -> None:
        """A request was refused."""
        self._refused[reason].inc()

    def answered_with_problem(self, kind: str) -> None:
        """A request was answered with a problem of this kind, which may be a refusal."""
        if (reason := _REFUSALS.get(kind)) is not None:
            self.refused(reason)

    # The replica and the database

    def round_done(self) -> None:
        """The follower brought the replica up to date."""
        self._rounds["done"].inc()
        self._rounds_behind.set(0)

    def round_failed(self) -> None:
        """The follower could not bring the replica up to date."""
        self._rounds["failed"].inc()
        self._rounds_behind.inc()

    def replica_built(self) -> None:
        """A replica was built."""
        self._rebuilds.inc()

    def fell_back(self, outcome: Fallen) -> None:
        """The replica could not answer a hot read at once."""
        self._fallbacks[outcome].inc()

    def pool(self, *, busy: int, idle: int, waiting: int) -> None:
        """How many connections the pool of this process has now, and how many statements wait for one."""
        self._connections["busy"].set(busy)
        self._connections["idle"].set(idle)
        self._waiting.set(waiting)

    # Changes and jobs

    def feed_read(self, reader: FeedReader) -> None:
        """The feed was read from the database."""
        self._feed_readings[reader].inc()

    def changed(self, changed: Sequence[Changed]) -> None:
        """Segments of these users were changed."""
        for outcome, counter in self._changes.items():
            if count := sum(len(getattr(each, outcome)) for each in changed):
                counter.inc(count)

    def settled(self, *, terms: int, deletions: int) -> None:
        """Events of ended memberships were written for so many users."""
        self._settled["term"].inc(terms)
        self._settled["deletion"].inc(deletions)

    def report_made(self, seconds: float, rows: int) -> None:
        """A report was built."""
        self._report_seconds.observe(seconds)
        self._report_rows.inc(rows)

    def report_failed(self) -> None:
        """A report failed."""
        self._reports_failed.inc()

    def import_ended(self, status: str) -> None:
        """An import ended in this way."""
        self._imports_ended[status].inc()

    def import_batch(self, users: int) -> None:
        """An import changed so many users, or looked at them in a dry run."""
        self._import_users.inc(users)

    def import_paused(self, seconds: float) -> None:
        """An import waited until the node's replica had followed."""
        self._import_paused.inc(seconds)

    def export_ended(self, end: ExportEnd) -> None:
        """An export of a segment that exists ended."""
        self._exports[end].inc()

    # The page

    def page(self, others: Iterable[Metric], accept: str) -> Page:
        """All metrics, and `others`, in the format that the header `Accept` asks for. Reads files.

        Of the tallies, what is flushed.
        """
        counted = self._registry.collect() if self._folder is None else added_up(self._folder)
        families = {family.name: family for family in (*counted, *others, _build())}
        # It is missing where the disk is full and no process of the node could keep its figures.
        if requests := families.get(_REQUESTS):
            for labels, tally in zip(self._tallied, self._tallies.counted(), strict=False):
                add_tally(requests, labels, tally)
        return written(families.values(), accept)


Measured = TypeVar("Measured", Counter, Gauge)


def _each(metric: Measured, values: Iterable[str]) -> Mapping[str, Measured]:
    """The metric for each value of its one label; each series exists from the start, at 0."""
    return {value: metric.labels(value) for value in values}


def _build() -> Metric:
    versions = {"version": __version__, "python": platform.python_version()}
    return InfoMetricFamily("segmentd_build", "The version of segmentd and of Python.", versions)
