"""A steady mixed load: requests that come by chance at a mean rate, whether the service keeps up or not."""

import asyncio
import random
from array import array
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Final, NamedTuple

from proof.connection import Answer, Client, Lost
from proof.writers import Doors

USERS: Final = 20_000
PLAIN: Final = [f"PLAIN_{number:02}" for number in range(30)]
ROLLED_OUT: Final = [f"PERCENT_{number:02}" for number in range(10)]

_CLIENTS: Final = 16
_ROWS: Final = 500
_SHORT_TERM_S: Final = 20


class Act(NamedTuple):
    """A kind of request: its share of a thousand, and what sends it."""

    share: int
    send: Callable[[Client, random.Random], Awaitable[Answer]]


def _user(chance: random.Random) -> str:
    return f"/api/v1/users/{chance.randint(1, USERS)}"


def _wish(chance: random.Random) -> dict[str, object]:
    added, short, removed = chance.sample(PLAIN, 3)
    return {"add": [added, {"slug": short, "ttl_seconds": _SHORT_TERM_S}], "remove": [removed]}


async def _change_many(client: Client, chance: random.Random) -> Answer:
    users = chance.sample(range(1, USERS + 1), 20)
    changes = [{"user_id": user_id, **_wish(chance)} for user_id in users]
    return await client.ask("POST", "/api/v1/changes", {"changes": changes})


async def _look_up(client: Client, chance: random.Random) -> Answer:
    users = chance.sample(range(1, USERS + 1), 50)
    return await client.ask("POST", "/api/v1/lookup", {"user_ids": users})


async def _import(client: Client, chance: random.Random) -> Answer:
    rows = "".join(f"{user_id}\n" for user_id in chance.sample(range(1, USERS + 1), _ROWS))
    path = f"/api/v1/imports?segment={chance.choice(PLAIN)}&operation={chance.choice(('add', 'remove'))}"
    return await client.ask("POST", path, content=rows.encode(), media_type="text/csv")


ACTS: Final = {
    "read": Act(900, lambda client, chance: client.ask("GET", _user(chance) + "/segments")),
    "change": Act(50, lambda client, chance: client.ask("POST", _user(chance) + "/segments", _wish(chance))),
    "changes": Act(5, _change_many),
    "lookup": Act(15, _look_up),
    "detail": Act(10, lambda client, chance: client.ask("GET", _user(chance) + "/segments?detail=true")),
    "history": Act(10, lambda client, chance: client.ask("GET", _user(chance) + "/history?limit=20")),
    "explain": Act(
        4, lambda client, chance: client.ask("GET", f"{_user(chance)}/segments/{chance.choice(PLAIN)}")
    ),
    "members": Act(
        4, lambda client, chance: client.ask("GET", f"/api/v1/segments/{chance.choice(PLAIN)}/users?limit=50")
    ),
    "percentage": Act(
        1,
        lambda client, chance: client.ask(
            "PATCH", f"/api/v1/segments/{chance.choice(ROLLED_OUT)}", {"percent": chance.randint(0, 60)}
        ),
    ),
    "import": Act(1, _import),
}


class Outcomes:
    """What became of the requests so far."""

    def __init__(self) -> None:
        self.seconds: dict[str, array[float]] = defaultdict(lambda: array("d"))
        """From the time when each was due until its answer, by kind."""
        self.wrong = Counter[str]()
        """Answers that are no success, and requests without one."""

    @property
    def count(self) -> int:
        return sum(map(len, self.seconds.values()))

    def quantile(self, kind: str, part: float) -> float:
        """In seconds; 0 if there was none."""
        ordered = sorted(self.seconds[kind])
        return ordered[int(part * (len(ordered) - 1))] if ordered else 0.0


async def prepare(doors: Doors) -> None:
    """Makes the segments and the users. Raises RuntimeError if that fails."""
    with closing(doors.client()) as client:
        for slug in PLAIN:
            await _succeed(client, "/api/v1/segments", {"slug": slug})
        for slug in ROLLED_OUT:
            await _succeed(client, "/api/v1/segments", {"slug": slug, "percent": 20})
        rows = "".join(f"{user_id}\n" for user_id in range(1, USERS + 1)).encode()
        path = f"/api/v1/imports?segment={PLAIN[0]}&operation=add"
        answer = await client.ask(
            "POST", path, content=rows, media_type="text/csv", headers="prefer: wait=60\r\n"
        )
        if answer.status >= 300 or answer.json()["status"] != "done":
            raise RuntimeError(answer.body)


async def load(doors: Doors, seconds: float, rate: float | None, seed: int, outcomes: Outcomes) -> None:
    """So many requests a second for so long; without a rate as many as these clients can."""
    async with asyncio.TaskGroup() as clients:
        for number in range(_CLIENTS):
            chance = random.Random(f"{seed} {number}")
            own = None if rate is None else rate / _CLIENTS
            clients.create_task(_ask(doors, seconds, own, chance, outcomes))


async def _ask(
    doors: Doors, seconds: float, rate: float | None, chance: random.Random, outcomes: Outcomes
) -> None:
    loop = asyncio.get_running_loop()
    kinds, shares = [*ACTS], [act.share for act in ACTS.values()]
    due = loop.time()
    end = due + seconds
    with closing(doors.client()) as client:
        while True:
            due = loop.time() if rate is None else due + chance.expovariate(rate)
            if due > end:
                return
            await asyncio.sleep(max(0.0, due - loop.time()))
            [kind] = chance.choices(kinds, shares)
            try:
                answer = await ACTS[kind].send(client, chance)
            except Lost:
                outcomes.wrong[f"{kind}: no answer"] += 1
                continue
            outcomes.seconds[kind].append(loop.time() - due)
            if answer.status >= 300:
                outcomes.wrong[f"{kind}: {answer.status}"] += 1


async def _succeed(client: Client, path: str, body: object) -> None:
    answer = await client.ask("POST", path, body)
    if answer.status >= 300:
        raise RuntimeError(answer.body)
