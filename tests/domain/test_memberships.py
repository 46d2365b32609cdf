from datetime import UTC, datetime
from decimal import Decimal

import pytest

from segmentd.domain.errors import Invalid
from segmentd.domain.identifiers import Salt, Slug
from segmentd.domain.memberships import Addition, Because, Cause, Change, Evidence, Operation, TtlSeconds
from segmentd.domain.segments import Bucket, Threshold


def evidence(
    *,
    included: bool | None = None,
    covered: bool | None = None,
    last_operation: Operation | None = None,
    last_cause: Cause | None = None,
) -> Evidence:
    """What decides; `covered` None means that the segment has no percentage."""
    has_percentage = covered is not None
    return Evidence(
        included=included,
        until=None,
        covered=covered,
        last_change=datetime(2026, 1, 1, tzinfo=UTC) if last_cause else None,
        last_operation=last_operation,
        last_cause=last_cause,
        percent=Decimal(10) if has_percentage else None,
        bucket=Bucket(5),
        threshold=Threshold(10 if covered else 0) if has_percentage else None,
        salt=Salt(22),
    )


PAST = (None, *Cause)


@pytest.mark.parametrize("covered", [None, False, True])
@pytest.mark.parametrize("cause", PAST)
def test_an_override_decides_before_all_else(cause: Cause | None, *, covered: bool | None) -> None:
    included = evidence(included=True, covered=covered, last_cause=cause).because()
    excluded = evidence(included=False, covered=covered, last_cause=cause).because()

    assert (included, included.member) == (Because.EXPLICIT, True)
    assert (excluded, excluded.member) == (Because.EXCLUDED, False)


@pytest.mark.parametrize("cause", PAST)
def test_a_covered_bucket_decides_before_the_past(cause: Cause | None) -> None:
    because = evidence(covered=True, last_cause=cause).because()

    assert (because, because.member) == (Because.ROLLOUT, True)


@pytest.mark.parametrize("covered", [None, False])
@pytest.mark.parametrize(
    ("cause", "because"),
    [(Cause.EXPIRY, "expired"), (Cause.REQUEST, "removed"), (Cause.ROLLOUT, "not-in-rollout")],
)
def test_who_is_out_is_out_by_the_cause_of_the_last_removal(
    cause: Cause, because: str, *, covered: bool | None
) -> None:
    out = evidence(covered=covered, last_operation=Operation.REMOVE, last_cause=cause).because()

    assert (out, out.member) == (because, False)


def test_who_was_never_in_is_outside_the_percentage_or_was_never_added() -> None:
    assert evidence(covered=False).because() is Because.NOT_IN_ROLLOUT
    assert evidence().because() is Because.NEVER_ADDED


@pytest.mark.parametrize("cause", [Cause.SEGMENT_DELETED, Cause.USER_DELETED])
def test_what_was_before_a_deletion_counts_no_more(cause: Cause) -> None:
    assert evidence(covered=False, last_cause=cause).because() is Because.NOT_IN_ROLLOUT
    assert evidence(last_cause=cause).because() is Because.NEVER_ADDED


@pytest.mark.parametrize("because", Because)
def test_only_explicit_and_rollout_mean_in(because: Because) -> None:
    assert because.member == (because in {"explicit", "rollout"})


def change(add: str = "", remove: str = "") -> Change:
    return Change([Addition(Slug(slug)) for slug in add.split()], [Slug(slug) for slug in remove.split()])


@pytest.mark.parametrize("good", [change("A"), change(remove="A"), change("A B", "C"), change("A", "a")])
def test_a_change_that_names_each_segment_once_is_sound(good: Change) -> None:
    good.check()


@pytest.mark.parametrize(
    ("bad", "pointers"),
    [
        (change(), [""]),
        (change("A A"), ["/add/1"]),
        (change(remove="A B A A"), ["/remove/2", "/remove/3"]),
        (change("A B", "B"), ["/remove/0"]),
        (Change([Addition(Slug("A"), datetime(2026, 1, 1, tzinfo=UTC), TtlSeconds(60))], []), ["/add/0"]),
    ],
)
def test_a_change_that_contradicts_itself_tells_where(bad: Change, pointers: list[str]) -> None:
    with pytest.raises(Invalid) as refused:
        bad.check()

    assert [fault.pointer for fault in refused.value.faults] == pointers


def test_one_thousand_segments_in_all_are_the_most() -> None:
    slugs = [Slug(f"S{number}") for number in range(1001)]
    additions = [Addition(slug) for slug in slugs]

    Change(additions[:600], slugs[600:1000]).check()
    with pytest.raises(Invalid, match="more than 1000"):
        Change(additions[:600], slugs[600:1001]).check()
