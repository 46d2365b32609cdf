import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentd.domain.bucketing import BUCKETS, buckets, fold
from segmentd.domain.identifiers import INT64_MAX, INT64_MIN
from segmentd.replica.rollouts import Rollouts, fold_one

EDGES = [1, 2, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**62, INT64_MAX - 1, INT64_MAX]

user_ids = st.one_of(st.integers(1, INT64_MAX), st.sampled_from(EDGES))
salts = st.one_of(st.integers(INT64_MIN, INT64_MAX), st.sampled_from([0, -1, INT64_MIN, INT64_MAX]))
thresholds = st.one_of(st.integers(1, BUCKETS), st.sampled_from([1, 2, BUCKETS - 1, BUCKETS]))
rollouts = st.lists(st.tuples(salts, thresholds), max_size=20)


def expected(user_id: int, chosen: Sequence[tuple[int, int]]) -> list[int]:
    """Rollout by rollout, by the definition."""
    return [
        position
        for position, (salt, threshold) in enumerate(chosen)
        if int(buckets(np.array([user_id], np.int64), np.array([salt], np.int64))[0]) < threshold
    ]


def inside(many: Rollouts, user_id: int) -> list[int]:
    """The positions of the rollouts that cover the user."""
    covered: list[int] = many.covering(user_id).nonzero()[0].tolist()
    return covered


def prepared(chosen: Sequence[tuple[int, int]]) -> Rollouts:
    return Rollouts([salt for salt, _ in chosen], [threshold for _, threshold in chosen])


@given(st.lists(user_ids, max_size=5), rollouts)
def test_users_are_covered_by_the_rollouts_above_their_buckets(
    ids: Sequence[int], chosen: Sequence[tuple[int, int]]
) -> None:
    many = prepared(chosen)

    assert [inside(many, user_id) for user_id in ids] == [expected(user_id, chosen) for user_id in ids]
    table = many.covering_many(np.array(ids, np.int64))
    assert table.shape == (len(ids), len(chosen))
    assert [row.nonzero()[0].tolist() for row in table] == [expected(user_id, chosen) for user_id in ids]


@given(user_ids)
def test_one_id_is_folded_as_many_are(user_id: int) -> None:
    assert fold_one(user_id) == fold(np.array([user_id], np.int64)).view(np.int32)[0]


@pytest.mark.parametrize("user_id", EDGES)
def test_the_bucket_at_a_threshold_is_outside_and_the_one_below_it_inside(user_id: int) -> None:
    for salt in range(-50, 50):
        [bucket] = buckets(np.array([user_id], np.int64), np.array([salt], np.int64)).tolist()
        at, above = max(bucket, 1), bucket + 1

        assert inside(prepared([(salt, above)]), user_id) == [0]
        assert inside(prepared([(salt, at)]), user_id) == ([] if bucket else [0])


@pytest.mark.parametrize("user_id", EDGES)
def test_all_are_covered_by_everything_and_nobody_by_no_rollout(user_id: int) -> None:
    everything = prepared([(salt, BUCKETS) for salt in (0, 1, -1, INT64_MIN, INT64_MAX)])

    assert inside(everything, user_id) == [0, 1, 2, 3, 4]
    assert everything.covering_many(np.array([user_id], np.int64)).all()
    assert inside(prepared([]), user_id) == []
    assert prepared([]).covering_many(np.array([user_id], np.int64)).shape == (1, 0)


def test_a_thousand_users_and_a_hundred_rollouts_are_computed_as_each_pair_alone() -> None:
    chance = random.Random(7)
    ids = [*EDGES, *(chance.randint(1, INT64_MAX) for _ in range(1000 - len(EDGES)))]
    chosen = [(chance.randint(INT64_MIN, INT64_MAX), chance.randint(1, BUCKETS)) for _ in range(100)]
    many = prepared(chosen)
    pairs = buckets(
        np.repeat(np.array(ids, np.int64), 100),
        np.tile(np.array([salt for salt, _ in chosen], np.int64), 1000),
    ).reshape(1000, 100)
    covered = pairs < np.array([threshold for _, threshold in chosen], np.int64)

    assert (many.covering_many(np.array(ids, np.int64)) == covered).all()
    for user_id, row in zip(ids, covered, strict=True):
        assert many.covering(user_id).tolist() == row.tolist()


def test_an_answer_stays_what_it_is_when_the_next_user_is_computed() -> None:
    many = prepared([(salt, BUCKETS // 2) for salt in range(100)])
    first = many.covering(1)
    table = many.covering_many(np.array([1], np.int64))
    kept, kept_table = first.tolist(), table.tolist()

    many.covering(2)
    many.covering_many(np.array([2], np.int64))

    assert first.tolist() == kept
    assert table.tolist() == kept_table
