"""The background tasks, run by procrastinate: due terms, partitions, reports. Each runs once in a cluster.

There are two queues, each with a worker and connections of its own, so that upkeep goes on however many
reports there are and however long they take.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple
from uuid import UUID

import psycopg
import structlog
from procrastinate import App, BaseRetryStrategy, JobContext, PsycopgConnector, RetryDecision, RetryStrategy
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, JobDeferrer
from procrastinate.jobs import Status as JobStatus

from segmentd.background import background
from segmentd.domain.errors import Gone, ImportNotFound, ReportStoreFull, SegmentdError, Unavailable
from segmentd.domain.imports import ImportNumber
from segmentd.domain.reports import ReportId, ReportLimits, Status
from segmentd.imports.work import ImportWork
from segmentd.observability.metrics import Metrics
from segmentd.observability.throttled import ThrottledLog
from segmentd.observability.traces import Tracing
from segmentd.reports.build import build
from segmentd.reports.files import ReportFiles
from segmentd.reports.room import claim_of
from segmentd.storage import console_sessions, feed, import_rows, import_work, reports, retention, upkeep
from segmentd.storage.database import Database
from segmentd.storage.job_queue import IMPORTS_AT_ONCE, REPORTS_AT_ONCE, QueueConnector
from segmentd.storage.sessions import reason_of

SHORTEST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 5.0

# How often a worker sends a heartbeat, and after how long without one other workers take over its jobs.
HEARTBEAT_S: Final = 5.0
SILENT_S: Final = 20.0

# croniter reads a sixth field, the last one, as seconds.
EVERY_TEN_SECONDS: Final = "* * * * * */10"
EVERY_MINUTE: Final = "* * * * *"
EVERY_TEN_MINUTES: Final = "*/10 * * * *"
EVERY_HOUR: Final = "0 * * * *"

# The schedule begins again where the machine's clock was set by more, or the machine slept for longer.
CLOCK_STEP_S: Final = 30.0
CLOCK_LOOK_S: Final = 5.0

BUILD_REPORT: Final = "build_report"
WORK_ON_IMPORT: Final = "work_on_import"
ATTEMPTS: Final = 4

_log = structlog.get_logger(__name__)


class Tasks:
    """What the tasks do; the queue that calls them is apart.

    `builds` is the pool for building reports, which uses connections for a long time. The files of all
    reports together have at most `store_bytes`; 0 is no limit. The history is kept for `history_months` at
    least; 0 is for ever.
    """

    def __init__(
        self,
        database: Database,
        files: ReportFiles,
        tracing: Tracing | None = None,
        metrics: Metrics | None = None,
        builds: Database | None = None,
        store_bytes: int = ReportLimits().store_bytes,
        imports: ImportWork | None = None,
        history_months: int = 0,
    ) -> None:
        self._database = database
        self._imports = imports or ImportWork(database, metrics)
        self._builds = builds or database
        self._store_bytes = store_bytes
        self._history_months = history_months
        self._files = files
        self._tracing = tracing
        self._metrics = metrics or Metrics()

    async def settle(self) -> None:
        """Writes the events of terms that ended and of memberships in deleted segments.

        And notes after a fail-over where the timeline began, before PostgreSQL is restarted and forgets it.
        """
        await feed.note_timeline(self._database)
        terms = await upkeep.settle_due_terms(self._database)
        closed = await upkeep.settle_deleted_segments(self._database)
        self._metrics.settled(terms=terms, deletions=closed)
        if terms or closed:
            _log.info("settled", users_with_ended_terms=terms, users_in_deleted_segments=closed)

    async def maintain(self) -> None:
        """Makes the history's partitions three months ahead, removes old erasures, orders, sessions."""
        await upkeep.make_partitions(self._database)
        await upkeep.forget_erasures(self._database)
        await reports.forget(self._database)
        await console_sessions.forget(self._database)

    async def retain(self) -> None:
        """Shortens the history to what is to be kept, and removes what was before it then."""
        if self._history_months:
            await retention.shorten(self._database, self._history_months)
        await retention.remove(self._database)

    async def build_report(self, report_id: ReportId, *, last_attempt: bool) -> None:
        """Builds a report; after an error on the last attempt the report shows the caller the reason."""
        try:
            with contextlib.nullcontext() if self._tracing is None else self._tracing.job(BUILD_REPORT):
                await self._build(report_id)
        except (ReportStoreFull, Gone) as error:  # a retry in some seconds would not help
            self._metrics.report_failed()
            await reports.fail(self._builds, report_id, error.detail)
            _log.warning("report failed", report=str(report_id), reason=error.detail)
        except BaseException as error:  # a stop of the worker may also end the last attempt
            if last_attempt:
                self._metrics.report_failed()
                await reports.fail(self._builds, report_id, _reason(error))
            raise

    async def _build(self, report_id: ReportId) -> None:
        report = await reports.start(self._builds, report_id)
        if report.status is Status.DONE:
            return
        begun = time.monotonic()
        claim = claim_of(self._builds, self._files, report_id, self._store_bytes, self.purge_reports)
        built = await build(self._builds, self._files, report, claim)
        await reports.finish(self._builds, report_id, built)
        self._metrics.report_made(time.monotonic() - begun, built.rows)
        _log.info("report done", report=str(report_id), rows=built.rows, bytes=built.size)

    async def work_on_import(self, number: ImportNumber, *, last_attempt: bool) -> bool:
        """Works on an import for a while; returns whether it is final.

        After an error on the last attempt it has failed, and shows the caller the reason.
        """
        try:
            with contextlib.nullcontext() if self._tracing is None else self._tracing.job(WORK_ON_IMPORT):
                return await self._imports.advance(number)
        except ImportNotFound:  # removed long ago
            return True
        except Exception as error:
            if last_attempt and not isinstance(error, Unavailable):
                await self._imports.fail(number, _reason(error, "The import could not go on"))
            raise

    async def tend_imports(self) -> None:
        """Ends imports whose receiving processes are gone, and removes what is left of final and old ones."""
        if lost := await import_work.fail_silent(self._database):
            _log.warning("imports failed, their receiving processes are gone", imports=lost)
        await import_work.purge(self._database)

    async def purge_reports(self) -> None:
        """Removes the files of expired reports, and unfinished files of killed builds."""
        for report in await reports.expired(self._database):
            await self._files.delete(report.folder)
            await reports.mark_purged(self._database, report.id)


class Queue(NamedTuple):
    """A queue: its name, its tasks, and how many of them run at once."""

    name: str
    app: Callable[[PsycopgConnector, Tasks], App]
    at_once: int


def upkeep_app(connector: PsycopgConnector, tasks: Tasks) -> App:
    """The periodic tasks.

    Each has a lock, so that it runs once at a time, and is in the queue once at most.
    """
    app = App(connector=connector)

    @app.periodic(cron=EVERY_TEN_SECONDS)
    @app.task(name="settle", queue=UPKEEP.name, queueing_lock="settle", lock="settle")
    async def settle(timestamp: int) -> None:  # noqa: ARG001 - passed by name
        await tasks.settle()

    @app.periodic(cron=EVERY_HOUR)
    @app.task(name="maintain", queue=UPKEEP.name, queueing_lock="maintain", lock="maintain")
    async def maintain(timestamp: int) -> None:  # noqa: ARG001 - passed by name
        await tasks.maintain()

    @app.periodic(cron=EVERY_HOUR)
    @app.task(name="retain", queue=UPKEEP.name, queueing_lock="retain", lock="retain")
    async def retain(timestamp: int) -> None:  # noqa: ARG001 - passed by name
        await tasks.retain()

    @app.periodic(cron=EVERY_TEN_MINUTES)
    @app.task(name="purge_reports", queue=UPKEEP.name, queueing_lock="purge_reports", lock="purge_reports")
    async def purge_reports(timestamp: int) -> None:  # noqa: ARG001 - passed by name
        await tasks.purge_reports()

    @app.periodic(cron=EVERY_MINUTE)
    @app.task(name="tend_imports", queue=UPKEEP.name, queueing_lock="tend_imports", lock="tend_imports")
    async def tend_imports(timestamp: int) -> None:  # noqa: ARG001 - passed by name
        await tasks.tend_imports()

    # Without a lock: the dead worker may have been running this very task, and would still hold it.
    @app.periodic(cron=EVERY_TEN_SECONDS)
    @app.task(name="retry_stalled", queue=UPKEEP.name, queueing_lock="retry_stalled")
    async def retry_stalled(timestamp: int) -> None:  # noqa: ARG001 - passed by name
        for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=SILENT_S):
            _log.warning("taking over a job whose worker died", job=job.id, task=job.task_name)
            if job.queueing_lock is None:
                await app.job_manager.retry_job(job)
            else:
                # A periodic task: the next tick has queued it again, and the queue holds it only once.
                await app.job_manager.finish_job(job, status=JobStatus.FAILED, delete_job=True)

    return app


def reports_app(connector: PsycopgConnector, tasks: Tasks) -> App:
    """The task that builds reports."""
    app = App(connector=connector)

    @app.task(
        name=BUILD_REPORT,
        queue=REPORTS.name,
        pass_context=True,
        retry=RetryStrategy(max_attempts=ATTEMPTS, exponential_wait=2),
    )
    async def build_report(context: JobContext, report_id: str) -> None:
        last = context.job.attempts >= ATTEMPTS
        await tasks.build_report(ReportId(UUID(report_id)), last_attempt=last)

    return app


class UntilReachable(BaseRetryStrategy):
    """An import goes on after an outage, however long it took; of other errors it survives a few."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """In some seconds, or never."""
        if isinstance(exception, Unavailable) or not isinstance(exception, Exception):
            return RetryDecision(retry_in={"seconds": 1})
        return RetryDecision(retry_in={"seconds": 2**job.attempts}) if job.attempts < ATTEMPTS else None


def imports_app(connector: PsycopgConnector, tasks: Tasks) -> App:
    """The task that works on imports, a while on each."""
    app = App(connector=connector)

    @app.task(name=WORK_ON_IMPORT, queue=IMPORTS.name, pass_context=True, retry=UntilReachable())
    async def work_on_import(context: JobContext, number: int) -> None:
        last = context.job.attempts >= ATTEMPTS
        if not await tasks.work_on_import(ImportNumber(number), last_attempt=last):
            await _turn_of(app, ImportNumber(number)).defer_async(number=number)

    return app


def _turn_of(
    app: App, number: ImportNumber, connection: psycopg.AsyncConnection | None = None, priority: int = 0
) -> JobDeferrer:
    # As many locks as imports may be worked on at once, on all nodes together.
    lock = f"{WORK_ON_IMPORT} {number % IMPORTS_AT_ONCE}"
    return app.configure_task(
        WORK_ON_IMPORT, connection=connection, queue=IMPORTS.name, lock=lock, priority=priority
    )


UPKEEP: Final = Queue("upkeep", upkeep_app, at_once=4)
REPORTS: Final = Queue("reports", reports_app, REPORTS_AT_ONCE)
IMPORTS: Final = Queue("imports", imports_app, IMPORTS_AT_ONCE)


def report_queue() -> reports.Enqueue:
    """A function that puts a report into the queue, in its caller's transaction."""
    app = App(connector=PsycopgConnector())  # never opened: each call passes its connection

    async def enqueue(connection: psycopg.AsyncConnection, report_id: ReportId, under_way: int) -> None:
        # Callers take turns: the first report of one caller comes before the hundredth of another.
        task = app.configure_task(
            BUILD_REPORT, connection=connection, queue=REPORTS.name, priority=-under_way
        )
        with _in_a_caller_s_transaction():
            await task.defer_async(report_id=str(report_id))

    return enqueue


def import_queue() -> import_rows.Enqueue:
    """A function that puts the work on an import into the queue, in its caller's transaction."""
    app = App(connector=PsycopgConnector())  # never opened: each call passes its connection

    async def enqueue(connection: psycopg.AsyncConnection, number: ImportNumber, under_way: int) -> None:
        with _in_a_caller_s_transaction():
            await _turn_of(app, number, connection, -under_way).defer_async(number=number)

    return enqueue


@contextlib.contextmanager
def _in_a_caller_s_transaction() -> Iterator[None]:
    """The queue's errors are PostgreSQL's own, as those of the caller's statements: 503 where it is away."""
    try:
        yield
    except ConnectorException as error:
        if isinstance(error.__cause__, psycopg.Error):
            raise error.__cause__ from error
        raise


async def work(database_url: str, tasks: Tasks, stop: asyncio.Event, drain_seconds: float) -> None:
    """Runs the tasks until `stop`; after an outage of the database it goes on by itself."""
    async with asyncio.TaskGroup() as group:
        for queue in (UPKEEP, REPORTS, IMPORTS):
            group.create_task(_keep_working(queue, database_url, tasks, stop, drain_seconds))


async def _keep_working(
    queue: Queue, database_url: str, tasks: Tasks, stop: asyncio.Event, drain_seconds: float
) -> None:
    pause = SHORTEST_PAUSE_S
    throttled = ThrottledLog(_log)
    async with background(stop.wait(), "wait for the stop") as stopping:
        while not stop.is_set():
            working = asyncio.create_task(_work_once(queue, database_url, tasks, stop, drain_seconds))
            async with background(_clock_step(), "wait for a step of the clock") as step:
                # Reports have no schedule, and a restart would cut their builds off.
                ends = [working, stopping, *([step] if queue is UPKEEP else [])]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            working.cancel()
            try:
                await working
            except asyncio.CancelledError:
                continue
            except (ConnectorException, SegmentdError, psycopg.Error) as error:
                throttled.warning(
                    "background jobs wait for the database", queue=queue.name, error=reason_of(error)
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)


async def _clock_step() -> None:
    """Ends when the machine's clock has been set, or the machine has slept.

    procrastinate goes through all ticks since its latest one: after a day of sleep these are thousands, and
    where the clock was set back by an hour, there are none for an hour. A new worker begins with the present.
    """
    before = _clock_offset()
    while abs(_clock_offset() - before) < CLOCK_STEP_S:  # noqa: ASYNC110 - it sets no event
        await asyncio.sleep(CLOCK_LOOK_S)
    _log.info("the clock of this machine was set, or it slept: the schedule of jobs begins again")


def _clock_offset() -> float:
    return time.time() - time.monotonic()


async def _work_once(
    queue: Queue, database_url: str, tasks: Tasks, stop: asyncio.Event, drain_seconds: float
) -> None:
    """Runs until it is cancelled; then lets running jobs end, for so many seconds."""
    app = queue.app(QueueConnector(database_url, stop), tasks)
    async with app.open_async():
        if queue is UPKEEP:
            await tasks.maintain()  # its next tick may be almost an hour away
        await app.run_worker_async(
            queues=[queue.name],
            concurrency=queue.at_once,
            install_signal_handlers=False,
            delete_jobs="always",  # the row of a report has its result
            shutdown_graceful_timeout=drain_seconds,
            update_heartbeat_interval=HEARTBEAT_S,
            stalled_worker_timeout=SILENT_S,
        )


def _reason(error: BaseException, what: str = "The report could not be made") -> str:
    """What a caller may see of an error: our own words or the operating system's, never SQL."""
    match error:
        case SegmentdError():
            return error.detail
        case OSError():
            return f"The file could not be written: {error.strerror or type(error).__name__}."
        case _:
            return f"{what} ({type(error).__name__}); the log has the details."
