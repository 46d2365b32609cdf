"""How the parts are put together, for every process; `http_door` does it for those that serve HTTP."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from segmentd import __version__
from segmentd.auth.authenticator import AccessRules, Authenticator
from segmentd.auth.known_tokens import KnownTokens
from segmentd.auth.rate_limit import RateLimit
from segmentd.background import background
from segmentd.config import Settings
from segmentd.domain.exports import ExportLimits
from segmentd.domain.imports import ImportLimits
from segmentd.domain.reports import ReportLimits
from segmentd.exports import Exports
from segmentd.feed.following import Feed
from segmentd.imports.desk import ImportDesk
from segmentd.jobs import import_queue, report_queue
from segmentd.observability.metrics import Metrics
from segmentd.observability.traces import Tracing, set_up_tracing
from segmentd.replica.fallback import Fallback, NoFallback
from segmentd.replica.node import Node
from segmentd.replica.notifications import Notifier
from segmentd.replica.replica import Replica
from segmentd.replica.watching import Watchers
from segmentd.reports.desk import ReportDesk, ReportTerms
from segmentd.reports.files import ReportFiles
from segmentd.serve.first_token import jwt_verifier
from segmentd.serve.tallied import TALLIED
from segmentd.service import Service
from segmentd.storage.database import Database
from segmentd.storage.no_database import Nowhere
from segmentd.storage.signing_keys import SigningKeys
from segmentd.streams import Streams

# How often a process updates the metrics of its pool and flushes its tallies of hot calls.
MEASURE_EVERY_S: Final = 0.25
# The share of request_seconds that an order may wait for its report; the rest is for the order itself.
WAITING_SHARE: Final = 6 / 7


def service(
    database: Database,
    settings: Settings,
    node: Node | None = None,
    metrics: Metrics | None = None,
    export_database: Database | None = None,
) -> Service:
    """The use cases on a database, and on a node's replica if there is one.

    Exports use connections of `export_database`, if it is given.
    """
    measured = metrics or Metrics()
    longest_wait_s = settings.request_seconds * WAITING_SHARE
    keys = settings.report_key, settings.report_key_before
    reports = ReportDesk(
        database,
        report_files(settings),
        report_queue(),
        SigningKeys(database, [key.encode() for key in keys if key]),
        ReportTerms(
            timedelta(days=settings.report_days),
            ReportLimits(settings.reports_per_caller, settings.report_store_bytes),
            longest_wait_s,
        ),
        measured,
    )
    limits = ImportLimits(settings.imports_per_caller, settings.import_store_bytes)
    imports = ImportDesk(database, import_queue(), measured, limits, longest_wait_s)
    export_limits = ExportLimits(settings.exports_at_once, settings.export_seconds)
    exports = Exports(export_database or database, export_limits, measured)
    streams = Streams(settings.max_streams, measured.event_streams) if node is None else node.watchers.streams
    feed = Feed(database, measured, streams, longest_wait_s)
    return Service(database, reports, imports, exports, feed, node, measured)


def database_of(
    database_url: str, settings: Settings, pool_size: int, *, idle: int = 1, tracing: Tracing | None = None
) -> Database:
    """The database; where the node follows another one, what stands for it."""
    if settings.follow is not None:
        return Nowhere(settings.follow)
    return Database(database_url, pool_size=pool_size, idle=idle, tracing=tracing)


@asynccontextmanager
async def open_node(
    database: Database, settings: Settings, folder: Path, metrics: Metrics | None = None
) -> AsyncIterator[Node]:
    """The replica in this folder, and a notifier that runs while the context lives."""
    notifier = Notifier(database)
    async with background(notifier.run(), "notify the other nodes"):
        with closing(Replica(folder, settings.max_age_seconds)) as replica:
            metrics = metrics or Metrics()
            watchers = Watchers(replica, Streams(settings.max_streams, metrics.event_streams))
            follows = settings.follow is not None
            # Nothing but the replica can answer, so stale answers do not wait for anything.
            replica.has_no_bound = follows and settings.serve_stale
            fallback = NoFallback() if follows else Fallback(settings.pool_size)
            async with (
                background(replica.share_status(), "share the replica's status"),
                background(watchers.run(), "look for changes of watched users"),
            ):
                yield Node(
                    replica, notifier, watchers, settings.serve_stale, fallback, metrics, follows=follows
                )


@asynccontextmanager
async def open_authenticator(
    database_url: str, settings: Settings, folder: Path, *, may_be_open: bool, rate_key: bytes
) -> AsyncIterator[Authenticator]:
    """Knows who is calling as long as the context lives, by a connection of its own that nothing delays."""
    async with AsyncExitStack() as stack:
        limit = None
        if settings.rate_limit:
            limit = RateLimit.open(folder / "rates", settings.rate_limit, rate_key)
            stack.enter_context(closing(limit))
        rules = AccessRules(
            may_be_open=may_be_open,
            bound_seconds=math.inf if settings.serve_stale else settings.max_age_seconds,
            jwt=jwt_verifier(settings),
            rate_limit=limit,
        )
        database = (
            None
            if settings.follow is not None
            else await stack.enter_async_context(Database(database_url, pool_size=1))
        )
        left = stack.enter_context(closing(KnownTokens(folder)))
        for memory in (left.memory, *([limit.memory] if limit else [])):
            sharing = background(memory.share_when_there_is_room(), "share memory of the node")
            await stack.enter_async_context(sharing)
        authenticator = Authenticator(database, rules, left)
        await stack.enter_async_context(authenticator.watching())
        yield authenticator


@contextmanager
def open_tracing() -> Iterator[Tracing | None]:
    """Tracing, if the OTEL_ variables ask for it; the end of the context sends the last spans."""
    tracing = set_up_tracing(__version__)
    try:
        yield tracing
    finally:
        if tracing is not None:
            tracing.close()


@asynccontextmanager
async def sampling(database: Database, metrics: Metrics | None) -> AsyncIterator[None]:
    """Measures the pool and flushes the tallies while the context lives, if metrics are on."""
    if metrics is None:
        yield
        return
    try:
        async with background(_sample(database, metrics), "sample"):
            yield
    finally:
        metrics.flush()


async def _sample(database: Database, metrics: Metrics) -> None:
    while True:
        metrics.flush()
        metrics.pool(**database.load()._asdict())
        await asyncio.sleep(MEASURE_EVERY_S)


def metrics_in(folder: str | None) -> Metrics | None:
    """The metrics of a process; None if metrics are off.

    All processes of a node have the same tallies, in the same order, so that one page shows those of all.
    """
    if folder is None:
        return None
    metrics = Metrics(Path(folder))
    for tallied in TALLIED:
        metrics.tally(*tallied)
    return metrics


def report_files(settings: Settings) -> ReportFiles:
    """Where report files are stored."""
    return ReportFiles.at(settings.report_store, Path(settings.data_dir, "reports"))
