"""Detail and explanation cost by what they are asked for, not by how long the user's life is."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final, LiteralString

import psycopg
import pytest

from segmentd.domain.identifiers import Slug, UserId
from segmentd.storage import history
from tests.support.plans import PLAN_MODES, Recorder, explained, settle

SHORT: Final = UserId(1)  # a few decisions, in segments of which each has a percentage
MANY: Final = UserId(2)  # 15,000 decisions, in twenty segments
ONE: Final = UserId(3)  # 15,000 decisions, all in one segment

FILL: LiteralString = """
    INSERT INTO segments (slug, salt, created_at)
    SELECT 'S' || number, number, '2025-01-01Z' FROM generate_series(1, 100) AS number;
    INSERT INTO rollouts (segment_id, percent, started_at, ended_at)
    SELECT id, 50, '2025-01-01Z', '2025-03-01Z' FROM segments WHERE id <= 20;
    INSERT INTO rollouts (segment_id, percent, started_at)
    SELECT id, 70, '2025-03-01Z' FROM segments WHERE id <= 20;
    INSERT INTO users (id, registered_at, last_at)
    SELECT id, '2025-01-01Z', '2025-07-01Z' FROM generate_series(1, 3) AS id;
    INSERT INTO registrations (user_id, registered_at) SELECT id, registered_at FROM users;
    SELECT ensure_event_partition('2025-01-01Z'::timestamptz + month * interval '1 month')
    FROM generate_series(0, 5) AS month;

    INSERT INTO memberships (user_id, segment_id, included, since, ended_at)
    SELECT user_id, segment_id, true, since, since + interval '5 minutes'
    FROM (
        SELECT 1 AS user_id, number AS segment_id,
               '2025-01-02Z'::timestamptz + number * interval '1 day' AS since
        FROM generate_series(1, 20) AS number
        UNION ALL
        SELECT 2, 1 + number % 20, '2025-01-02Z'::timestamptz + number * interval '10 minutes'
        FROM generate_series(1, 15000) AS number
        UNION ALL
        SELECT 3, 7, '2025-01-02Z'::timestamptz + number * interval '10 minutes'
        FROM generate_series(1, 15000) AS number
    ) AS decided;
    INSERT INTO membership_events (user_id, segment_id, at, operation, effective, cause, actor)
    SELECT user_id, segment_id, since, 'add'::event_operation, true, 'request'::event_cause, 'anonymous'
    FROM memberships
    UNION ALL
    SELECT user_id, segment_id, ended_at, 'remove', true, 'request', 'anonymous' FROM memberships;
"""

INSTANTS: Final = {
    "now": None,
    "in the middle": datetime(2025, 3, 20, 12, 2, tzinfo=UTC),
    "near the beginning": datetime(2025, 1, 4, 0, 2, tzinfo=UTC),
}
QUESTIONS: Final[dict[str, Callable[..., Awaitable[object]]]] = {
    "detail": history.segments_at,
    "explanation": partial(history.explain, slug=Slug("S7")),
}


@pytest.fixture
async def recorder(database_url: str) -> AsyncIterator[Recorder]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(FILL)
        settle(connection)
    async with Recorder(database_url) as recorder:
        yield recorder


@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_long_life_costs_what_a_short_one_does(
    recorder: Recorder, database_url: str, question: str
) -> None:
    for name, at in INSTANTS.items():
        for mode in PLAN_MODES:
            costs = {}
            for user in (SHORT, MANY, ONE):
                recorder.sent.clear()
                await QUESTIONS[question](recorder, user_id=user, at=at)
                with psycopg.connect(database_url, autocommit=True) as connection:
                    plan = explained(connection, recorder.sent[-1], mode)
                costs[user] = plan.buffers
                # One event of each month at most, for each segment that is asked for.
                assert plan.read("membership_events") <= (20 * 6 if question == "detail" else 6), name
            assert max(costs.values()) <= 3 * costs[SHORT] + 50, (name, mode, costs)
