from collections.abc import Sequence
from random import Random

import pytest

from segmentd.domain.bucketing import BUCKETS
from segmentd.replica.catalog import (
    JSON,
    SLICE_BYTES,
    SLICE_CELLS,
    SLICE_USERS,
    Catalog,
    CatalogState,
)
from segmentd.replica.kernel import Kernels
from segmentd.storage.replication import ReplicatedSegment
from tests.support.kernels import KERNELS, Override, state_of

NOW = 1_000_000
LIVING = range(1, 61)
DELETED = range(61, 71)


def made_up_state(chance: Random) -> bytes | None:
    """Some overrides of all kinds; None for a user who has none."""
    chosen = sorted(chance.sample([*LIVING, *DELETED], chance.randint(0, 20)))
    kinds = [(True, None), (False, None), *((True, NOW + after) for after in (-1, 0, 1))]
    return state_of(Override(each, *chance.choice(kinds)) for each in chosen) if chosen else None


@pytest.mark.parametrize("kernels", KERNELS, ids=lambda kernels: kernels.name)
def test_users_are_in_the_same_segments_alone_and_among_many(kernels: type[Kernels]) -> None:
    chance = Random(5)
    state = CatalogState(
        1, [ReplicatedSegment(n, f"s-{n}", n * 7, BUCKETS // 3 if n % 2 else None) for n in LIVING]
    )
    catalog = Catalog(state, kernels)
    user_ids = [chance.randint(1, 2**63 - 1) for _ in range(2 * SLICE_USERS + 3)]
    states = [made_up_state(chance) for _ in user_ids]

    kernel = catalog.kernel(JSON)
    alone = [kernel.join(*user, NOW, b"", b"") for user in zip(user_ids, states, strict=True)]

    assert of_many(catalog, user_ids, states) == alone
    assert len({*alone}) > SLICE_USERS
    assert {slug for slugs in alone for slug in slugs.split(b",")} == {b'"s-%d"' % n for n in LIVING}


@pytest.mark.parametrize("kernels", KERNELS, ids=lambda kernels: kernels.name)
def test_nobody_is_in_anything_where_there_are_no_segments(kernels: type[Kernels]) -> None:
    catalog = Catalog(CatalogState(1, []), kernels)
    state = state_of([Override(5), Override(6, included=False)])

    assert catalog.names(1, state, NOW) == []
    assert catalog.decisions(1, state, NOW) == ([], b"")
    assert catalog.decision(b"A", 1, state, NOW) is None
    assert of_many(catalog, [1, 2], [state, None]) == [b"", b""]
    assert of_many(catalog, [], []) == []


def of_many(catalog: Catalog, user_ids: Sequence[int], states: Sequence[bytes | None]) -> list[bytes]:
    """The segments of many users, slice by slice."""
    return [
        slugs
        for part in catalog.slices(states)
        for slugs in catalog.segments_of_slice(user_ids[part], states[part], NOW)
    ]


def a_catalog(segments: int) -> Catalog:
    return Catalog(CatalogState(1, [ReplicatedSegment(n, f"s-{n}", n, None) for n in range(1, segments + 1)]))


def overrides(count: int) -> bytes:
    return state_of(map(Override, range(1, count + 1)))


def test_a_slice_is_bounded_in_users_in_places_for_slugs_and_in_bytes_of_states() -> None:
    few, many = a_catalog(10), a_catalog(10_000)
    assert lengths(few, [None] * 600) == [SLICE_USERS, SLICE_USERS, 600 - 2 * SLICE_USERS]
    assert lengths(many, [None] * 30) == [SLICE_CELLS // 10_001] * 2 + [30 - 2 * (SLICE_CELLS // 10_001)]
    # 40 KB each: two are too much. One is never cut, however large it is.
    heavy = [overrides(10_000)] * 3
    assert lengths(few, heavy) == [1, 1, 1]
    assert lengths(few, [None, *heavy, None, None]) == [2, 1, 3]
    assert lengths(few, [overrides(SLICE_BYTES)]) == [1]
    assert lengths(few, []) == []


def lengths(catalog: Catalog, states: Sequence[bytes | None]) -> list[int]:
    parts = [*catalog.slices(states)]
    assert [place for part in parts for place in range(part.start, part.stop)] == [*range(len(states))]
    return [part.stop - part.start for part in parts]
