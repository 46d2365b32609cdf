import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segmentd.domain.bucketing import BUCKETS, Salted, buckets, fold, threshold

VECTORS = json.loads(Path(__file__).parents[1].joinpath("vectors", "bucketing.json").read_text("utf-8"))


def test_every_bucket_of_the_vectors_is_reproduced() -> None:
    vectors = VECTORS["buckets"]
    user_ids = np.array([int(vector["user_id"]) for vector in vectors], np.int64)
    salts = np.array([int(vector["salt"]) for vector in vectors], np.int64)

    assert buckets(user_ids, salts).tolist() == [vector["bucket"] for vector in vectors]


@pytest.mark.parametrize("vector", VECTORS["thresholds"], ids=lambda vector: vector["percent"])
def test_every_threshold_of_the_vectors_is_reproduced(vector: dict[str, Any]) -> None:
    assert threshold(Decimal(vector["percent"])) == vector["threshold"]


def test_a_threshold_is_exact_where_floating_point_is_not() -> None:
    for parts in range(0, 1_000_001, 777):
        assert threshold(Decimal(parts) / 10_000) == parts * BUCKETS // 1_000_000


def test_thresholds_grow_with_the_percentage() -> None:
    thresholds = [threshold(Decimal(parts) / 10_000) for parts in range(0, 1_000_001, 999)]

    assert thresholds == sorted({*thresholds})


def test_many_users_and_many_salts_are_hashed_as_each_pair_alone() -> None:
    random = np.random.default_rng(1)
    user_ids = random.integers(1, 2**63 - 1, 50, np.int64, endpoint=True)
    salts = np.append(random.integers(-(2**63), 2**63 - 1, 20, np.int64, endpoint=True), 0)

    table = Salted(salts).buckets(fold(user_ids)[:, np.newaxis])

    assert table.shape == (50, 21)
    for row, user_id in zip(table, user_ids, strict=True):
        assert row.tolist() == buckets(np.full(21, user_id, np.int64), salts).tolist()


def test_ids_whose_folded_halves_coincide_share_their_buckets() -> None:
    pair = np.array([5, (1 << 32) | (5 ^ 1)], np.int64)

    assert len({*fold(pair).tolist()}) == 1
    assert len({*buckets(pair, np.full(2, 22, np.int64)).tolist()}) == 1
    assert len({*fold(np.arange(1, 100_000, dtype=np.int64)).tolist()}) == 99_999
