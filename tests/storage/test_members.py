from decimal import Decimal

import pytest

from segmentd.domain.bucketing import threshold
from segmentd.domain.pages import Limit
from segmentd.storage.members import LEAST_OVERRIDES, LEAST_USERS, MOST_SCANNED, entries_to_scan


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
