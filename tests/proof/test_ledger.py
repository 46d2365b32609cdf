"""What clients were told is compared with what is written: each kind of contradiction is found."""

import pytest

from proof.ledger import Asked, Effect, Ledger, Told, change

ONE, TWO = Effect(1, "A", "add"), Effect(1, "B", "add")
BOTH = frozenset({ONE, TWO})


def found(
    asked: Asked, written: list[Effect], status: str | None = None, *, final: bool = False
) -> list[str]:
    ledger = Ledger()
    ledger.note(asked)
    imports = {} if status is None else {asked.reason: status}
    return [*ledger.differences({asked.reason: written} if written else {}, imports, final=final)]


@pytest.mark.parametrize(
    ("told", "written"),
    [
        (Told.ACKNOWLEDGED, [ONE, TWO]),
        (Told.REFUSED, []),
        (Told.NOTHING, []),
        (Told.NOTHING, [TWO, ONE]),
    ],
)
def test_what_was_told_agrees_with_what_is_written(told: Told, written: list[Effect]) -> None:
    assert found(Asked("r", BOTH, told), written) == []


@pytest.mark.parametrize(
    ("told", "written"),
    [
        (Told.ACKNOWLEDGED, []),
        (Told.ACKNOWLEDGED, [ONE]),
        (Told.ACKNOWLEDGED, [ONE, TWO, Effect(2, "A", "add")]),
        (Told.ACKNOWLEDGED, [ONE, TWO, TWO]),
        (Told.REFUSED, [ONE]),
        (Told.NOTHING, [ONE]),
        (Told.NOTHING, [ONE, TWO, TWO]),
    ],
)
def test_a_lost_a_half_a_doubled_and_a_refused_change_are_found(told: Told, written: list[Effect]) -> None:
    assert len(found(Asked("r", BOTH, told), written)) == 1


@pytest.mark.parametrize(
    ("told", "written", "status", "final", "differences"),
    [
        (Told.ACKNOWLEDGED, [ONE, TWO], "done", True, 0),
        (Told.ACKNOWLEDGED, [ONE], "applying", False, 0),
        (Told.ACKNOWLEDGED, [ONE], "applying", True, 1),
        (Told.ACKNOWLEDGED, [ONE], "done", False, 1),
        (Told.ACKNOWLEDGED, [], None, False, 1),
        (Told.ACKNOWLEDGED, [], "failed", False, 1),
        (Told.ACKNOWLEDGED, [Effect(9, "A", "add")], "applying", False, 1),
        (Told.REFUSED, [], "failed", True, 0),
        (Told.REFUSED, [ONE], "applying", False, 1),
        (Told.NOTHING, [], None, True, 0),
        (Told.NOTHING, [ONE, TWO], "done", True, 0),
        (Told.NOTHING, [ONE], "failed", True, 1),
    ],
)
def test_an_import_is_there_as_its_status_says(
    told: Told,
    written: list[Effect],
    status: str | None,
    differences: int,
    *,
    final: bool,
) -> None:
    asked = Asked("r", BOTH, told, is_import=True)
    assert len(found(asked, written, status, final=final)) == differences


def test_a_change_that_nobody_asked_for_is_found() -> None:
    assert [*Ledger().differences({"r": [ONE]}, {}, final=False)] == ["r: nobody asked for this"]


def test_the_members_follow_from_the_changes_that_are_written() -> None:
    ledger = Ledger()
    after, effects = change(1, {"A"}, add=["A", "B"], remove=["C"])
    assert (sorted(after), [*effects]) == (["A", "B"], [TWO])
    ledger.note(Asked("one", frozenset({ONE}), Told.ACKNOWLEDGED))
    ledger.note(Asked("two", effects, Told.NOTHING))
    assert ledger.members({}) == {1: {"A"}}
    assert ledger.members({"two": [TWO]}) == {1: {"A", "B"}}
