"""Which users are in which segments, and when that changed: docs/data-model.md as plain, slow code.

Each user has a counterpart with the same buckets and the negative id, which the service does not know: the
answers for the counterpart are those for the user before, between and after the user's lives.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from segmentd.domain.bucketing import threshold


@dataclass(eq=False)
class Segment:
    slug: str
    salt: int
    buckets: Mapping[int, int]  # of each user, under the salt
    percent: Decimal | None

    def covers(self, who: int) -> bool:
        return self.percent is not None and self.buckets[abs(who)] < threshold(self.percent)


class Override(NamedTuple):
    included: bool
    until: datetime | None = None


class Change(NamedTuple):
    who: int
    segment: Segment
    operation: str
    at: datetime
    source: str
    cause: str


class Model:
    def __init__(self, user_ids: Iterable[int]) -> None:
        self.lives = {-user_id: datetime.min.replace(tzinfo=UTC) for user_id in user_ids}  # the present ones
        self.segments: list[Segment] = []  # the living
        self.overrides: dict[tuple[int, Segment], Override] = {}
        self.changes: list[Change] = []
        self.ended: list[tuple[tuple[int, Segment], Override]] = []

    def source(self, who: int, segment: Segment) -> str | None:
        if override := self.overrides.get((who, segment)):
            return "explicit" if override.included else None
        return "rollout" if segment.covers(who) else None

    def known(self, user: int) -> int:
        """The user within a life, or else the counterpart."""
        return user if user in self.lives else -user

    def members(self, segment: Segment, at: datetime | None = None) -> set[int]:
        """Those within a life, after the ends of terms up to `at`."""
        ended = {who for who, of in self.overrides if of is segment and self._has_ended(who, segment, at)}
        known = {who for who in self.lives if who > 0}
        return {who for who in known - ended if self.source(who, segment)} | {
            who for who in known & ended if segment.covers(who)
        }

    def _has_ended(self, who: int, segment: Segment, at: datetime | None) -> bool:
        until = self.overrides[who, segment].until
        return until is not None and at is not None and until <= at

    def because(self, who: int, segment: Segment) -> str:
        if (who, segment) in self.overrides or segment.covers(who):
            return self.source(who, segment) or "excluded"
        if last := self.last_change(who, segment):
            return {"expiry": "expired", "request": "removed"}.get(last.cause, "not-in-rollout")
        return "never-added" if segment.percent is None else "not-in-rollout"

    def last_change(self, who: int, segment: Segment) -> Change | None:
        own = [c for c in self.changes if c[:2] == (who, segment) and c.at >= self.lives[who]]
        return own[-1] if own else None

    def happen(
        self, at: datetime, cause: str, act: Callable[[], object] = lambda: None, to: int | None = None
    ) -> None:
        """Everything that changes at one instant, also by ends of terms: who is in and was not, got in.

        It happens to one, or to all: where the clock stepped back, each has a present of their own.
        """
        terms = {key: o.until for key, o in self.overrides.items() if o.until and to in {None, key[0]}}
        for end in sorted({until for until in terms.values() if until < at}):
            self.happen(end, "expiry", to=to)
        before, ended = self._sources(), {key for key, until in terms.items() if until == at}
        act()
        self.ended += [(key, o) for key, o in self.overrides.items() if key in ended]
        self.overrides = {key: o for key, o in self.overrides.items() if key not in ended}
        after = self._sources()
        for key in before.keys() ^ after.keys():
            why = "expiry" if key in ended else cause
            source = "explicit" if why in {"expiry", "request"} else (before | after)[key]
            self.changes.append(Change(*key, "add" if key in after else "remove", at, source, why))

    def step_back(self, who: int, present: datetime) -> None:
        """Terms whose end readers saw, but no later change was stored, are in the future again."""
        ahead = [(key, o) for key, o in self.ended if key[0] == who and o.until and o.until > present]
        self.ended = [term for term in self.ended if term not in ahead]
        for key, override in ahead:
            self.overrides[key] = override
            self.changes = [c for c in self.changes if (*c[:2], c.at) != (*key, override.until)]

    def begin_life(self, who: int, at: datetime) -> None:
        at -= timedelta(microseconds=1)  # so that what begins a life comes after its beginning
        self.happen(at, "rollout", lambda: self.lives.update({who: at}), to=who)

    def end_life(self, who: int, at: datetime) -> None:
        self.happen(at, "user-deleted", lambda: self.lives.pop(who), to=who)
        self.overrides = {key: o for key, o in self.overrides.items() if key[0] != who}

    def decide(self, who: int, segment: Segment, wish: Override) -> str:
        """Applies a request, and returns its outcome: added, removed, updated or unchanged."""
        held, was_in = self.overrides.get((who, segment)), self.source(who, segment) is not None
        if wish.included or segment.percent is not None:
            self.overrides[who, segment] = wish
        elif was_in:  # there is no percentage to be excluded from
            del self.overrides[who, segment]
        if was_in != wish.included:
            return "added" if wish.included else "removed"
        return "unchanged" if self.overrides.get((who, segment)) == held else "updated"

    def _sources(self) -> dict[tuple[int, Segment], str]:
        pairs = [(who, segment) for who in self.lives for segment in self.segments]
        return {pair: source for pair in pairs if (source := self.source(*pair))}
