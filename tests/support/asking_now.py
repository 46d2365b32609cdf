"""The ways to ask what holds now: lookups and reads by HTTP and gRPC, and flags by OFREP.

Each is answered from the replica of the node, and some also from the database, as on a node without one.
"""

from collections.abc import Sequence
from typing import Final

from tests.support.client import DirectApi, Json
from tests.support.grpc_door import Answered
from tests.support.world import World, same
from tests.truth.model import Model, Segment

FLAGS: Final = "/ofrep/v1/evaluate/flags"


class AskingNow:
    """Asks about users; each answer is compared with the model's."""

    def __init__(self, world: World, model: Model, users: Sequence[int]) -> None:
        self._world = world
        self._model = model
        self._users = users
        self._turns = 0

    async def look_up(self) -> None:
        """The cheapest question: the segments of all users."""
        expected = [{"user_id": user, "segments": self._slugs(user)} for user in self._users]
        for api in (self._world.api, self._world.alone):
            answer = await api.post("lookup", json={"user_ids": [*self._users]})
            same(answer.json()["users"], expected)

    async def everything(self) -> None:
        """The replica in every way about every user; the database in turn about one of them."""
        self._turns += 1
        await self._by_grpc()
        self._world.node.beside.asked = 0
        for place, user in enumerate(self._users):
            for api in (self._world.api, self._world.alone):
                if api is self._world.api or place == self._turns % len(self._users):
                    await self._by_http(api, user)
        # The hot path answers everything itself, from the replica.
        assert self._world.node.beside.asked == 0

    async def _by_http(self, api: DirectApi, user: int) -> None:
        same(await api.segments(user), self._slugs(user))
        flags = [self._flag(user, segment) for segment in self._sorted()]
        body = {"context": {"targetingKey": str(user)}}
        same((await api.post(FLAGS, json=body)).json()["flags"], flags)
        for flag in flags:
            same((await api.post(f"{FLAGS}/{flag['key']}", json=body)).json(), flag)
            self._world.see(f"a flag: {flag['reason']} {flag['variant']}")

    async def _by_grpc(self) -> None:
        expected = [{"user_id": str(user), "segments": self._slugs(user)} for user in self._users]
        looked_up = await self._world.node.grpc.call("Memberships/LookUp", {"user_ids": [*self._users]})
        assert isinstance(looked_up, Answered), looked_up
        same([_without_age(user) for user in looked_up.message["users"]], expected)
        for user, shown in zip(self._users, expected, strict=True):
            found = await self._world.node.grpc.call("Memberships/ListUserSegments", {"user_id": user})
            assert isinstance(found, Answered), found
            same(_without_age(found.message), shown)

    # What the model says

    def _sorted(self) -> list[Segment]:
        return sorted(self._model.segments, key=lambda segment: segment.slug)

    def _slugs(self, user: int) -> list[str]:
        who = self._model.known(user)
        return [segment.slug for segment in self._sorted() if self._model.source(who, segment)]

    def _flag(self, user: int, segment: Segment) -> Json:
        who = self._model.known(user)
        if (who, segment) in self._model.overrides:
            reason, source = "TARGETING_MATCH", "explicit"
        elif segment.percent is not None:
            reason, source = "SPLIT", "rollout"
        else:
            reason, source = "STATIC", "none"
        value = self._model.source(who, segment) is not None
        return {
            "key": segment.slug,
            "value": value,
            "reason": reason,
            "variant": "on" if value else "off",
            "metadata": {"source": source},
        }


def _without_age(message: Json) -> Json:
    return {name: value for name, value in message.items() if name != "age"}
