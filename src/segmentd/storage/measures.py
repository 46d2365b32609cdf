"""Figures of the service's work that only the database has: jobs, terms that are due, events and reports."""

from collections.abc import Sequence
from typing import Final, LiteralString

import msgspec

from segmentd.domain.errors import Unavailable
from segmentd.domain.imports import Status as ImportStatus
from segmentd.domain.reports import Status
from segmentd.storage.database import Database

PATIENCE_S: Final = 1.0


class JobMeasures(msgspec.Struct, frozen=True):
    """The waiting and the running jobs of one task; finished jobs are deleted."""

    task: str
    todo: int
    doing: int
    oldest_seconds: float
    """For how long the first waiting job could have been running; 0 if none waits."""


class ReportMeasures(msgspec.Struct, frozen=True):
    """The reports in one state whose files were not removed yet."""

    status: Status
    count: int


class ImportMeasures(msgspec.Struct, frozen=True):
    """The imports in one state that is not final."""

    status: ImportStatus
    count: int


class Measures(msgspec.Struct, frozen=True):
    """Figures of the whole database, the same on every node."""

    jobs: Sequence[JobMeasures]
    reports: Sequence[ReportMeasures]
    report_bytes: int
    """The bytes of the files of all reports."""
    imports: Sequence[ImportMeasures]
    import_bytes: int
    """The bytes that all imports store."""
    terms_due: int
    """Terms that ended and have no event yet; counted up to 100,000."""
    term_due_oldest_seconds: float
    """Since when the first of them is due; 0 where there is none."""
    events_written: int
    """Events written since PostgreSQL's counters began; a crash of PostgreSQL resets them."""
    history_months: int
    """The months of the history that have a partition, those to come included."""
    history_begins_at: float
    """The beginning of the history, in seconds since 1970; 0 where nothing was removed."""
    segments: int
    """Living segments: every node keeps them in memory."""
    audit_entries: int
    """Entries of the audit log, which only grows."""


async def measure(database: Database, patience_s: float = PATIENCE_S) -> Measures:
    """The present figures. Raises Unavailable, also if they took too long."""
    measures = await database.one_within(patience_s, Measures, MEASURES)
    if measures is None:
        raise Unavailable
    return measures


# Every scrape runs this, so it reads no table that grows: the queue holds only unfinished jobs, and segments
# are few. The other figures come from the indexes memberships_due and reports_to_purge, and from statistics.
MEASURES: Final[LiteralString] = """
    SELECT coalesce(jobs.found, '[]') AS jobs, coalesce(kept.found, '[]') AS reports,
           report_bytes() AS report_bytes, coalesce(lists.found, '[]') AS imports,
           import_bytes() AS import_bytes,
           due.terms AS terms_due, due.oldest AS term_due_oldest_seconds, written.events AS events_written,
           written.months AS history_months,
           (SELECT coalesce(extract(epoch FROM begins_at), 0)::float8 FROM kept_history) AS history_begins_at,
           (SELECT count(*) FROM segments WHERE deleted_at IS NULL) AS segments,
           -- Each entry is numbered, so this asks an index. Undone changes may leave gaps.
           (SELECT coalesce(max(id), 0) FROM audit_log) AS audit_entries
    FROM (
        SELECT jsonb_agg(j) AS found
        FROM (
            SELECT q.task_name AS task,
                   count(*) FILTER (WHERE q.status = 'todo') AS todo,
                   count(*) FILTER (WHERE q.status = 'doing') AS doing,
                   -- A retry may be scheduled for a later time.
                   greatest(extract(epoch FROM clock_timestamp() - min(coalesce(q.scheduled_at, e.at))
                       FILTER (WHERE q.status = 'todo')), 0)::float8 AS oldest_seconds
            FROM procrastinate_jobs q
            LEFT JOIN procrastinate_events e ON e.job_id = q.id AND e.type = 'deferred'
            GROUP BY q.task_name
        ) j
    ) jobs, (
        SELECT jsonb_agg(r) AS found
        FROM (SELECT status, count(*) AS count FROM reports WHERE purged_at IS NULL GROUP BY status) r
    ) kept, (
        SELECT jsonb_agg(i) AS found
        FROM (SELECT status, count(*) AS count FROM imports WHERE finished_at IS NULL GROUP BY status) i
    ) lists, (
        SELECT count(*) AS terms,
               coalesce(extract(epoch FROM reading_instant() - min(d.until)), 0)::float8 AS oldest
        FROM (
            SELECT m.until
            FROM memberships m
            WHERE m.ended_at IS NULL AND m.until <= reading_instant()
            ORDER BY m.until
            -- Beyond this number the exact count does not matter. A subquery, else the planner collects
            -- all of them by a bitmap to sort them.
            LIMIT (SELECT 100000)
        ) d
    ) due, (
        SELECT coalesce(sum(pg_stat_get_tuples_inserted(i.inhrelid)), 0)::bigint
               + coalesce(removed_events(), 0) AS events, count(*) AS months
        FROM pg_inherits i
        WHERE i.inhparent = 'membership_events'::regclass
    ) written
"""
