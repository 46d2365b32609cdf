"""What happens to users, done to the service and to the model: lives, changes, lists."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from segmentd.domain.instants import rfc3339
from tests.support.client import Json
from tests.support.grpc_door import Answered
from tests.support.importing import COUNTS, Importing, counts
from tests.support.world import MICROSECOND, World, same
from tests.truth.model import Model, Override, Segment

START: Final = datetime(2030, 1, 31, 23, 59, 30, tzinfo=UTC)  # a month ends soon
TICK: Final = timedelta(microseconds=4)  # the least time that keeps the instants of two changes apart
LONG_AGO: Final = "2029-01-01T00:00:00Z"

Wishes = Mapping[str, str]
"""By slug: "out", "always", "again" (with the term that holds), or "ttl" or "until" with seconds."""


class UserChanges:
    """At an instant that is known to the microsecond."""

    def __init__(self, world: World, model: Model) -> None:
        self._world = world
        self._model = model
        self._lists = Importing(world.api, world.database)
        self._ended_lives: set[int] = set()
        self.now = START
        self.appointment: datetime | None = None  # of the next change; else it is made in a moment
        world.begin(START)

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

    def change(self, user: int, wishes: Wishes) -> None:
        with self._change_at(user) as now:
            at = self._instant_of_change(user, now)
            self._world.see("a change at the end of a term", when=at > now)
            body, wanted = self._change_of(user, wishes, at)
            status, answer = self._world.send("POST", f"users/{user}/segments", body)
            assert status == 200, answer
            same(answer, self._expected_answer(user, wanted, at))

    def change_by_grpc(self, wishes: Mapping[int, Wishes]) -> None:
        """One user by the call for one, several by the call for many."""
        with self._changes_at(wishes) as changes:
            messages = [{"user_id": user, **_message(change.body)} for user, change in changes.items()]
            one, *others = messages
            call = "Memberships/ChangeManyUsers" if others else "Memberships/ChangeUserSegments"
            answered = self._world.run(
                self._world.node.grpc.call(call, {"changes": messages} if others else one)
            )
            assert isinstance(answered, Answered), answered
            expected = self._expected_answers(changes)
            answers = answered.message["changes"] if others else [answered.message]
            same(answers, [{**expected[user], "user_id": str(user)} for user in wishes])
            self._world.see("many by gRPC" if others else "one by gRPC")

    def change_together(self, wishes: Mapping[int, Wishes], bad: str) -> None:
        """First in vain, with a segment that there may not be; then so that it succeeds."""
        last = [*wishes][-1]
        with self._changes_at(wishes) as changes:
            if bad not in {segment.slug for segment in self._model.segments}:
                body = {"add": [*changes[last].body["add"], bad], "remove": changes[last].body["remove"]}
                all_of_them = [{"user_id": user, **changes[user].body} for user in wishes if user != last]
                refused = {"changes": [*all_of_them, {"user_id": last, **body}]}
                status, answer = self._world.send("POST", "changes", refused)
                assert (status, answer["segments"]) == (404, [bad])
            request = {"changes": [{"user_id": user, **changes[user].body} for user in wishes]}
            status, answer = self._world.send("POST", "changes", request)
            assert status == 200, answer
            expected = self._expected_answers(changes)
            same(answer["changes"], [expected[user] for user in wishes])
            self._world.see("a change of many")

    def change_at_once(self, wishes: Mapping[int, Wishes], stranger: int, bad: str) -> None:
        """Requests of several users in one moment, with a stranger's among them that is refused, alone."""
        with self._changes_at(wishes) as changes:
            slug = next(iter(next(iter(wishes.values()))))
            addition: Json = bad if bad != "past" else {"slug": slug, "until": LONG_AGO}
            is_there = bad in {segment.slug for segment in self._model.segments}
            refused = [] if is_there else [(stranger, {"add": [addition]})]
            sent = [(user, change.body) for user, change in changes.items()]
            answers = self._world.send_at_once([*sent[:1], *refused, *sent[1:]])
            if refused:
                status, _ = answers.pop(1)
                assert status == (422 if bad == "past" else 404)
                self._world.see("a refusal among changes at once")
            assert [status for status, _ in answers] == [200] * len(changes), answers
            expected = self._expected_answers(changes)
            for user, (_, answer) in zip(changes, answers, strict=True):
                same(answer, expected[user])
            self._world.see("changes at once")

    def bring_list(self, wishes: Mapping[int, Wishes]) -> None:
        """The same as a list, first as a dry run."""
        with self._changes_at(wishes) as changes:
            text = _list_of(changes)
            dry = self._world.run(self._lists.bring(text, dry_run="true"))
            done = self._world.run(self._lists.bring(text))
            expected = self._expected_answers(changes).values()
            outcomes = tuple(sum(len(answer[kind]) for answer in expected) for kind in COUNTS)
            same((done["status"], counts(done)), ("done", outcomes))
            same((dry["status"], counts(dry)), ("done", outcomes))
            self._world.see("a list")
            self._world.follow()  # the job is another process: this node knows of it from its follower

    def replace_members(self, slug: str, wishes: Mapping[int, str]) -> None:
        """A list of everybody who is to be an explicit member; a percentage refuses it."""
        segment = self._segment(slug)
        query = {"segment": slug, "operation": "replace"}
        if segment.percent is not None:
            refused = self._world.run(self._lists.send(f"{next(iter(wishes))}\n", **query))
            assert refused.status_code == 409
            return
        present = max(self.appointment or self.now + TICK, self._world.marks(None).catalog)
        leaving = [
            who
            for (who, of), override in self._model.overrides.items()
            if of is segment and who not in wishes and (override.until is None or override.until > present)
        ]
        listed = {user: {slug: wish} for user, wish in wishes.items()}
        with self._changes_at(listed | {user: {slug: "out"} for user in leaving}) as changes:
            text = _list_of({user: changes[user] for user in wishes})
            done = self._world.run(self._lists.bring(text, **query))
            expected = self._expected_answers(changes).values()
            outcomes = tuple(sum(len(answer[kind]) for answer in expected) for kind in COUNTS)
            same((done["status"], counts(done)[:3]), ("done", outcomes[:3]))
            # A term that the user has seen end is still ahead of the segments, where the clock stepped back.
            assert outcomes[3] <= counts(done)[3] <= outcomes[3] + len(self._model.ended)
            self._world.see("a list that replaces")
            self._world.see("a member whom a list leaves out", when=outcomes[1] > 0)
            self._world.follow()

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

    @contextmanager
    def _changes_at(self, wishes: Mapping[int, Wishes]) -> Iterator[Mapping[int, "_Asked"]]:
        """What to ask for each user, who has an instant of their own where the clock stepped back."""
        with self._change_at(*wishes):
            ats = {user: self._instant_of_change(user, self._instant(user)) for user in wishes}
            yield {
                user: _Asked(ats[user], *self._change_of(user, wishes[user], ats[user])) for user in wishes
            }

    def _expected_answers(self, changes: Mapping[int, "_Asked"]) -> Mapping[int, Json]:
        """In the order of time: of one instant they are in no order."""
        return {
            user: self._expected_answer(user, change.wanted, change.at)
            for user, change in sorted(changes.items(), key=lambda pair: pair[1].at)
        }

    def _change_of(
        self, user: int, wishes: Wishes, at: datetime
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

    def _segment(self, slug: str) -> Segment:
        return next(segment for segment in self._model.segments if segment.slug == slug)

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


class _Asked(NamedTuple):
    """A change of a user: when it happens, as a client writes it, and what it means."""

    at: datetime
    body: dict[str, list[Json]]
    wanted: Mapping[Segment, Override]


def _list_of(changes: Mapping[int, _Asked]) -> str:
    """Changes as a list."""
    lines = [line for user, change in changes.items() for line in _lines(user, change.body)]
    return "\n".join(["user_id;segment;operation;until;ttl_seconds", *lines])


def _message(body: Mapping[str, Sequence[Json]]) -> Json:
    """A change as gRPC has it."""

    def addition(item: Json) -> Json:
        written = dict(item) if isinstance(item, dict) else {"slug": item}
        if seconds := written.pop("ttl_seconds", None):
            written["ttl"] = f"{seconds}s"
        return written

    return {"add": [addition(item) for item in body["add"]], "remove": body["remove"]}


def _lines(user: int, body: Mapping[str, Sequence[Json]]) -> Iterator[str]:
    """A change as lines of a list."""
    for item in body["add"]:
        addition = item if isinstance(item, dict) else {"slug": item}
        yield f"{user};{addition['slug']};add;{addition.get('until', '')};{addition.get('ttl_seconds', '')}"
    for slug in body["remove"]:
        yield f"{user};{slug};remove;;"
