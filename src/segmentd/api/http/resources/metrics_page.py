"""The page for Prometheus: the metrics of the whole node, whichever of its processes answers."""

import asyncio
from collections.abc import Iterator
from typing import Final

from litestar import Response, Router, get
from litestar.di import NamedDependency
from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

from segmentd.api.http.types import AnyRequest, UseCases
from segmentd.domain.imports import Status as ImportStatus
from segmentd.domain.reports import Status
from segmentd.observability.metrics import Metrics
from segmentd.replica.kernel import BEST
from segmentd.replica.replica import ReplicaMeasures
from segmentd.storage.measures import Measures

Meters = NamedDependency[Metrics]


@get("/metrics", include_in_schema=False)
async def metrics(request: AnyRequest, service: UseCases, meters: Meters) -> Response[bytes]:
    """All metrics, in Prometheus's text format or as OpenMetrics."""
    database, replica, report_bytes_limit, import_bytes_limit, has_database = await service.measure()
    others: list[Metric] = [
        InfoMetricFamily("segmentd_kernel", "What computes the segments of users.", {"kernel": BEST.name}),
        *([] if database is None else _of_database(database)),
        *([] if replica is None else _of_replica(replica)),
    ]
    if has_database:
        up = database is not None
        others.append(_gauge("database_up", "Whether the database answered this scrape in time.", up))
        others += _limits(report_bytes_limit, import_bytes_limit)
    meters.flush()
    # In a thread, so that hot reads go on while the files of all processes are added up.
    page = await asyncio.to_thread(meters.page, others, request.headers.get("Accept", ""))
    return Response(page.content, headers={"Content-Type": page.content_type})


metrics_router: Final = Router("/", route_handlers=[metrics])


def _limits(report_bytes: int, import_bytes: int) -> Iterator[Metric]:
    yield _gauge(
        "report_store_limit_bytes",
        "Limit for the bytes of the files of all reports; 0 is no limit.",
        report_bytes,
    )
    yield _gauge(
        "import_store_limit_bytes",
        "Limit for the bytes of the rows of all imports; 0 is no limit.",
        import_bytes,
    )


def _of_replica(replica: ReplicaMeasures) -> Iterator[Metric]:
    if replica.age_seconds is not None:
        yield _gauge("replica_age_seconds", "Age of the node's replica.", replica.age_seconds)
    if replica.users is not None:
        yield _gauge("replica_users", "Users with a state in the node's replica.", replica.users)
    yield _gauge(
        "replica_users_behind",
        "Changed users whose changes are not in the replica yet.",
        replica.users_behind,
    )


def _of_database(found: Measures) -> Iterator[Metric]:
    """The same on every node of a database."""
    jobs = GaugeMetricFamily("segmentd_jobs", "Jobs that are not done.", labels=["task", "status"])
    oldest = GaugeMetricFamily("segmentd_job_oldest_seconds", "Longest wait of a job.", labels=["task"])
    for each in found.jobs:
        jobs.add_metric([each.task, "todo"], each.todo)
        jobs.add_metric([each.task, "doing"], each.doing)
        oldest.add_metric([each.task], each.oldest_seconds)
    reports = GaugeMetricFamily("segmentd_reports", "Reports that have not expired.", labels=["status"])
    counts = {each.status: each.count for each in found.reports}
    for status in Status:
        reports.add_metric([status], counts.get(status, 0))
    imports = GaugeMetricFamily("segmentd_imports", "Imports that are under way.", labels=["status"])
    imports_found = {each.status: each.count for each in found.imports}
    for import_status in (each for each in ImportStatus if not each.final):
        imports.add_metric([import_status], imports_found.get(import_status, 0))
    yield from (jobs, oldest, reports, imports)
    yield _gauge("report_store_bytes", "Bytes of the files of all reports.", found.report_bytes)
    yield _gauge("import_store_bytes", "Bytes of the rows of all imports.", found.import_bytes)
    yield _gauge("terms_due", "Terms that ended and have no event yet.", found.terms_due)
    yield _gauge(
        "term_due_oldest_seconds",
        "For how long the oldest of these terms has been due.",
        found.term_due_oldest_seconds,
    )
    yield _gauge("history_months", "Months of the history that have a partition.", found.history_months)
    yield _gauge(
        "history_begins_timestamp_seconds",
        "When the history begins, in seconds since 1970; 0 where nothing was removed.",
        found.history_begins_at,
    )
    yield _gauge("segments", "Living segments.", found.segments)
    yield _gauge("audit_log_entries", "Entries of the audit log.", found.audit_entries)
    yield CounterMetricFamily(
        "segmentd_events_written", "Events that all nodes wrote to the history.", found.events_written
    )


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"segmentd_{name}", documentation, value)
