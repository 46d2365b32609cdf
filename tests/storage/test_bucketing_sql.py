"""The bucket in SQL and in NumPy is one function."""

import json
from decimal import Decimal
from pathlib import Path
from typing import LiteralString

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from segmentd.domain.bucketing import BUCKETS, buckets, threshold

VECTORS = json.loads(Path(__file__).parents[1].joinpath("vectors", "bucketing.json").read_text("utf-8"))
PAIRS = 1_000_000
PARTS = (("length", 4), ("value", 8))
TENTH = threshold(Decimal(10))


def test_sql_reproduces_every_bucket_of_the_vectors(database_url: str) -> None:
    vectors = VECTORS["buckets"]
    with psycopg.connect(database_url) as connection:
        found = connection.execute(
            "SELECT bucket(user_id, salt) FROM unnest(%s::bigint[], %s::bigint[])"
            " WITH ORDINALITY AS pair (user_id, salt, nr) ORDER BY nr",
            [[vector[name] for vector in vectors] for name in ("user_id", "salt")],
        ).fetchall()

    assert [bucket for (bucket,) in found] == [vector["bucket"] for vector in vectors]


def test_sql_reproduces_every_threshold_of_the_vectors(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        for vector in VECTORS["thresholds"]:
            row = connection.execute(
                "INSERT INTO rollouts (segment_id, percent, started_at) SELECT s.id, %s, s.created_at"
                " FROM create_segment(%s, '', NULL, 0) s RETURNING threshold",
                [vector["percent"], f"P{vector['percent']}"],
            ).fetchone()
            assert row == (vector["threshold"],), vector


@pytest.mark.parametrize("pairs", [100_000, pytest.param(PAIRS, marks=pytest.mark.proof, id="proof")])
def test_sql_and_numpy_agree_on_random_pairs(database_url: str, pairs: int) -> None:
    # Uncorrelated ids of every size, and salts of both signs, out of a hash that is not the one on trial.
    query: LiteralString = """
        COPY (
            SELECT user_id, salt, bucket(user_id, salt)
            FROM (
                SELECT greatest((('x' || substr(digest, 1, 16))::bit(64)::bigint & 9223372036854775807)
                                >> mod(nr, 63), 1) AS user_id,
                       ('x' || substr(digest, 17, 16))::bit(64)::bigint >> mod(nr, 61) AS salt
                FROM (SELECT nr, md5(nr::text) AS digest FROM generate_series(1, %s) AS nr) hashed
            ) pairs
        ) TO STDOUT (FORMAT binary)
    """
    with psycopg.connect(database_url) as connection, connection.cursor().copy(query, [pairs]) as copy:
        copied = b"".join(copy)
    # A head of 19 bytes; rows, each a number of columns and for each a length and a value; an end of 2 bytes.
    row = np.dtype(
        [("columns", ">i2"), *((f"{part} {nr}", f">i{size}") for nr in range(3) for part, size in PARTS)]
    )
    rows = np.frombuffer(copied[19:-2], row)
    user_ids, salts, found = (rows[f"value {nr}"].astype(np.int64) for nr in range(3))

    assert len(rows) == pairs
    assert user_ids.min() >= 1
    assert salts.min() < 0 < salts.max()
    assert np.array_equal(buckets(user_ids, salts), found)


def test_a_tenth_of_the_users_is_in_ten_per_cent() -> None:
    for salt in (0, 22, -1, 2**62):
        share = np.count_nonzero(_buckets(salt) < TENTH) / PAIRS

        assert abs(share - 0.1) < _four_sigma(0.1), salt


def test_buckets_are_spread_evenly() -> None:
    counts = np.bincount(_buckets(22) // (BUCKETS // 64), minlength=64)

    assert len(counts) == 64
    assert np.abs(counts / PAIRS - 1 / 64).max() < _four_sigma(1 / 64)


def test_two_salts_are_independent_neighbours_too() -> None:
    for one, other in ((22, 23), (0, 1), (1, -1), (1, 2**32)):
        joint = np.count_nonzero((_buckets(one) < TENTH) & (_buckets(other) < TENTH)) / PAIRS

        assert abs(joint - 0.01) < _four_sigma(0.01), (one, other)


def _buckets(salt: int) -> NDArray[np.uint32]:
    return buckets(np.arange(1, PAIRS + 1, dtype=np.int64), np.full(PAIRS, salt, np.int64))


def _four_sigma(share: float) -> float:
    return 4 * float(np.sqrt(share * (1 - share) / PAIRS))
