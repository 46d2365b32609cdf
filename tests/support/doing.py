"""Everything that can happen to segments and users, done to the service and to the model."""

from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial

import numpy as np

from segmentd.domain.bucketing import buckets
from segmentd.storage import upkeep
from tests.support.client import Json
from tests.support.user_changes import TICK, UserChanges
from tests.support.world import World, same
from tests.truth.model import Model, Segment


class Doing(UserChanges):
    """Also to segments, and what happens by itself."""

    def __init__(self, world: World, model: Model) -> None:
        super().__init__(world, model)
        self.created: list[Segment] = []  # the living and the deleted
        self.deleted: list[Segment] = []

    # By administrators

    def create_segment(self, slug: str, percent: float | None, salt: int) -> None:
        users = np.array([abs(who) for who in self._model.lives if who < 0])
        found = buckets(users, np.full(users.shape, salt))
        segment = Segment(slug, salt, dict(zip(users.tolist(), found.tolist(), strict=True)), _exact(percent))
        with self._change_at() as now:
            body = {"slug": slug, "percent": percent, "salt": str(salt)}
            status, _ = self._world.send("POST", "segments", body)
            assert status == (409 if self._is_taken(slug) else 201)
            if status == 201:
                self._model.happen(now, "rollout", partial(self._model.segments.append, segment))
                self.created.append(segment)
                self._world.see("a slug used again", when=slug in {s.slug for s in self.deleted})

    def change_percent(self, slug: str, percent: float | None) -> None:
        segment = self._segment(slug)
        with self._change_at() as now:
            _, foreseen = self._world.send("POST", f"segments/{slug}/preview", {"percent": percent})
            # After a step back, the change is later than the present of the preview.
            present = max(self.now, self._world.marks(None).catalog)
            terms = [o.until for key, o in self._model.overrides.items() if key[1] is segment and o.until]
            ends_between = any(present < until <= now for until in terms)
            assert self._world.send("PATCH", f"segments/{slug}", {"percent": percent})[0] == 200
            self._world.see("a new percentage at the end of a term", when=self._ends(segment, now))
            unchanged = percent is not None and _exact(percent) == segment.percent
            self._world.see("the same percentage", when=unchanged)
            before = self._model.members(segment, now)
            self._model.happen(now, "rollout", partial(setattr, segment, "percent", _exact(percent)))
            if not ends_between:
                self._compare_preview(foreseen, before, self._model.members(segment))

    def rename_segment(self, slug: str, new_slug: str, percent: float | None) -> None:
        """Changes its percentage too: both, or neither if the name is taken."""
        segment = self._segment(slug)
        with self._change_at() as now:
            body = {"slug": new_slug, "percent": percent}
            status, _ = self._world.send("PATCH", f"segments/{slug}", body)
            assert status == (409 if self._is_taken(new_slug, by_other_than=segment) else 200)
            self._world.see("a name that was taken", when=status == 409)
            if status == 200:
                self._model.happen(now, "rollout", partial(setattr, segment, "percent", _exact(percent)))
                self._world.see("a segment renamed", when=slug != new_slug)
                segment.slug = new_slug

    def _compare_preview(self, foreseen: Json, before: set[int], after: set[int]) -> None:
        """It foresaw whom the change of the percentage moves."""
        moved = {name: foreseen[name] for name in ("enter", "leave", "stay", "sample_enter", "sample_leave")}
        expected = {
            "enter": len(after - before),
            "leave": len(before - after),
            "stay": len(before & after),
            "sample_enter": sorted(after - before),
            "sample_leave": sorted(before - after),
        }
        same(moved, expected)
        self._world.see("a preview of additions", when=bool(after - before))
        self._world.see("a preview of removals", when=bool(before - after))

    def delete_segment(self, slug: str) -> None:
        segment = self._segment(slug)
        with self._change_at() as now:
            assert self._world.send("DELETE", f"segments/{slug}")[0] == 204
            self._world.see("a deletion at the end of a term", when=self._ends(segment, now))
            self._model.happen(now, "segment-deleted", partial(self._model.segments.remove, segment))
        self.deleted.append(segment)

    # By itself

    def let_time_pass(self, seconds: int) -> None:
        self._move_to(self.now + timedelta(seconds=seconds))

    def step_back(self, seconds: float) -> None:
        """The clock steps back, as when another computer with another clock takes over."""
        self._move_to(self.now - timedelta(seconds=seconds))
        for user in [who for who in self._model.lives if who > 0]:
            self._model.step_back(user, self.present_of(user))

    def present_of(self, user: int) -> datetime:
        """What readers take as now: never before the stored changes of the user and of the segments."""
        marks = self._world.marks(user)
        return max(self.now, marks.catalog, marks.user)

    def come_to(self, instant: datetime) -> None:
        self._world.see(
            "a read at the end of a term", when=instant in {end for *_, end in self.terms_ahead()}
        )
        self._move_to(instant)

    def run_the_jobs(self) -> None:
        """No answer changes."""
        settled = self._world.run(upkeep.settle_due_terms(self._world.database, 1))
        self._world.see("a term settled by a job", when=settled > 0)
        settled = self._world.run(upkeep.settle_deleted_segments(self._world.database, 1))
        self._world.see("a deletion settled by a job", when=settled > 0)

    def follow(self) -> None:
        """No answer changes."""
        self._world.follow()

    def restart_the_follower(self) -> None:
        """No answer changes."""
        self._world.restart_follower()

    def turn_to_the_other_node(self) -> None:
        """No answer changes."""
        self._world.turn()
        self._lists.api = self._world.api

    def terms_ahead(self) -> list[tuple[int, str, datetime]]:
        """The terms that end later than now: user, segment, end."""
        return [
            (user, segment.slug, override.until)
            for (user, segment), override in self._model.overrides.items()
            if segment in self._model.segments and override.until and override.until > self.now + 2 * TICK
        ]

    def _ends(self, segment: Segment, now: datetime) -> bool:
        terms = self._model.overrides.items()
        return any(key[1] is segment and override.until == now for key, override in terms)

    def _is_taken(self, slug: str, by_other_than: Segment | None = None) -> bool:
        others = (segment for segment in self._model.segments if segment is not by_other_than)
        return slug.lower() in {segment.slug.lower() for segment in others}


def _exact(percent: float | None) -> Decimal | None:
    return None if percent is None else Decimal(str(percent))
