from random import Random

from segmentd.domain.bucketing import BUCKETS
from segmentd.domain.decisions import Decision
from segmentd.replica.catalog import Catalog, CatalogState
from segmentd.replica.rollouts import Rollouts
from segmentd.storage.replication import ReplicatedSegment
from tests.replica.test_catalog import LIVING, NOW, made_up_state

THRESHOLDS = (None, 0, 1, BUCKETS // 3, BUCKETS)
CATALOG = Catalog(
    CatalogState(1, [ReplicatedSegment(n, f"s-{n:02}", n * 7, THRESHOLDS[n % 5]) for n in LIVING])
)


def test_a_user_is_in_the_segments_whose_decision_says_so() -> None:
    chance = Random(7)
    seen: set[tuple[int, int]] = set()
    for _ in range(300):
        user_id, state = chance.randint(1, 2**63 - 1), made_up_state(chance)

        slugs, codes = CATALOG.decisions(user_id, state, NOW)

        decisions = {slug: Decision(code) for slug, code in zip(slugs, codes.tolist(), strict=True)}
        members = [slug for slug, decision in decisions.items() if decision.member]
        assert members == CATALOG.segments(user_id, state, NOW)
        assert decisions == {
            slug: CATALOG.decision(slug.strip(b'"'), user_id, state, NOW) for slug in CATALOG.slugs
        }
        for slug, decision in decisions.items():
            kind = int(slug.strip(b's-"')) % 5
            seen.add((kind, decision))
            if THRESHOLDS[kind] is None:
                assert decision not in {Decision.COVERED, Decision.UNCOVERED}
            else:
                assert decision is not Decision.NONE
    # Every decision of a segment without a percentage, with one of 0, a third, and all.
    assert {decision for kind, decision in seen if kind == 0} == {0, 3, 4}
    assert {decision for kind, decision in seen if kind == 1} == {1, 3, 4}
    assert {decision for kind, decision in seen if kind == 3} == {1, 2, 3, 4}
    assert {decision for kind, decision in seen if kind == 4} == {2, 3, 4}


def test_there_is_no_decision_about_a_slug_that_no_segment_has() -> None:
    assert CATALOG.decision(b"S-01", 1, None, NOW) is None
    assert Catalog(CatalogState(1, [])).decisions(1, made_up_state(Random(1)), NOW).codes.tolist() == []


def test_one_rollout_covers_a_user_as_it_does_among_many() -> None:
    chance = Random(3)
    salts = [chance.randint(-(2**63), 2**63 - 1) for _ in range(50)] + [0]
    rollouts = Rollouts(salts, [chance.choice([1, BUCKETS // 2, BUCKETS - 1, BUCKETS]) for _ in salts])
    for _ in range(100):
        user_id = chance.choice([chance.randint(1, 2**63 - 1), chance.randint(1, 1000)])

        one_by_one = [rollouts.covers(user_id, place) for place in range(len(salts))]

        assert one_by_one == rollouts.covering(user_id).tolist()
