from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from segmentd.domain.counts import Preview, Tally

# Of each user: the bucket, and whether an override includes or excludes them, or none decides.
users = st.lists(st.tuples(st.integers(0, 9), st.sampled_from([True, False, None])))


def tally(crowd: list[tuple[int, bool | None]], threshold: int) -> Tally:
    covered = [included for bucket, included in crowd if bucket < threshold]
    return Tally(
        registered=len(crowd),
        explicit=[included for _, included in crowd].count(True),
        excluded=[included for _, included in crowd].count(False),
        covered=len(covered),
        overridden=len(covered) - covered.count(None),
    )


def members(crowd: list[tuple[int, bool | None]], threshold: int) -> set[int]:
    """By their places; an override decides, else the bucket."""
    return {
        place
        for place, (bucket, included) in enumerate(crowd)
        if (bucket < threshold if included is None else included)
    }


@given(users, st.integers(0, 10), st.integers(0, 10))
def test_sums_under_two_thresholds_say_who_enters_leaves_and_stays(
    crowd: list[tuple[int, bool | None]], one: int, other: int
) -> None:
    before, after = members(crowd, one), members(crowd, other)

    preview = Preview(Decimal(one), Decimal(other), tally(crowd, one), tally(crowd, other), [])

    assert preview.before.members == len(before)
    assert preview.after.members == len(after)
    assert (preview.enter, preview.leave) == (len(after - before), len(before - after))
    assert preview.stay == len(before & after)
