"""Whatever happens in whatever order, all ways to ask give the same answer: that of tests/truth/model.py."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.support.asking import Asking, Then
from tests.support.doing import Doing
from tests.support.following import Follower
from tests.support.world import World, inhabited, same
from tests.truth.acts import EVERYONE, PERCENTS, SALTS, TERMS, USERS, Act, next_act
from tests.truth.model import Change, Model

# After so many steps the other node is asked, and changed by.
TURN_LENGTH: Final = 5


class OneTruth(RuleBasedStateMachine):
    """Asks in all ways after each `pace` steps and at the ends of terms; looks users up after each step."""

    def __init__(self, world: World, pace: int) -> None:
        super().__init__()
        self.world = world
        self.pace = pace
        self.model = Model(EVERYONE)
        self.doing = Doing(world, self.model)
        self.asking = Asking(world, self.model, self.doing, EVERYONE)
        self.feed = Follower(world.database)
        self.steps = 0
        self.remembered: list[Then] = []
        self.as_of = datetime.min.replace(tzinfo=UTC)
        self.reported: list[Change] = []

    @initialize(
        percents=st.tuples(*[st.sampled_from(PERCENTS)] * 2), terms=st.tuples(*[st.sampled_from(TERMS)] * 2)
    )
    def begin(self, percents: tuple[float | None, ...], terms: tuple[str, ...]) -> None:
        self.doing.create_segment("Beta", percents[0], SALTS[0])
        self.doing.create_segment("gamma-2", percents[1], SALTS[2])
        self.doing.change(USERS[0], {"Beta": terms[0], "gamma-2": terms[1]})

    # One rule for all: of many, Hypothesis would leave out half in each example, and there are few examples.
    @rule(act=next_act())
    def step(self, act: Act) -> None:
        self.doing.appointment = act.when
        self.world.see(act.name)
        getattr(self.doing, act.name)(**act.arguments)

    @invariant()
    def there_is_one_truth(self) -> None:
        now = self.doing.now
        ended = {key: o.until for key, o in self.model.overrides.items() if o.until and o.until <= now}
        self.world.see("an end under a percentage", when=any(s.covers(user) for user, s in ended))
        presents = {user: self.doing.present_of(user) for user in EVERYONE}
        for user, present in presents.items():
            self.model.happen(present, "expiry", to=user)
        self.steps += 1
        if self.steps % TURN_LENGTH == 0:
            self.doing.turn_to_the_other_node()
        self.world.refresh()
        if self.steps % self.pace and now not in ended.values():
            self.world.run(self.asking.now.look_up())
            return
        self.world.run(self.feed.catch_up(1 + self.steps % 7))
        same(self.feed.copy.members, self.world.explicit())
        then = self.world.run(self.asking.everything(presents))
        assert self.reported == [change for change in self.model.changes if change.at < self.as_of]
        self.as_of = self.world.run(self.asking.report())
        self.reported = [change for change in self.model.changes if change.at < self.as_of]
        # Nothing will be dated before the report's cut-off: what held before it can be asked for ever.
        if max(presents.values()) < self.as_of and (self.steps % 8 == 0 or now in ended.values()):
            self.remembered.append(then)
        if self.remembered:
            user = EVERYONE[self.steps % len(EVERYONE)]
            then = self.remembered[self.steps % len(self.remembered)]
            self.world.run(self.asking.look_back(then, user))
            self.world.run(self.asking.look_back_at_members(then))

    def teardown(self) -> None:
        for then in self.remembered:
            self.world.run(self.asking.look_back_at_members(then))
            for user in EVERYONE:
                self.world.run(self.asking.look_back(then, user))
        for change in self.model.changes:
            self.world.see(f"{change.operation} {change.source} {change.cause}", when=change.who > 0)


SHORT: Final = settings(
    max_examples=11,
    stateful_step_count=45,
    # Where it matters only whether it fails (proof/mutations.py), the shortest way to that is not looked for.
    phases=[Phase.generate, *([] if "SEGMENTD_TEST_FAILS_FAST" in os.environ else [Phase.shrink])],
    derandomize=True,
    database=None,
    suppress_health_check=[*HealthCheck],
)
LONG: Final = settings(SHORT, max_examples=100, stateful_step_count=50, derandomize=False)

# What a run has to include, else it proves too little.
EVERYTHING: Final = {
    *("add explicit request", "add rollout rollout"),
    *(f"remove explicit {cause}" for cause in ("request", "expiry", "segment-deleted", "user-deleted")),
    *(f"remove rollout {cause}" for cause in ("rollout", "segment-deleted", "user-deleted")),
    *(
        "added",
        "updated",
        "unchanged",
        "removed by a removal",
        "updated by a removal",
        "unchanged by a removal",
    ),
    *("explicit", "excluded", "rollout", "expired", "removed", "not-in-rollout", "never-added"),
    *("a read at the end of a term", "a change at the end of a term", "an end under a percentage"),
    *("a new percentage at the end of a term", "a deletion at the end of a term"),
    *("a slug used again", "a segment renamed", "a name that was taken"),
    *("members in the past", "a preview of additions", "a preview of removals"),
    *("one by gRPC", "many by gRPC", "a follower that began again", "the other node"),
    *("an export", "a change of many", "changes at once", "a refusal among changes at once", "a list"),
    *("a list that replaces", "a member whom a list leaves out"),
    *(f"a flag: {how}" for how in ("TARGETING_MATCH on", "TARGETING_MATCH off", "SPLIT on", "SPLIT off")),
    *("a flag: STATIC off", "a read of the replica with no round before it"),
    *("a second life", "the same percentage", "a term settled by a job", "a deletion settled by a job"),
    *("step_back", "a change of segments after a step back", "a change of a user after a step back"),
}


def prove(database_url: str, folder: Path, pace: int, effort: settings) -> None:
    with inhabited(database_url, folder, nodes=2) as world:

        class OneTruthHere(OneTruth):
            def __init__(self) -> None:
                super().__init__(world, pace)

        run_state_machine_as_test(OneTruthHere, settings=effort)
        assert world.seen.keys() >= EVERYTHING, f"{EVERYTHING - world.seen.keys()} did not happen"


@pytest.mark.timeout(900)  # where it fails, the shortest way to the failure is looked for
def test_all_ways_to_ask_give_one_answer(database_url: str, tmp_path: Path) -> None:
    prove(database_url, tmp_path, 4, SHORT)


@pytest.mark.proof
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("half", ["one half", "the other half"])
def test_all_ways_to_ask_give_one_answer_in_ten_thousand_steps(
    database_url: str, tmp_path: Path, half: str
) -> None:
    del half  # two processes try 5,000 steps each
    prove(database_url, tmp_path, 3, LONG)
