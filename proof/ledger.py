"""What clients asked for, and what they were told: afterwards it is compared with what is written.

Each change has a reason of its own, which is kept with its events, so no change is taken for another.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


class Told(Enum):
    """What came back."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    """A status that says that nothing was changed; or the request was never sent."""
    NOTHING = "nothing"
    """No answer, or 503: it was made whole or not at all."""


class Effect(NamedTuple):
    """One event of a change."""

    user_id: int
    segment: str
    operation: str


class Asked(NamedTuple):
    """A change, or a list of users for an import."""

    reason: str
    effects: frozenset[Effect]
    told: Told
    is_import: bool = False


def change(
    user_id: int, state: Collection[str], add: Iterable[str], remove: Iterable[str]
) -> tuple[frozenset[str], frozenset[Effect]]:
    """The segments of a user after a change, and its events; of segments without percentages and terms."""
    added = {*add} - {*state}
    removed = {*remove} & {*state}
    effects = [Effect(user_id, slug, "add") for slug in added]
    effects += [Effect(user_id, slug, "remove") for slug in removed]
    return frozenset(({*state} | added) - removed), frozenset(effects)


@dataclass
class Ledger:
    """All that was asked for."""

    asked: dict[str, Asked] = field(default_factory=dict)

    def note(self, asked: Asked) -> None:
        self.asked[asked.reason] = asked

    def count(self, told: Told) -> int:
        """How many were told this."""
        return sum(each.told is told for each in self.asked.values())

    def differences(
        self, written: Mapping[str, Sequence[Effect]], imports: Mapping[str, str], *, final: bool
    ) -> Iterator[str]:
        """What is written but should not be, or the other way round; imports have their status.

        At the end, which is `final`, every import has to be over.
        """
        for reason in written.keys() - self.asked.keys():
            yield f"{reason}: nobody asked for this"
        for asked in self.asked.values():
            found = written.get(asked.reason, ())
            if len({*found}) < len(found):
                yield f"{asked.reason}: written twice"
            if asked.is_import:
                yield from _differences_of_import(asked, {*found}, imports.get(asked.reason), final=final)
            else:
                yield from _differences(asked, {*found})

    def members(self, written: Mapping[str, Sequence[Effect]]) -> dict[int, set[str]]:
        """Who has to be in what: changes in the order in which they were asked for, if they are written."""
        found: dict[int, set[str]] = {}
        for asked in self.asked.values():
            whole = asked.told is Told.ACKNOWLEDGED and not asked.is_import
            for effect in asked.effects if whole else written.get(asked.reason, ()):
                segments = found.setdefault(effect.user_id, set())
                (segments.add if effect.operation == "add" else segments.discard)(effect.segment)
        return {user_id: segments for user_id, segments in found.items() if segments}


def _differences(asked: Asked, found: set[Effect]) -> Iterator[str]:
    if asked.told is Told.ACKNOWLEDGED and found != asked.effects:
        yield f"{asked.reason}: acknowledged, and {len(found)} of {len(asked.effects)} events are there"
    if asked.told is Told.REFUSED and found:
        yield f"{asked.reason}: refused, and {len(found)} events are there"
    if asked.told is Told.NOTHING and found and found != asked.effects:
        yield f"{asked.reason}: half done, {len(found)} of {len(asked.effects)} events are there"


def _differences_of_import(
    asked: Asked, found: set[Effect], status: str | None, *, final: bool
) -> Iterator[str]:
    over = {"done", "failed", None}
    if found - asked.effects:
        yield f"{asked.reason}: the import wrote what no row has"
    if asked.told is Told.ACKNOWLEDGED and status in {None, "failed", "canceled", "receiving"}:
        yield f"{asked.reason}: the import was accepted, and is {status}"
    if asked.told is Told.REFUSED and found:
        yield f"{asked.reason}: the import was refused, and {len(found)} events are there"
    if status == "done" and found != asked.effects:
        yield f"{asked.reason}: the import is done, and {len(found)} of {len(asked.effects)} events are there"
    if status == "failed" and found:
        yield f"{asked.reason}: the import failed, and {len(found)} events are there"
    if final and status not in over:
        yield f"{asked.reason}: the import is still {status}"
