from decimal import Decimal
from typing import LiteralString

import pytest

from segmentd.domain.bucketing import threshold
from segmentd.domain.pages import Limit
from segmentd.storage.members import LEAST_OVERRIDES, LEAST_USERS, MOST_SCANNED, entries_to_scan
from tests.support.client import Api
from tests.support.rows import Rows

BY_ID: LiteralString = "SELECT user_id FROM moved_users(%s, %s, %s, %s, now(), 100)"
FEW: LiteralString = "SELECT user_id FROM few_moved_users(%s, %s, %s, %s, now(), 100)"


@pytest.mark.parametrize(
    ("percent", "limit", "scanned"),
    [
        ("100", 1000, LEAST_USERS),
        ("50", 1, LEAST_USERS),
        ("20", 1000, LEAST_USERS),
        ("10", 1000, 20_000),
        ("1", 100, 20_000),
        ("0.2", 100, 100_000),
        ("0.01", 100, MOST_SCANNED),
        ("0.01", 1, 20_000),
        ("0.0001", 1, MOST_SCANNED),
        ("0", 1, LEAST_OVERRIDES),
        ("0", 1000, 20_000),
        (None, 1000, 20_000),
    ],
)
def test_a_page_looks_at_twice_the_users_that_hold_its_limit_on_average_within_bounds(
    percent: str | None, limit: int, scanned: int
) -> None:
    of = None if percent is None else threshold(Decimal(percent))
    assert entries_to_scan(of, Limit(limit)) == pytest.approx(scanned, rel=1e-3)


async def test_whom_a_change_of_the_threshold_moves_is_the_same_by_both_ways_at_the_very_bounds(
    api: Api, rows: Rows
) -> None:
    await api.create("HALF", percent=50, salt="22")
    for user_id in range(1, 8):
        assert (await api.post("users", json={"id": user_id})).status_code == 201
    await api.add(8, "HALF")
    [(segment_id, salt)] = rows("SELECT id, salt FROM segments")
    bucket_of = dict(rows("SELECT id, bucket(id, %s) FROM users", salt))
    bounds = sorted(bucket_of.values())
    for low in bounds:
        for high in bounds:
            arguments = (segment_id, salt, low, high)
            expected = [user for user in range(1, 8) if low <= bucket_of[user] < high]
            for query in (BY_ID, FEW):
                assert rows.column(query, *arguments) == expected
