"""All ways to ask which segments users are in; each answer is compared with the model's."""

import asyncio
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from segmentd.domain.bucketing import threshold
from segmentd.domain.instants import rfc3339
from segmentd.domain.segments import Percent, shortest
from segmentd.storage.report_rows import cut_off
from tests.support.asking_now import AskingNow
from tests.support.client import DirectApi, Json
from tests.support.doing import Doing
from tests.support.world import MICROSECOND, World, same
from tests.truth.model import Change, Model, Segment


class Then(NamedTuple):
    """What was answered at an instant, by segments instead of slugs."""

    at: dict[int, datetime]
    """The present of each user."""
    memberships: dict[int, list[tuple[Segment, Json]]]
    explanations: dict[tuple[int, Segment], Json]
    members: dict[Segment, list[int]]
    counts: dict[Segment, Json]


class Asking:
    """Asks about some users; the service does not know one of them."""

    def __init__(self, world: World, model: Model, doing: Doing, users: Iterable[int]) -> None:
        self._world = world
        self._model = model
        self._doing = doing
        self._users = [*users]
        self.now: Final = AskingNow(world, model, self._users)

    @property
    def _api(self) -> DirectApi:
        return self._world.api

    async def everything(self, presents: dict[int, datetime]) -> Then:
        """Asks in every way."""
        await self.now.look_up()
        await self.now.everything()
        answers = [await self._about(user, presents[user]) for user in self._users]
        memberships, explanations = zip(*answers, strict=True)
        by_user = dict(zip(self._users, memberships, strict=True))
        members = {segment: sorted(self._model.members(segment)) for segment in self._model.segments}
        counts = {segment: self._counts(segment) for segment in self._model.segments}
        for segment in self._model.segments:
            walked = await self._api.walk(f"segments/{segment.slug}/users", "user_ids", limit=2)
            counted = (await self._api.get(f"segments/{segment.slug}/counts")).json()
            same(walked, members[segment])
            same(counted, {"slug": segment.slug, "at": counted["at"], **counts[segment]})
            exported = await self._exported(segment.slug)
            same(exported, _exported_rows(by_user, segment, members[segment]))
            self._world.see("an export", when=bool(exported))
        return Then(
            presents,
            by_user,
            {
                (user, segment): shown
                for user, by_segment in zip(self._users, explanations, strict=True)
                for segment, shown in by_segment.items()
            },
            members,
            counts,
        )

    async def report(self) -> datetime:
        """Compares a report over all times, and returns its cut-off."""
        as_of = await cut_off(self._world.database)
        self._model.happen(as_of - MICROSECOND, "expiry")
        same(
            self._world.reported_rows(as_of),
            [
                (user, change.segment.slug, change.operation, rfc3339(change.at))
                for user in sorted(self._users)
                for change in self._changes(user)
                if change.at < as_of
            ],
        )
        return as_of

    async def look_back(self, then: Then, user: int) -> None:
        """Asks about an instant of the past: the answer of that time, with the present slugs."""
        self._world.see("a look back")
        at = rfc3339(then.at[user])
        detail = await self._api.segments(user, detail="true", at=at)
        same(
            _by_slug(detail),
            _by_slug([{**shown, "slug": segment.slug} for segment, shown in then.memberships[user]]),
        )
        for slug, segment in self._meant(then).items():
            explanation = then.explanations[user, segment]
            same(await self._api.explain(user, slug, at=at), {**explanation, "slug": slug})

    async def look_back_at_members(self, then: Then) -> None:
        """The same for segments."""
        if len({*then.at.values()}) > 1:  # the clock had stepped back, and users had presents of their own
            return
        at = rfc3339(next(iter(then.at.values())))
        for slug, segment in self._meant(then).items():
            walked = await self._api.walk(f"segments/{slug}/users", "user_ids", limit=2, at=at)
            counted = await self._api.get(f"segments/{slug}/counts", params={"at": at})
            same(walked, then.members[segment])
            same(counted.json(), {"slug": slug, "at": at, **then.counts[segment]})
            exported = await self._exported(slug, at=at)
            same(exported, _exported_rows(then.memberships, segment, then.members[segment]))
            self._world.see("members in the past", when=bool(walked))

    def _meant(self, then: Then) -> dict[str, Segment]:
        """If several segments had the slug, it means the living one, or else the one deleted last."""
        known = [each for each in [*self._doing.deleted, *self._model.segments] if each in then.members]
        return {segment.slug: segment for segment in known}

    async def _exported(self, slug: str, **query: str) -> list[Json]:
        answer = await self._api.get(f"segments/{slug}/export", params={"format": "ndjson", **query})
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]

    async def _about(
        self, user: int, now: datetime
    ) -> tuple[list[tuple[Segment, Json]], dict[Segment, Json]]:
        detail, at_now, history, *explanations = await asyncio.gather(
            self._api.segments(user, detail="true"),
            self._api.segments(user, at=rfc3339(now)),
            self._api.walk(f"users/{user}/history", "events", 5),
            *(self._api.explain(user, segment.slug) for segment in self._model.segments),
        )
        memberships = self._memberships(user)
        same(detail, [shown for _, shown in memberships])
        same(at_now, [shown["slug"] for shown in detail])
        for segment, shown in zip(self._model.segments, explanations, strict=True):
            same(shown, self._explanation(user, segment))
            self._world.see(shown["because"])

        changes = self._changes(user)
        same(
            [_shown(event) for event in history],
            [(c.segment.slug, c.operation, rfc3339(c.at), c.source, c.cause) for c in changes],
        )
        await self._check_life(user, [*zip(changes, history, strict=True)], memberships)
        return memberships, dict(zip(self._model.segments, explanations, strict=True))

    async def _check_life(
        self, user: int, history: list[tuple[Change, Json]], memberships: list[tuple[Segment, Json]]
    ) -> None:
        """A replay of the present life's history gives the present segments, and since when."""
        life = await self._api.get(f"users/{user}")
        if user not in self._model.lives:
            assert life.status_code == 404
            return
        registered_at = life.json()["registered_at"]
        same(registered_at, rfc3339(self._model.lives[user]))
        since: dict[Segment, str] = {}
        for (
            change,
            event,
        ) in history:  # a slug may be another segment's now: the model knows whose event it is
            if event["at"] >= registered_at:
                assert (event["operation"] == "add") == (change.segment not in since)
                if event["operation"] == "add":
                    since[change.segment] = event["at"]
                else:
                    del since[change.segment]
        same(since, {segment: shown["since"] for segment, shown in memberships})

    # What the model says, as clients see it

    def _memberships(self, user: int) -> list[tuple[Segment, Json]]:
        sources = (
            (segment, self._model.source(self._model.known(user), segment))
            for segment in self._model.segments
        )
        found = [
            (segment, {"slug": segment.slug, "source": source, **self._term(user, segment)})
            for segment, source in sources
            if source
        ]
        return sorted(found, key=lambda pair: pair[0].slug)

    def _counts(self, segment: Segment) -> Json:
        known = [user for user in self._users if user in self._model.lives]
        decided = [self._model.overrides.get((user, segment)) for user in known]
        return {
            "registered": len(known),
            "members": len(self._model.members(segment)),
            "explicit": sum(1 for override in decided if override and override.included),
            "excluded": sum(1 for override in decided if override and not override.included),
            "covered": sum(1 for user in known if segment.covers(user)),
        }

    def _explanation(self, user: int, segment: Segment) -> Json:
        because = self._model.because(self._model.known(user), segment)
        shown = {
            "user_id": user,
            "slug": segment.slug,
            "member": because in {"explicit", "rollout"},
            "because": because,
            **self._term(user, segment),
        }
        if segment.percent is None:
            return shown | dict.fromkeys(("percent", "bucket", "threshold", "salt"))
        return shown | {
            "percent": shortest(Percent(segment.percent)),
            "bucket": segment.buckets[user],
            "threshold": threshold(segment.percent),
            "salt": str(segment.salt),
        }

    def _term(self, user: int, segment: Segment) -> Json:
        last = self._model.last_change(self._model.known(user), segment)
        override = self._model.overrides.get((user, segment))
        return {
            "since": last and rfc3339(last.at),
            "until": override and override.until and rfc3339(override.until),
        }

    def _changes(self, user: int) -> list[Change]:
        """The changes within the user's lives."""
        own = [change for change in self._model.changes if change.who == user]
        return sorted(own, key=lambda c: (c.at, c.segment.slug, self._doing.created.index(c.segment)))


def _exported_rows(
    memberships: dict[int, list[tuple[Segment, Json]]], segment: Segment, members: list[int]
) -> list[Json]:
    """The members with what their own segments say of this one."""
    return [
        {"user_id": user} | {name: value for name, value in shown.items() if name != "slug"}
        for user in members
        for each, shown in memberships[user]
        if each is segment
    ]


def _shown(event: Json) -> tuple[str, str, str, str, str]:
    return event["segment"], event["operation"], event["at"], event["source"], event["cause"]


def _by_slug(memberships: list[Json]) -> list[Json]:
    return sorted(memberships, key=lambda shown: [shown["slug"], *map(str, shown.values())])
