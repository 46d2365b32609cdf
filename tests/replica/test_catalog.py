import struct
from random import Random

from segmentd.domain.bucketing import BUCKETS
from segmentd.replica.catalog import CHUNK_USERS, Catalog, CatalogState, ReplicatedSegment
from segmentd.replica.states import EXCLUDED, HAS_TERM

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
    user_ids = [chance.randint(1, 2**63 - 1) for _ in range(2 * CHUNK_USERS + 3)]
    states = [made_up_state(chance) for _ in user_ids]

    alone = [catalog.segments(*user, NOW) for user in zip(user_ids, states, strict=True)]

    assert catalog.segments_of_many(user_ids, states, NOW) == alone
    assert len({*map(tuple, alone)}) > CHUNK_USERS
    assert {slug for slugs in alone for slug in slugs} == {b'"s-%d"' % n for n in LIVING}


def test_nobody_is_in_anything_where_there_are_no_segments() -> None:
    catalog = Catalog(CatalogState(1, []))
    state = struct.pack(">Q2I", (1 << 20) + 2, 5, 6 + EXCLUDED)

    assert catalog.segments(1, state, NOW) == []
    assert catalog.segments_of_many([1, 2], [state, None], NOW) == [[], []]
    assert catalog.segments_of_many([], [], NOW) == []
