"""Every question that is asked often is answered out of an index, however large the tables are."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, LiteralString

import psycopg
import pytest

from segmentd.domain.identifiers import Slug, UserId
from segmentd.domain.instants import Span
from segmentd.domain.pages import Limit
from segmentd.storage import history, measures, members, memberships, segments, users
from segmentd.storage.history import HistoryKey
from segmentd.storage.members import FEW_MOVED, LEAST_USERS, MOST_SCANNED, MOVED, TALLY_NOW, TALLY_THEN
from tests.support.plans import PLAN_MODES, Node, Plan, Recorder, Statement, explained, nested_plans, settle
from tests.support.postgres import database_of, new_database, shared_by_workers

USERS: Final = 200_000
MONTHS: Final = 6
BIG: Final = Slug("BIG")  # every user by a stored decision
HALF: Final = Slug("HALF")  # a rollout, with a stored decision for every second user
NEW_ROLLOUT: Final = Slug("ROLLOUT")  # a rollout with nothing stored
SPARSE: Final = Slug("SPARSE")  # the same, of very few users
USER: Final = UserId(1000)
LARGE_TABLES: Final = ("users", "registrations", "memberships", "membership_events")

FILL: LiteralString = """
    INSERT INTO users (id, registered_at, last_at)
    SELECT id, '2025-01-01Z', '2025-01-02Z' FROM generate_series(1, %(users)s) AS id;

    INSERT INTO registrations (user_id, registered_at) SELECT id, registered_at FROM users;

    INSERT INTO segments (slug, salt, created_at)
    SELECT slug, row_number() OVER (), '2025-01-01Z'
    FROM (VALUES ('BIG'), ('HALF'), ('ROLLOUT')) AS named (slug);
    INSERT INTO segments (slug, salt, created_at)
    SELECT 'S' || number, number, '2025-01-01Z' FROM generate_series(1, 2000) AS number;

    INSERT INTO rollouts (segment_id, percent, started_at)
    SELECT id, 50, '2025-01-01Z' FROM segments WHERE slug IN ('HALF', 'ROLLOUT') OR slug LIKE 'S1__';

    INSERT INTO segments (slug, salt, created_at) VALUES ('SPARSE', 1, '2025-01-01Z');
    INSERT INTO rollouts (segment_id, percent, started_at)
    SELECT id, 0.01, '2025-01-01Z' FROM segments WHERE slug = 'SPARSE';

    INSERT INTO memberships (user_id, segment_id, included, since)
    SELECT u.id, s.id, true, '2025-01-02Z'
    FROM users u JOIN segments s ON s.slug = 'BIG' OR (s.slug = 'HALF' AND u.id %% 2 = 0);
    -- Some in other segments: with a past, with a term ahead, and with one that ended and is not settled.
    INSERT INTO memberships (user_id, segment_id, included, since, until, ended_at)
    SELECT u.id, s.id, true, '2025-01-02Z',
           (ARRAY [NULL, '2099-01-01Z', '2025-03-01Z'])[u.id / 4 %% 3 + 1]::timestamptz,
           CASE WHEN u.id %% 3 = 0 THEN timestamptz '2025-02-01Z' END
    FROM users u JOIN segments s ON s.slug = 'S' || (u.id %% 2000 + 1)
    WHERE u.id %% 4 = 0;

    -- Deletions that are not settled, of segments and of other users.
    UPDATE segments SET deleted_at = '2025-06-01Z' WHERE slug LIKE 'S19__';
    INSERT INTO users (id, registered_at, deleted_at, last_at)
    SELECT id, '2025-01-01Z', '2025-01-02Z', '2025-01-02Z' FROM generate_series(1000001, 1020000) AS id;
    INSERT INTO registrations (user_id, registered_at, ended_at)
    SELECT id, registered_at, deleted_at FROM users WHERE deleted_at IS NOT NULL;

    -- Earlier segments under a slug that is in use.
    INSERT INTO segments (slug, salt, created_at, deleted_at, settled_at)
    SELECT 'BIG', 1, '2024-01-01Z', deleted_at, deleted_at
    FROM generate_series('2024-01-02Z', '2024-06-01Z', interval '1 day') AS deleted_at;

    SELECT ensure_event_partition('2025-01-01Z'::timestamptz + month * interval '1 month')
    FROM generate_series(0, %(months)s - 1) AS month;

    INSERT INTO membership_events (user_id, segment_id, at, operation, effective, cause, actor)
    SELECT 1 + number %% 5000, 4 + month,
           '2025-01-02Z'::timestamptz + month * interval '1 month' + number * interval '1 s',
           (CASE WHEN number %% 2 = 0 THEN 'add' ELSE 'remove' END)::event_operation,
           true, 'request', 'anonymous'
    FROM generate_series(0, %(months)s - 1) AS month, generate_series(1, 30000) AS number;
"""


@contextmanager
def filled_template(server_url: str, template: str) -> Iterator[str]:
    """The name of a database with large tables."""
    with new_database(server_url, template) as url:
        with closing(
            psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor)
        ) as connection:
            connection.execute(FILL, {"users": USERS, "months": MONTHS})
            settle(connection)
        yield database_of(url)


@pytest.fixture(scope="session")
def large_template(postgres_url: str, template_database: str, shared_dir: Path) -> Iterator[str]:
    filled = partial(filled_template, postgres_url, template_database)
    with shared_by_workers(shared_dir / "large", filled) as name:
        yield name


@pytest.fixture(scope="session")
def large_url(postgres_url: str, large_template: str, shared_dir: Path) -> Iterator[str]:
    """Large tables for the tests that only read."""
    with shared_by_workers(
        shared_dir / "large-read", partial(new_database, postgres_url, large_template)
    ) as url:
        yield url


@pytest.fixture(scope="session")
def changed_url(postgres_url: str, large_template: str, shared_dir: Path) -> Iterator[str]:
    """Large tables for the tests that change them, which makes pages dear even when it is undone."""
    with shared_by_workers(
        shared_dir / "large-changed", partial(new_database, postgres_url, large_template)
    ) as url:
        yield url


@pytest.fixture
async def recorder(large_url: str) -> AsyncIterator[Recorder]:
    async with Recorder(large_url) as recorder:
        yield recorder


Ask = Callable[[Recorder], Awaitable[object]]


async def plans_of(recorder: Recorder, url: str, ask: Ask, mode: LiteralString) -> list[Plan]:
    """How PostgreSQL runs each statement that a question to the storage sends."""
    recorder.sent.clear()
    await ask(recorder)
    with psycopg.connect(url, autocommit=True) as connection:
        return [explained(connection, statement, mode) for statement in recorder.sent]


def month(number: int) -> datetime:
    return datetime(2025, number, 1, tzinfo=UTC)


def read_in_full(plan: Plan) -> list[str]:
    """The large tables that were read from end to end."""
    full = ("Seq Scan", "Parallel Seq Scan", "Sample Scan")
    return [
        table
        for table in LARGE_TABLES
        for node in plan.scans(table)
        if node["Node Type"] in full and _rows(node)
    ]


def _rows(node: Node) -> float:
    return float(node["Actual Rows"] + node.get("Rows Removed by Filter", 0))


# A user's history


async def test_a_history_is_read_by_user_and_time_in_each_month(recorder: Recorder, large_url: str) -> None:
    for mode in PLAN_MODES:
        *_, plan = await plans_of(recorder, large_url, partial(whole_history, after=None), mode)
        used = plan.indexes("membership_events")
        for number in range(1, MONTHS + 1):
            assert f"membership_events_2025_{number:02}_pkey" in used
        assert plan.read("membership_events") == 6 * MONTHS


async def whole_history(recorder: Recorder, after: HistoryKey | None) -> None:
    await history.events_after(recorder, USER, await history.moment_of(recorder, USER), Span(), after, 1000)


async def test_the_latest_events_are_read_from_the_end_of_each_index(
    recorder: Recorder, large_url: str
) -> None:
    async def ask(recorder: Recorder) -> None:
        await history.events_before(recorder, USER, await history.moment_of(recorder, USER), Span(), None, 5)

    async def ask_before(recorder: Recorder) -> None:
        await history.events_before(
            recorder,
            USER,
            await history.moment_of(recorder, USER),
            Span(),
            HistoryKey(month(3), Slug("S1"), 4),
            5,
        )

    for mode in PLAN_MODES:
        *_, plan = await plans_of(recorder, large_url, ask, mode)
        used = plan.indexes("membership_events")
        assert f"membership_events_2025_{MONTHS:02}_pkey" in used
        assert read_in_full(plan) == []
        *_, earlier = await plans_of(recorder, large_url, ask_before, mode)
        assert f"2025_{MONTHS:02}" not in earlier.months()


async def test_a_period_of_a_history_touches_only_the_months_in_it(
    recorder: Recorder, large_url: str
) -> None:
    async def ask(recorder: Recorder) -> None:
        await history.events_after(
            recorder, USER, await history.moment_of(recorder, USER), Span(month(2), month(4)), None, 1000
        )

    for mode in PLAN_MODES:
        *_, plan = await plans_of(recorder, large_url, ask, mode)
        assert plan.months() == ["2025_02", "2025_03"]


async def test_the_next_page_of_a_history_touches_no_month_before_its_cursor(
    recorder: Recorder, large_url: str
) -> None:
    cursor = HistoryKey(month(5), Slug("S1"), 4)
    for mode in PLAN_MODES:
        *_, plan = await plans_of(recorder, large_url, partial(whole_history, after=cursor), mode)
        assert plan.months()[:2] == ["2025_05", "2025_06"]


async def test_the_past_touches_no_month_after_the_instant_that_is_asked_for(
    recorder: Recorder, large_url: str
) -> None:
    async def ask(recorder: Recorder) -> None:
        await history.segments_at(recorder, USER, month(3))

    for mode in PLAN_MODES:
        *_, plan = await plans_of(recorder, large_url, ask, mode)
        assert plan.months()[-1] <= "2025_03"


# The users of a segment

NOW_AND_THEN: Final = (None, month(3))


def page_of(slug: Slug, at: datetime | None, after: int, limit: int) -> Ask:
    return partial(members.members_after, slug=slug, at=at, after=UserId(after), limit=Limit(limit))


@pytest.mark.parametrize("mode", PLAN_MODES)
@pytest.mark.parametrize("at", NOW_AND_THEN)
@pytest.mark.parametrize("limit", [1, 1000])
@pytest.mark.parametrize("slug", [BIG, HALF, NEW_ROLLOUT])
async def test_the_last_page_of_a_segment_costs_what_the_first_does(
    recorder: Recorder, large_url: str, slug: Slug, limit: int, at: datetime | None, mode: LiteralString
) -> None:
    costs = []
    for after in (0, USERS // 2, USERS - LEAST_USERS - 1):
        *_, plan = await plans_of(recorder, large_url, page_of(slug, at, after, limit), mode)
        costs.append((plan.rows, plan.buffers))
    rows, buffers = zip(*costs, strict=True)
    assert max(rows) <= 2 * min(rows)
    assert max(buffers) <= 2 * min(buffers)


@pytest.mark.parametrize("mode", PLAN_MODES)
@pytest.mark.parametrize("at", NOW_AND_THEN)
@pytest.mark.parametrize("slug", [BIG, HALF, NEW_ROLLOUT, SPARSE])
async def test_a_page_of_a_segment_reads_a_bounded_piece_of_each_index_from_its_cursor_on(
    recorder: Recorder, large_url: str, slug: Slug, at: datetime | None, mode: LiteralString
) -> None:
    *_, plan = await plans_of(recorder, large_url, page_of(slug, at, USERS // 2, 100), mode)

    looked_at = MOST_SCANNED if slug == SPARSE else LEAST_USERS
    # Each entry once to find the end of the page, and once to find the members.
    assert plan.read("memberships") <= 2 * looked_at
    assert plan.read("registrations") <= 2 * looked_at
    walked = "memberships" if slug == BIG else "registrations"
    conditions = [node["Index Cond"] for node in plan.scans(walked)]
    assert conditions
    assert all(re.search(r"\buser_id (>|=) ", condition) for condition in conditions)


@pytest.mark.parametrize("mode", PLAN_MODES)
async def test_a_page_of_the_past_reads_no_stored_decision_of_another_segment(
    recorder: Recorder, large_url: str, mode: LiteralString
) -> None:
    # A third of its 100 users left at the beginning of February.
    now, then = [
        await members.members_after(recorder, Slug("S5"), at, None, Limit(1000))
        for at in (None, datetime(2025, 1, 15, tzinfo=UTC))
    ]
    assert 0 < len(now.user_ids) < len(then.user_ids)

    *_, plan = await plans_of(
        recorder, large_url, page_of(Slug("S5"), datetime(2025, 1, 15, tzinfo=UTC), 0, 1000), mode
    )

    assert plan.read("memberships") <= 3 * len(then.user_ids)
    assert plan.indexes("memberships") == {"memberships_of_segment", "memberships_past_of_segment"}
    assert plan.scans("registrations") == []


@pytest.mark.parametrize(
    ("slug", "at", "expected"), [(BIG, None, USERS), (HALF, month(3), pytest.approx(USERS * 3 / 4, rel=0.02))]
)
async def test_every_page_of_a_large_segment_together_gives_each_user_once(
    recorder: Recorder, slug: Slug, at: datetime | None, expected: float
) -> None:
    walked: list[UserId] = []
    after: UserId | None = None
    while True:
        page = await members.members_after(recorder, slug, at, after, Limit(LEAST_USERS))
        walked += page.user_ids
        if page.walked_to is None:
            break
        after = page.walked_to
    assert walked == sorted({*walked})
    assert len(walked) == expected


# Counts and previews

EVERY_LIFE: Final = USERS + 20_000


def count_of(connection: psycopg.Connection, query: LiteralString, slug: Slug) -> Plan:
    """How a count of a segment runs; a quarter of all buckets is between its threshold and the other one."""
    found = connection.execute("SELECT id, salt, threshold FROM living_segment(%s)", [slug]).fetchone()
    assert found is not None
    segment_id, salt, threshold = found
    low = threshold or 0
    parameters = {
        "segment_id": segment_id,
        "salt": salt,
        "threshold": threshold,
        "threshold_after": low + 2**30,
        "at": month(3),
        "low": low,
        "high": low + 2**30,
        "most": 20,
    }
    return explained(connection, Statement(query, parameters), "force_custom_plan")


@pytest.mark.parametrize("query", [TALLY_NOW, TALLY_THEN], ids=["now", "then"])
@pytest.mark.parametrize(
    ("slug", "decided"), [(BIG, USERS), (HALF, USERS // 2), (NEW_ROLLOUT, 0), (Slug("S5"), 100)]
)
def test_a_count_reads_every_life_once_and_the_stored_decisions_of_its_segment_once(
    large_url: str, query: LiteralString, slug: Slug, decided: int
) -> None:
    with psycopg.connect(large_url, autocommit=True) as connection:
        plan = count_of(connection, query, slug)
    assert plan.read("registrations") == pytest.approx(EVERY_LIFE, rel=1e-4)
    # Where most decisions are of this segment, all of them are read in the order of the table. Those whose
    # terms are over and not recorded are read once more.
    assert plan.read("memberships") <= (2 * USERS if decided > USERS // 4 else 3 * decided // 2)
    assert plan.scans("users") == plan.scans("membership_events") == []


@pytest.mark.parametrize("query", [TALLY_NOW, TALLY_THEN], ids=["now", "then"])
def test_processors_share_the_scans_of_a_count(large_url: str, query: LiteralString) -> None:
    with psycopg.connect(large_url, autocommit=True) as connection:
        connection.execute("SET parallel_setup_cost = 0; SET min_parallel_table_scan_size = 0")
        plan = count_of(connection, query, BIG)
    shared = {
        node["Relation Name"] for node in plan.nodes() if node["Parallel Aware"] and "Relation Name" in node
    }
    assert shared == {"registrations", "memberships"}


def test_a_count_of_the_present_reads_no_page_of_stored_decisions_but_of_their_indexes(
    large_url: str,
) -> None:
    with psycopg.connect(large_url, autocommit=True) as connection:
        plan = count_of(connection, TALLY_NOW, HALF)
    whole, excluding, over = plan.scans("memberships")
    assert [whole["Node Type"], excluding["Node Type"]] == ["Index Only Scan"] * 2
    assert (whole["Index Name"], excluding["Index Name"]) == (
        "memberships_of_segment",
        "memberships_excluding",
    )
    assert over["Index Name"] in {"memberships_due", "memberships_of_segment"}


@pytest.mark.parametrize(("slug", "indexes"), [(BIG, 0), (Slug("S5"), 2)])
def test_a_count_of_the_past_reads_open_and_past_decisions_in_one_scan(
    large_url: str, slug: Slug, indexes: int
) -> None:
    with psycopg.connect(large_url, autocommit=True) as connection:
        plan = count_of(connection, TALLY_THEN, slug)
    kinds = ("Seq Scan", "Bitmap Heap Scan")
    scans = [node for node in plan.nodes() if node.get("Relation Name") == "memberships"]
    assert [node["Node Type"] in kinds for node in scans] == [True]
    assert len(plan.indexes("memberships") - {"none"}) == indexes


def test_the_sample_of_a_preview_reads_no_further_than_to_its_last_user(large_url: str) -> None:
    with psycopg.connect(large_url, autocommit=True) as connection:
        plan = count_of(connection, MOVED, NEW_ROLLOUT)
    assert plan.indexes("registrations") == {"registrations_open"}
    assert plan.read("registrations") <= 20 * 4 * 3  # every fourth user is moved


def test_processors_share_the_search_where_a_preview_moves_few(large_url: str) -> None:
    with psycopg.connect(large_url, autocommit=True) as connection:
        connection.execute("SET parallel_setup_cost = 0; SET min_parallel_table_scan_size = 0")
        plan = count_of(connection, FEW_MOVED, NEW_ROLLOUT)
    assert [node["Node Type"] for node in plan.nodes()].count("Gather") == 1
    assert plan.read("registrations") == pytest.approx(EVERY_LIFE, rel=1e-4)


# One user, one segment


@pytest.mark.parametrize("mode", PLAN_MODES)
async def test_the_segments_of_a_user_are_read_by_the_index_of_open_memberships(
    recorder: Recorder, large_url: str, mode: LiteralString
) -> None:
    [plan] = await plans_of(recorder, large_url, partial(memberships.segments_of, user_ids=[USER]), mode)
    assert plan.indexes("memberships") == {"memberships_open"}
    assert plan.read("memberships") == 3


@pytest.mark.parametrize("mode", PLAN_MODES)
async def test_the_segments_of_many_users_are_read_once_a_user_and_not_once_a_rollout(
    recorder: Recorder, large_url: str, mode: LiteralString
) -> None:
    many = [UserId(number) for number in range(1, 1001)]
    [plan] = await plans_of(recorder, large_url, partial(memberships.segments_of, user_ids=many), mode)
    assert plan.indexes("memberships") == {"memberships_open"}
    assert plan.read("memberships") <= 3 * len(many)


@pytest.mark.parametrize("mode", PLAN_MODES)
@pytest.mark.parametrize("asked", ["by itself", "for its users", "for its users in the past"])
async def test_a_segment_is_found_by_its_slug_among_the_living(
    recorder: Recorder, large_url: str, asked: str, mode: LiteralString
) -> None:
    ask: dict[str, Ask] = {
        "by itself": partial(segments.get, slug=BIG),
        "for its users": page_of(BIG, None, 0, 1),
        "for its users in the past": page_of(BIG, month(3), 0, 1),
    }
    plan, *_ = await plans_of(recorder, large_url, ask[asked], mode)
    assert plan.indexes("segments") <= {"segments_living_by_slug", "segments_by_slug"}
    assert plan.read("segments") == 1


@pytest.mark.parametrize("mode", PLAN_MODES)
async def test_the_decision_about_a_user_and_a_slug_reads_no_other_segment(
    recorder: Recorder, large_url: str, mode: LiteralString
) -> None:
    ask = partial(memberships.decision, slug=HALF, user_id=USER)
    [plan] = await plans_of(recorder, large_url, ask, mode)
    assert plan.indexes("segments") == {"segments_living_by_slug"}
    assert plan.read("segments") == 1
    assert plan.indexes("memberships") <= {"memberships_open"}


@pytest.mark.parametrize("mode", PLAN_MODES)
async def test_the_decisions_about_a_user_read_no_membership_of_another(
    recorder: Recorder, large_url: str, mode: LiteralString
) -> None:
    [plan] = await plans_of(recorder, large_url, partial(memberships.decisions, user_id=USER), mode)
    assert plan.indexes("memberships") == {"memberships_open"}
    assert plan.read("memberships") <= 3


QUESTIONS: Final[dict[str, Ask]] = {
    "a user": partial(users.get, user_id=USER),
    "users": partial(users.list_after, after=USER, limit=100),
    "segments": partial(segments.list_after, after=Slug("S5"), limit=100),
    "segments of a user": partial(memberships.segments_of, user_ids=[USER]),
    "lookup": partial(memberships.segments_of, user_ids=[UserId(number) for number in range(1, 101)]),
    "segments with the why": partial(history.segments_at, user_id=USER, at=None),
    "segments in the past": partial(history.segments_at, user_id=USER, at=month(3)),
    "segments of nobody": partial(history.segments_at, user_id=UserId(USERS + 1), at=None),
    "explanation": partial(history.explain, user_id=USER, slug=HALF, at=None),
    "history": partial(whole_history, after=None),
    "members by override": page_of(BIG, None, 0, 1000),
    "members by bucket": page_of(HALF, None, 0, 1000),
    "members in the past": page_of(HALF, month(3), 0, 1000),
    "figures for a scrape": partial(measures.measure, patience_s=60),
}


@pytest.mark.parametrize("mode", PLAN_MODES)
@pytest.mark.parametrize("question", QUESTIONS)
async def test_no_question_reads_a_large_table_from_end_to_end(
    recorder: Recorder, large_url: str, question: str, mode: LiteralString
) -> None:
    for plan in await plans_of(recorder, large_url, QUESTIONS[question], mode):
        assert read_in_full(plan) == []
        assert plan.buffers <= 20_000


# Figures


@pytest.mark.parametrize("mode", PLAN_MODES)
async def test_the_terms_that_are_due_are_counted_in_their_index_and_no_others_are_looked_at(
    recorder: Recorder, large_url: str, mode: LiteralString
) -> None:
    due = (await measures.measure(recorder, patience_s=60)).terms_due
    assert due > USERS // 20

    [plan] = await plans_of(recorder, large_url, partial(measures.measure, patience_s=60), mode)

    assert plan.indexes("memberships") == {"memberships_due"}
    assert {node["Node Type"] for node in plan.scans("memberships")} == {"Index Only Scan"}
    assert plan.read("memberships") == due
    assert plan.scans("membership_events") == []


# Changes

CHANGES: Final[dict[str, LiteralString]] = {
    "memberships": """
        SELECT change_memberships(
            '{1000}', '{anonymous}', '{NULL}', '{NULL}',
            '{1,1,1,1}', '{BIG,HALF,S7,S8}', '{t,f,t,f}', '{NULL,NULL,NULL,NULL}', '{60,NULL,NULL,NULL}', true
        )
    """,
    "memberships of many users": """
        SELECT change_memberships(
            array_agg(g ORDER BY g), array_agg('anonymous'::text),
            array_agg(NULL::text), array_agg(NULL::text),
            array_agg(g::integer - 999 ORDER BY g), array_agg('S' || g % 50 + 1 ORDER BY g),
            array_agg(g % 3 > 0 ORDER BY g), array_agg(NULL::timestamptz), array_agg(60::bigint), false
        )
        FROM generate_series(1000, 1099::bigint) g
    """,
    "a new user": "SELECT * FROM register_user(NULL, 'name')",
    "a known user": "SELECT * FROM register_user(1, 'name')",
    "a deleted user": "SELECT delete_user(1000, 'anonymous')",
    "a new segment": "SELECT * FROM create_segment('NEW', '', 10, 1)",
    "a renamed segment": "SELECT * FROM update_segment('BIG', 'BIGGER', NULL, 20, false)",
    "a deleted segment": "SELECT delete_segment('BIG')",
    "ended terms": "SELECT * FROM settle_due_terms(100, '-infinity', 0)",
    "members of a deleted segment": """
        SELECT * FROM settle_deleted_segment((SELECT id FROM segments WHERE slug = 'S1997'), 100, 0)
    """,
    "what stays of removed months": """
        UPDATE kept_history SET begins_at = '2025-03-01Z', summed_up_to = 1000;
        SELECT sum_up_earlier(100);
    """,
    "lives of removed months": """
        UPDATE kept_history SET begins_at = '2025-03-01Z';
        SELECT remove_earlier_lives(100);
    """,
}


@pytest.mark.parametrize("mode", PLAN_MODES)
@pytest.mark.parametrize("change", CHANGES)
def test_no_change_reads_a_large_table_from_end_to_end(
    changed_url: str, change: str, mode: LiteralString
) -> None:
    with nested_plans(changed_url, mode) as (connection, plans):
        connection.execute(CHANGES[change])
        assert plans
        for plan in plans:
            assert read_in_full(plan) == []
            assert plan.buffers <= 20_000


# Deleted segments, which each change looks at.
UNSETTLED: Final = 100
# A generic plan is kept, and it may be of a time when nothing was known of the tables.
UNKNOWN: Final[LiteralString] = """
    DELETE FROM pg_statistic
    WHERE starelid IN ('segments'::regclass, 'rollouts'::regclass, 'memberships'::regclass);
    UPDATE pg_class SET reltuples = -1, relpages = 0, relallvisible = 0
    WHERE relname IN ('segments', 'rollouts');
"""


@pytest.mark.parametrize("statistics", ["SELECT", UNKNOWN], ids=["known", "unknown"])
def test_a_change_reads_the_rows_of_its_segments_alone_whatever_is_known_of_the_tables(
    postgres_url: str, large_template: str, statistics: LiteralString
) -> None:
    # A database of its own: what other tests change and undo leaves entries in the indexes.
    with (
        new_database(postgres_url, large_template) as url,
        nested_plans(url, "auto") as (connection, plans),
    ):
        connection.execute(statistics)
        plans.clear()
        connection.execute(CHANGES["memberships"])
        read = {
            table: sum(plan.read(table) for plan in plans)
            for table in ("segments", "rollouts", "memberships")
        }
        assert read["segments"] <= 4 + UNSETTLED
        assert read["rollouts"] <= 4
        assert read["memberships"] <= 20


def test_a_change_looks_for_ended_terms_among_the_terms_of_its_users_alone(
    postgres_url: str, large_template: str
) -> None:
    with (
        new_database(postgres_url, large_template) as url,
        nested_plans(url, "auto") as (connection, plans),
    ):
        connection.execute(UNKNOWN)
        plans.clear()
        connection.execute(CHANGES["memberships"])
        [look] = [plan for plan in plans if "memberships_terms" in plan.indexes("memberships")]
        assert look.read("memberships") <= 2  # those of one user, in living and in deleted segments
