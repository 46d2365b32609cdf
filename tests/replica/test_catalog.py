import struct
from collections.abc import Sequence
from random import Random

from segmentd.domain.bucketing import BUCKETS
from segmentd.replica.catalog import (
    SLICE_BYTES,
    SLICE_CELLS,
    SLICE_USERS,
    Catalog,
    CatalogState,
)
from segmentd.replica.states import EXCLUDED, HAS_TERM
from segmentd.storage.replication import ReplicatedSegment

NOW = 1_000_000
LIVING = range(1, 61)
DELETED = range(61, 71)


def made_up_state(chance: Random) -> bytes | None:
    """Some overrides of all kinds; None for a user who has none."""
    chosen = sorted(chance.sample([*LIVING, *DELETED], chance.randint(0, 20)))
    words, ends = [], []
    for segment_id in chosen:
        kind = chance.choice(("pin", "exclusion", "term"))
        words.append(segment_id + {"pin": 0, "exclusion": EXCLUDED, "term": HAS_TERM}[kind])
        if kind == "term":
            ends.append(NOW + chance.randint(-1, 1))
    if not chosen:
        return None
    return struct.pack(f">Q{len(words)}I{len(ends)}q", (7 << 20) + len(words), *words, *ends)


def test_users_are_in_the_same_segments_alone_and_among_many() -> None:
    chance = Random(5)
    catalog = Catalog(
        CatalogState(
            1, [ReplicatedSegment(n, f"s-{n}", n * 7, BUCKETS // 3 if n % 2 else None) for n in LIVING]
        )
    )
    user_ids = [chance.randint(1, 2**63 - 1) for _ in range(2 * SLICE_USERS + 3)]
    states = [made_up_state(chance) for _ in user_ids]

    alone = [catalog.segments(*user, NOW) for user in zip(user_ids, states, strict=True)]

    assert of_many(catalog, user_ids, states) == alone
    assert len({*map(tuple, alone)}) > SLICE_USERS
    assert {slug for slugs in alone for slug in slugs} == {b'"s-%d"' % n for n in LIVING}


def test_nobody_is_in_anything_where_there_are_no_segments() -> None:
    catalog = Catalog(CatalogState(1, []))
    state = struct.pack(">Q2I", (1 << 20) + 2, 5, 6 + EXCLUDED)

    assert catalog.segments(1, state, NOW) == []
    assert of_many(catalog, [1, 2], [state, None]) == [[], []]
    assert of_many(catalog, [], []) == []


def of_many(catalog: Catalog, user_ids: Sequence[int], states: Sequence[bytes | None]) -> list[list[bytes]]:
    """The segments of many users, slice by slice."""
    return [
        slugs
        for part in catalog.slices(states)
        for slugs in catalog.segments_of_slice(user_ids[part], states[part], NOW)
    ]


def a_catalog(segments: int) -> Catalog:
    return Catalog(CatalogState(1, [ReplicatedSegment(n, f"s-{n}", n, None) for n in range(1, segments + 1)]))


def state_of(overrides: int) -> bytes:
    return struct.pack(f">Q{overrides}I", (7 << 20) + overrides, *range(1, overrides + 1))


def test_a_slice_is_bounded_in_users_in_places_for_slugs_and_in_bytes_of_states() -> None:
    few, many = a_catalog(10), a_catalog(10_000)
    assert lengths(few, [None] * 600) == [SLICE_USERS, SLICE_USERS, 600 - 2 * SLICE_USERS]
    assert lengths(many, [None] * 30) == [SLICE_CELLS // 10_001] * 2 + [30 - 2 * (SLICE_CELLS // 10_001)]
    # 40 KB each: two are too much. One is never cut, however large it is.
    heavy = [state_of(10_000)] * 3
    assert lengths(few, heavy) == [1, 1, 1]
    assert lengths(few, [None, *heavy, None, None]) == [2, 1, 3]
    assert lengths(few, [state_of(SLICE_BYTES)]) == [1]
    assert lengths(few, []) == []


def lengths(catalog: Catalog, states: Sequence[bytes | None]) -> list[int]:
    parts = [*catalog.slices(states)]
    assert [place for part in parts for place in range(part.start, part.stop)] == [*range(len(states))]
    return [part.stop - part.start for part in parts]
