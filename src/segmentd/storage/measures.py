"""What the database knows of the service's work: jobs, terms that are due, events and reports."""

from collections.abc import Sequence
from typing import Final, LiteralString

import msgspec

from segmentd.domain.errors import Unavailable
from segmentd.domain.reports import Status
from segmentd.storage.database import Database

PATIENCE_S: Final = 1.0


class JobMeasures(msgspec.Struct, frozen=True):
    """The jobs of one task: those that wait and those that are worked on; the others are gone."""

    task: str
    todo: int
    doing: int
    oldest_seconds: float
    """For how long the first of those that wait could have been worked on; 0 where none waits."""


class ReportMeasures(msgspec.Struct, frozen=True):
    """The reports in one state, of those whose files were not removed yet."""

    status: Status
    count: int


class Measures(msgspec.Struct, frozen=True):
    """Figures of the whole database, whichever node asks."""

    jobs: Sequence[JobMeasures]
    reports: Sequence[ReportMeasures]
    report_bytes: int
    """Of the files of all reports."""
    terms_due: int
    """Terms that ended and are not written down; counted up to 100,000."""
    term_due_oldest_seconds: float
    """Since when the first of them is due; 0 where there is none."""
    events_written: int
    """Since PostgreSQL began to count, as at its last crash."""


async def measure(database: Database, patience_s: float = PATIENCE_S) -> Measures:
    """The figures as of now. Raises Unavailable, also where they took too long."""
    measures = await database.one_within(patience_s, Measures, MEASURES)
    if measures is None:
        raise Unavailable
    return measures


# Asked at every scrape, so it reads no table that grows: the queue holds what is not done yet, and the rest
# stands in memberships_due, in reports_to_purge and in PostgreSQL's own statistics.
MEASURES: Final[LiteralString] = """
    SELECT coalesce(jobs.found, '[]') AS jobs, coalesce(kept.found, '[]') AS reports,
           report_bytes() AS report_bytes,
           due.terms AS terms_due, due.oldest AS term_due_oldest_seconds, written.events AS events_written
    FROM (
        SELECT jsonb_agg(j) AS found
        FROM (
            SELECT q.task_name AS task,
                   count(*) FILTER (WHERE q.status = 'todo') AS todo,
                   count(*) FILTER (WHERE q.status = 'doing') AS doing,
                   -- A retry may be scheduled for a moment that has yet to come.
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
        SELECT count(*) AS terms,
               coalesce(extract(epoch FROM reading_instant() - min(d.until)), 0)::float8 AS oldest
        FROM (
            SELECT m.until
            FROM memberships m
            WHERE m.ended_at IS NULL AND m.until <= reading_instant()
            ORDER BY m.until
            -- How many more there are does not matter any more. Behind a subquery, else the planner collects
            -- all of them by a bitmap to sort them.
            LIMIT (SELECT 100000)
        ) d
    ) due, (
        SELECT coalesce(sum(pg_stat_get_tuples_inserted(i.inhrelid)), 0)::bigint AS events
        FROM pg_inherits i
        WHERE i.inhparent = 'membership_events'::regclass
    ) written
"""
