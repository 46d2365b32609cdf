"""Writers whose transactions overlap, each on a connection of its own."""

import asyncio
import random
from typing import Final

import psycopg

SLUGS: Final = ("A", "B", "C", "D")


async def write(url: str, chance: random.Random, rounds: int) -> None:
    """Transactions: short and long ones, some with a number long before their changes, some undone."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        for _ in range(rounds):
            kind = chance.random()
            if kind < 0.4:
                await connection.execute("SELECT pg_current_xact_id()")
                await asyncio.sleep(chance.random() * 0.03)
            user_ids = sorted(chance.sample(range(1, 9), chance.randint(1, 3)))
            slugs = [chance.choice(SLUGS) for _ in user_ids]
            adds = [chance.random() < 0.5 for _ in user_ids]
            places = [*range(1, len(user_ids) + 1)]
            nothing = [None] * len(user_ids)
            await connection.execute(
                "SELECT change_memberships(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::integer[],"
                " %s::text[], %s::boolean[], %s::timestamptz[], %s::bigint[], true)",
                [user_ids, ["w"] * len(places), nothing, nothing, places, slugs, adds, nothing, nothing],
            )
            if chance.random() < 0.2:
                await asyncio.sleep(chance.random() * 0.03)
            await (connection.rollback() if kind > 0.85 else connection.commit())
