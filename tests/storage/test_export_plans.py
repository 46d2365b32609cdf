"""An export reads indexes in their order and merges them, so its first row comes at once."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Final, LiteralString

import psycopg
import pytest
from psycopg import sql

from segmentd.domain.exports import ExportOrder
from segmentd.domain.identifiers import Slug
from segmentd.storage.database import Database
from segmentd.storage.exports import HOLD_TO_MERGES, copy_of, export_snapshot, find
from tests.support.plans import Plan, settle
from tests.support.postgres import new_database

USERS: Final = 6_000
THEN: Final = datetime(2025, 3, 1, tzinfo=UTC)
LARGE: Final = ("registrations", "memberships")
# What takes everything before it gives anything, and what looks users up one by one.
UNWANTED: Final = (
    "Hash",
    "Hash Join",
    "Nested Loop",
    "Seq Scan",
    "Bitmap Heap Scan",
    "Gather",
    "Gather Merge",
)

FILL: LiteralString = """
    SET session_replication_role = replica;
    INSERT INTO users (id, registered_at, last_at)
    SELECT id, '2025-01-01Z', '2025-01-02Z' FROM generate_series(1, %(users)s) AS id;
    INSERT INTO registrations (user_id, registered_at) SELECT id, registered_at FROM users;
    INSERT INTO segments (slug, salt, created_at)
    SELECT slug, row_number() OVER (), '2025-01-01Z' FROM unnest(ARRAY ['LIST', 'SHARE', 'OTHER']) AS slug;
    INSERT INTO rollouts (segment_id, percent, started_at, ended_at)
    SELECT id, percent, started_at::timestamptz, ended_at::timestamptz
    FROM segments, (VALUES (20, '2025-01-01Z', '2025-02-01Z'), (50, '2025-02-01Z', NULL))
         AS v (percent, started_at, ended_at)
    WHERE slug = 'SHARE';
    -- Of each user one that was renewed, and of some one that ended, in an order unlike that of the ids.
    INSERT INTO memberships (user_id, segment_id, included, since, until, ended_at)
    SELECT u.id, s.id, true, '2025-01-02Z', NULL, '2025-02-01Z'
    FROM users u, segments s ORDER BY hashint8(u.id);
    INSERT INTO memberships (user_id, segment_id, included, since, until, ended_at)
    SELECT u.id, s.id, true, '2025-02-01Z', NULL, CASE WHEN u.id %% 3 = 0 THEN timestamptz '2025-04-01Z' END
    FROM users u, segments s ORDER BY hashint8(u.id);
"""


@pytest.fixture(scope="module", params=["never analysed", "analysed"])
def filled_url(postgres_url: str, template_database: str, request: pytest.FixtureRequest) -> Iterator[str]:
    with (
        new_database(postgres_url, template_database) as url,
        closing(psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor)) as connection,
    ):
        for table in (*LARGE, "users", "segments", "rollouts"):
            connection.execute(
                sql.SQL("ALTER TABLE {} SET (autovacuum_enabled = off)").format(sql.Identifier(table))
            )
        connection.execute(FILL, {"users": USERS})
        if request.param == "analysed":
            settle(connection)
        yield url


def ordered_rows(plan: Plan) -> list[float]:
    """How many rows each node sorts."""
    return [node["Actual Rows"] for node in plan.nodes() if node["Node Type"] == "Sort"]


@pytest.mark.parametrize("at", [None, THEN], ids=["now", "then"])
@pytest.mark.parametrize(("slug", "members"), [("LIST", 2 * USERS // 3), ("SHARE", 83 * USERS // 100)])
async def test_an_export_merges_indexes_in_the_order_of_the_users(
    filled_url: str, slug: str, members: int, at: datetime | None
) -> None:
    order = ExportOrder(Slug(slug), at)
    async with Database(filled_url) as database, export_snapshot(database, 60) as connection:
        segment = await find(connection, order.slug, order.at)
        copy = copy_of(segment, order).as_string(connection)
        query = copy[copy.index("(") + 1 : copy.rindex(") TO STDOUT")]
        await connection.execute(HOLD_TO_MERGES)
        cursor = await connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON, BUFFERS) {query}".encode())
        [[document]] = await cursor.fetchall()
    plan = Plan(document[0]["Plan"])
    joined: list[Any] = [node for node in plan.nodes() if node.get("Relation Name") in LARGE]
    types = {node["Node Type"] for node in plan.nodes()}

    assert members - 200 < plan.root["Actual Rows"] <= USERS
    assert types.isdisjoint(UNWANTED), types
    assert ordered_rows(plan) == [0.0] * len(ordered_rows(plan))
    assert {node["Node Type"] for node in joined} <= {"Index Scan", "Index Only Scan"}
    assert plan.read("memberships") <= 3 * USERS
    assert plan.read("registrations") <= (USERS if slug == "SHARE" else 0)
