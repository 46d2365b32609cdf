"""The list of reports is read from its index, however many there are."""

from datetime import UTC, datetime
from typing import Final, LiteralString
from uuid import UUID

import psycopg

from segmentd.domain.reports import ReportKey
from segmentd.storage import reports
from tests.support.plans import Recorder, explained

FILL: Final[LiteralString] = """
    INSERT INTO reports (id, begins_at, ends_at, header, ordered_by, created_at, expires_at)
    SELECT gen_random_uuid(), '2026-01-01Z', '2026-02-01Z', false, 'me',
           '2026-03-01Z'::timestamptz + number * interval '1 minute', '2027-01-01Z'
    FROM generate_series(1, 20000) AS number
"""


async def test_a_page_of_reports_reads_no_more_than_it_shows(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(FILL)
        connection.execute("ANALYZE reports")
        async with Recorder(database_url) as recorder:
            found = await reports.list_before(
                recorder, ReportKey(datetime(2026, 3, 5, tzinfo=UTC), UUID(int=0)), 26
            )
        plan = explained(connection, recorder.sent[0], "auto")

    assert [each.created_at for each in found] == sorted((each.created_at for each in found), reverse=True)
    assert len(found) == 26
    assert plan.indexes("reports") == {"reports_by_time"}
    assert plan.read("reports") == 26
