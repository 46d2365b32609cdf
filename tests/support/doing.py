"""Everything that can happen to segments and users, done to the service and to the model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Final

import numpy as np

from segmentd.domain.bucketing import buckets
from segmentd.domain.instants import rfc3339
from segmentd.storage import upkeep
from tests.support.client import Json
from tests.support.world import World, same
from tests.truth.model import Model, Override, Segment

START: Final = datetime(2030, 1, 31, 23, 59, 30, tzinfo=UTC)  # a month ends soon
TICK: Final = timedelta(microseconds=4)  # the least time that keeps the instants of two changes apart
MICROSECOND: Final = timedelta(microseconds=1)


class Doing:
    """A wish is "out", "always", "again" (with the term that holds), or "ttl" or "until" with seconds."""

    def __init__(self, world: World, model: Model) -> None:
        self._world = world
        self._model = model
        self._ended_lives: set[int] = set()
        self.now = START
        self.appointment: datetime | None = None  # of the next change; else it is made in a moment
        self.created: list[Segment] = []  # the living and the deleted
        self.deleted: list[Segment] = []
        world.begin(START)

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

    # To users

    def begin_life(self, user: int) -> None:
        with self._change_at(user) as now:
            lives = user in self._model.lives
            assert self._world.send("POST", "users", {"id": user})[0] == (409 if lives else 201)
            if not lives:
                self._model_begins_life(user, now)

    def end_life(self, user: int) -> None:
        with self._change_at(user) as now:
            lives = user in self._model.lives
            assert self._world.send("DELETE", f"users/{user}")[0] == (204 if lives else 404)
            if lives:
                self._model.end_life(user, self._instant_of_change(user, now))
                self._ended_lives.add(user)

    def change(self, user: int, wishes: Mapping[str, str]) -> None:
        with self._change_at(user) as now:
            at = self._instant_of_change(user, now)
            self._world.see("a change at the end of a term", when=at > now)
            body, wanted = self._change_of(user, wishes, at)
            status, answer = self._world.send("POST", f"users/{user}/segments", body)
            assert status == 200, answer
            same(answer, self._expected_answer(user, wanted, at))

    def change_together(self, wishes: Mapping[int, Mapping[str, str]], bad: str) -> None:
        """First in vain, with a segment that there may not be; then so that it succeeds."""
        last = [*wishes][-1]
        with self._change_at(*wishes) as now:
            ats = {user: self._instant_of_change(user, self._instant(user)) for user in wishes}
            changes = {user: self._change_of(user, wishes[user], ats[user]) for user in wishes}
            if bad not in {segment.slug for segment in self._model.segments}:
                body = {"add": [*changes[last][0]["add"], bad], "remove": changes[last][0]["remove"]}
                all_of_them = [*({"user_id": user, **changes[user][0]} for user in wishes if user != last)]
                refused = {"changes": [*all_of_them, {"user_id": last, **body}]}
                status, answer = self._world.send("POST", "changes", refused)
                assert (status, answer["segments"]) == (404, [bad])
            request = {"changes": [{"user_id": user, **changes[user][0]} for user in wishes]}
            status, answer = self._world.send("POST", "changes", request)
            assert status == 200, answer
            # In the order of time: of one instant they are in no order.
            expected = {
                user: self._expected_answer(user, changes[user][1], ats[user])
                for user in sorted(wishes, key=lambda user: ats[user])
            }
            same(answer["changes"], [expected[user] for user in wishes])
            self._world.see("a change of many", when=all(at >= now for at in ats.values()))

    def _change_of(
        self, user: int, wishes: Mapping[str, str], at: datetime
    ) -> tuple[dict[str, list[Json]], dict[Segment, Override]]:
        body: dict[str, list[Json]] = {"add": [], "remove": []}
        wanted: dict[Segment, Override] = {}
        for slug, wish in wishes.items():
            segment = self._segment(slug)
            if wish == "out":
                body["remove"].append(slug)
                wanted[segment] = Override(included=False)
            else:
                item, wanted[segment] = self._addition(user, segment, wish, at)
                body["add"].append(item)
        return body, wanted

    def ask_in_vain(self, user: int, slug: str, bad: str) -> None:
        """All or nothing: one bad value, a slug or a time in the past, and nothing is changed."""
        with self._change_at(user) as now:
            if bad in {"past", "now"}:
                addition = {"slug": slug, "until": rfc3339(now - TICK if bad == "past" else now)}
                assert self._world.send("POST", f"users/{user}/segments", {"add": [addition]})[0] == 422
            elif bad not in {segment.slug for segment in self._model.segments}:
                body = {"add": [slug], "remove": [bad]}
                status, answer = self._world.send("POST", f"users/{user}/segments", body)
                assert (status, answer["segments"]) == (404, [bad])
                assert self._world.send("GET", f"users/{user}/segments/{bad}")[0] == 404

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

    def terms_ahead(self) -> list[tuple[int, str, datetime]]:
        """The terms that end later than now: user, segment, end."""
        return [
            (user, segment.slug, override.until)
            for (user, segment), override in self._model.overrides.items()
            if segment in self._model.segments and override.until and override.until > self.now + 2 * TICK
        ]

    # How it is said

    def _segment(self, slug: str) -> Segment:
        return next(segment for segment in self._model.segments if segment.slug == slug)

    def _ends(self, segment: Segment, now: datetime) -> bool:
        terms = self._model.overrides.items()
        return any(key[1] is segment and override.until == now for key, override in terms)

    def _is_taken(self, slug: str, by_other_than: Segment | None = None) -> bool:
        others = (segment for segment in self._model.segments if segment is not by_other_than)
        return slug.lower() in {segment.slug.lower() for segment in others}

    def _addition(self, user: int, segment: Segment, wish: str, at: datetime) -> tuple[Json, Override]:
        """As a client writes it, and what it means."""
        kind, _, seconds = wish.partition(" ")
        until = at + timedelta(seconds=int(seconds or 0))
        if kind == "ttl":
            return {"slug": segment.slug, "ttl_seconds": int(seconds)}, Override(included=True, until=until)
        held = self._model.overrides.get((user, segment))
        if kind == "again" and held and held.until and held.until > at:
            until = held.until
        elif kind != "until":
            return segment.slug, Override(included=True)
        return {"slug": segment.slug, "until": rfc3339(until)}, Override(included=True, until=until)

    def _expected_answer(self, user: int, wanted: Mapping[Segment, Override], at: datetime) -> Json:
        if user not in self._model.lives:
            self._model_begins_life(user, at)
        outcomes: dict[Segment, str] = {}
        self._model.happen(
            at,
            "request",
            lambda: outcomes.update({s: self._model.decide(user, s, wish) for s, wish in wanted.items()}),
            to=user,
        )
        for segment, outcome in outcomes.items():
            self._world.see(outcome if wanted[segment].included else f"{outcome} by a removal")
        return {
            "user_id": user,
            "segments": sorted(s.slug for s in self._model.segments if self._model.source(user, s)),
            **{
                kind: sorted(segment.slug for segment, outcome in outcomes.items() if outcome == kind)
                for kind in ("added", "removed", "updated", "unchanged")
            },
        }

    def _model_begins_life(self, user: int, at: datetime) -> None:
        self._model.begin_life(user, at)
        self._world.see("a second life", when=user in self._ended_lives)

    def _instant_of_change(self, user: int, now: datetime) -> datetime:
        """The end of a term and the change after it are two instants."""
        own = [(user, segment) for segment in self._model.segments]
        ends = {self._model.overrides[key].until for key in own if key in self._model.overrides}
        while now in ends:
            now += MICROSECOND
        return now

    def _move_to(self, instant: datetime) -> None:
        self.appointment = None
        self.now = instant
        self._world.set_clock(instant)

    @contextmanager
    def _change_at(self, *users: int) -> Iterator[datetime]:
        """The instant of a change of the first user, or of segments; it is earlier than what is read next."""
        self._move_to(self.appointment or self.now + TICK)
        at = self._instant(*users[:1])
        self._world.see("a change of segments after a step back", when=not users and at > self.now)
        self._world.see("a change of a user after a step back", when=bool(users) and at > self.now)
        yield at
        self._move_to(self.now + TICK)

    def _instant(self, user: int | None = None) -> datetime:
        """When a change happens that is made now: it is later than what was read before.

        Where the clock stepped back, a change of a user is later than everything of that user and of the
        segments, and a change of segments is later than everything.
        """
        marks = self._world.marks(user)
        if user is None:
            return max(self.now, marks.catalog + MICROSECOND, marks.everything + MICROSECOND)
        return max(self.now, marks.catalog + 2 * MICROSECOND, marks.user + 2 * MICROSECOND)


def _exact(percent: float | None) -> Decimal | None:
    return None if percent is None else Decimal(str(percent))
