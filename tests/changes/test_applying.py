"""The answer to a change says what the user is in now, whoever computes it: the node or the database."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from random import Random

from segmentd.changes.applying import Applying
from segmentd.config import Settings
from segmentd.domain.access import Actor
from segmentd.domain.identifiers import Slug, UserId
from segmentd.domain.instants import microseconds
from segmentd.domain.memberships import Addition, Change, Changed, TtlSeconds
from segmentd.observability.metrics import Metrics
from segmentd.replica.catalog import Catalog, CatalogState
from segmentd.replica.follower import Follower
from segmentd.serve.wiring import open_node
from segmentd.storage import replication
from segmentd.storage.changes import Applied, Wanted, change_each
from segmentd.storage.database import Database
from segmentd.storage.memberships import segments_of
from tests.support.client import Api

ME = Actor("me")
PERCENTS = (None, None, None, 0, 0.01, 30, 50, 100)
USERS = [*range(1, 30), 2**40, 2**63 - 1]


async def catalog_of(database: Database) -> Catalog:
    """The segments as a replica gets them."""
    async with replication.reading(database) as reading:
        return Catalog(CatalogState(await reading.catalog_version(), await reading.segments()))


def wanted(chance: Random, slugs: Sequence[str]) -> list[Wanted]:
    """Changes of some users, of all kinds."""
    changes = []
    for user_id in chance.sample(USERS, chance.randint(1, 20)):
        chosen = chance.sample(slugs, chance.randint(1, 4))
        border = chance.randint(0, len(chosen))
        additions = [
            Addition(
                Slug(slug), ttl_seconds=TtlSeconds(chance.randint(1, 900)) if chance.random() < 0.4 else None
            )
            for slug in chosen[:border]
        ]
        changes.append(Wanted(UserId(user_id), Change(additions, [*map(Slug, chosen[border:])]), ME))
    return changes


async def test_a_node_computes_from_the_state_what_the_database_answers(api: Api, database: Database) -> None:
    chance = Random(13)
    slugs = [f"{chance.choice('sSzZ')}{number}" for number in range(14)]
    for slug in slugs:
        await api.create(slug, percent=chance.choice(PERCENTS))
    compared, sizes = 0, set()
    for step in range(40):
        if step % 4 == 0:
            await api.change_segment(chance.choice(slugs), percent=chance.choice(PERCENTS))
        if step % 10 == 0:
            slug = slugs.pop(chance.randrange(len(slugs)))
            await (
                api.delete(f"segments/{slug}") if step % 20 else api.change_segment(slug, slug=f"{slug}.new")
            )
        catalog = await catalog_of(database)
        changes = wanted(chance, slugs)

        for applied in await change_each(database, changes):
            assert isinstance(applied, Applied)
            names = catalog.names(applied.user_id, applied.write.state, microseconds(applied.at))
            assert names == applied.segments
            sizes.add(len(names))
            compared += 1

        [known, *_] = await change_each(database, changes, catalog.version)
        assert isinstance(known, Applied)
        assert known.segments is None
    assert compared > 200
    assert len(sizes) > 8


async def test_the_answer_is_the_same_whether_the_node_knows_the_present_segments_or_not(
    api: Api, database: Database, tmp_path: Path
) -> None:
    folder = tmp_path / "node"
    folder.mkdir()
    await api.create("HALF", percent=50)
    await api.create("PLAIN")
    users = [UserId(number) for number in range(1, 41)]
    add_plain = [Wanted(user_id, Change([Addition(Slug("PLAIN"))], []), ME) for user_id in users]

    async def answered(applying: Applying) -> Sequence[Sequence[str]]:
        changed = await applying.each(add_plain)
        stored = await segments_of(database, users)
        segments = [one.segments for one in changed if isinstance(one, Changed)]
        assert segments == [user.segments for user in stored]
        return segments

    with closing(Follower(database, folder)) as follower:
        await follower.round()
        async with open_node(database, Settings(data_dir=str(tmp_path)), folder) as node:
            applying = Applying(database, node, Metrics())
            by_node = await answered(applying)
            assert by_node == await answered(Applying(database, None, Metrics()))
            assert ["HALF", "PLAIN"] in by_node

            await api.create("ALL", percent=100)  # the node has not followed yet
            assert all("ALL" in segments for segments in await answered(applying))
            await follower.round()
            assert all("ALL" in segments for segments in await answered(applying))
            assert await applying.together(add_plain[:1]) == (await applying.each(add_plain))[:1]
