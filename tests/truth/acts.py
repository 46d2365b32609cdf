"""What may happen next, drawn from what there is.

Made of numbers below small bounds: for strategies made for one step, Hypothesis takes as long as the service
takes for the step.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final, NamedTuple, TypeVar

from hypothesis import strategies as st

from tests.support.client import Json
from tests.support.doing import Doing
from tests.support.user_changes import Wishes
from tests.support.world import MICROSECOND
from tests.truth.model import Model

USERS: Final = (1000, 2**63 - 1)
STRANGER: Final = 77  # nothing happens to this one
EVERYONE: Final = (*USERS, STRANGER)
SLUGS: Final = ("ALPHA", "alpha", "Beta", "gamma-2")
SALTS: Final = (-1, 1, 4711)
PERCENTS: Final = (None, None, 50, 100, 12.5, 0)
SECONDS: Final = (1, 60, 86_400)
STEPS_BACK: Final = (0.000001, 0.5, 60, 86_400)
TERMS: Final = [f"{kind} {seconds}" for kind in ("ttl", "until") for seconds in SECONDS]
WISHES: Final = ["out", "out", "out", "always", "again", *TERMS]
MOST_SEGMENTS: Final = 3

Option = TypeVar("Option")


class Act(NamedTuple):
    """A method of Doing, its arguments, and the instant at which it shall happen, if that matters."""

    name: str
    arguments: dict[str, Json]
    when: datetime | None = None


class Choosing:
    """Chooses acts for one step."""

    def __init__(self, draw: Callable[[st.SearchStrategy[int]], int], model: Model, doing: Doing) -> None:
        self._draw = draw
        self._doing = doing
        self._segments = model.segments
        self._living = [segment.slug for segment in model.segments]

    def act(self) -> Act:
        """Any that is possible; the same one several times is more likely."""
        acts: list[Callable[[], Act]] = [
            lambda: Act("begin_life", {"user": self._one(USERS)}),
            lambda: Act("end_life", {"user": self._one(USERS)}),
            lambda: Act("let_time_pass", {"seconds": self._one(SECONDS)}),
            lambda: Act("step_back", {"seconds": self._one(STEPS_BACK)}),
            lambda: Act("follow", {}),
            lambda: Act("restart_the_follower", {}),
            *[lambda: Act("run_the_jobs", {})] * 2,
        ]
        if self._living:
            acts += [
                *[lambda: Act("change", {"user": self._one(USERS), "wishes": self._wishes()})] * 4,
                *[self._change_together, self._change_at_once] * 2,
                self._bring_list,
                self._replace_members,
                self._change_by_grpc,
                *[lambda: Act("change_percent", {"slug": self._slug(), "percent": self._one(PERCENTS)})] * 2,
                *[self._rename] * 2,
                lambda: Act("delete_segment", {"slug": self._slug()}),
                self._ask_in_vain,
            ]
        if len(self._living) < MOST_SEGMENTS:
            acts += [self._create] * 2
        if terms := self._doing.terms_ahead():
            acts += [lambda: self._act_at_the_end(*self._one(terms))] * 5
        return self._one(acts[::-1])()

    def _act_at_the_end(self, user: int, slug: str, end: datetime) -> Act:
        """What is worth trying when a term ends."""
        wishes = {slug: self._one(WISHES)}
        acts = (
            Act("come_to", {"instant": self._one([end, end - MICROSECOND, end + MICROSECOND])}),
            Act("change", {"user": user, "wishes": wishes}, end),
            Act("change", {"user": user, "wishes": wishes}, end - MICROSECOND),
            Act("bring_list", {"wishes": {user: wishes}}, end),
            Act("change_percent", {"slug": slug, "percent": self._one(PERCENTS)}, end),
            Act("delete_segment", {"slug": slug}, end),
            Act("end_life", {"user": user}, end),
            Act("begin_life", {"user": self._one(USERS)}, end),
        )
        return self._one(acts)

    def _create(self) -> Act:
        salt, percent = self._one(SALTS), self._one(PERCENTS)
        return Act("create_segment", {"slug": self._any_slug(), "percent": percent, "salt": salt})

    def _rename(self) -> Act:
        changed = {"new_slug": self._any_slug(), "percent": self._one(PERCENTS)}
        return Act("rename_segment", {"slug": self._slug(), **changed})

    def _ask_in_vain(self) -> Act:
        bad = self._one([*SLUGS, "past", "now"])
        return Act("ask_in_vain", {"user": self._one(USERS), "slug": self._slug(), "bad": bad})

    def _change_together(self) -> Act:
        return Act("change_together", {"wishes": self._wishes_of_both(), "bad": self._one(SLUGS)})

    def _change_at_once(self) -> Act:
        bad = self._one([*SLUGS, "past", "past"])
        return Act("change_at_once", {"wishes": self._wishes_of_both(), "stranger": STRANGER, "bad": bad})

    def _change_by_grpc(self) -> Act:
        wishes = self._wishes_of_both() if self._draw(_below(2)) else {self._one(USERS): self._wishes()}
        return Act("change_by_grpc", {"wishes": wishes})

    def _bring_list(self) -> Act:
        return Act("bring_list", {"wishes": self._wishes_of_both()})

    def _replace_members(self) -> Act:
        plain = [segment.slug for segment in self._segments if segment.percent is None]
        wishes = {self._one(USERS): self._one(["always", "again", *TERMS])}
        return Act("replace_members", {"slug": self._one(plain or self._living), "wishes": wishes})

    def _wishes_of_both(self) -> dict[int, Wishes]:
        """In either order."""
        return {user: self._wishes() for user in self._one([USERS, USERS[::-1]])}

    def _wishes(self) -> Wishes:
        """For one segment or several."""
        return {self._slug(): self._one(WISHES) for _ in range(1 + self._draw(_below(MOST_SEGMENTS)))}

    def _slug(self) -> str:
        return self._one(self._living)

    def _any_slug(self) -> str:
        """Also one that a deleted segment had."""
        return self._one([*SLUGS, *(segment.slug for segment in self._doing.deleted)])

    def _one(self, options: Sequence[Option]) -> Option:
        return options[self._draw(_below(len(options)))]


@cache
def _below(bound: int) -> st.SearchStrategy[int]:
    return st.integers(0, bound - 1)


@st.composite
def next_act(draw: Any) -> Act:  # noqa: ANN401 - Hypothesis gives it a type of its own
    """For a state machine that has a model and does things to it."""
    machine = draw(st.runner())
    return Choosing(draw, machine.model, machine.doing).act()
