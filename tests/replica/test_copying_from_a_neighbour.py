"""A node's first replica is a copy of a neighbour's, and goes on from there by the database."""

import struct
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from segmentd.replica import filling
from segmentd.replica.filling import from_neighbour
from segmentd.replica.follower import Follower
from segmentd.replica.source import Source
from segmentd.replica.status import ReplicaStatus, boot_time, status_path
from segmentd.replica.store import Store
from segmentd.storage.database import Database
from tests.support.client import Api
from tests.support.neighbours import LocalNeighbour, SharedReplica
from tests.support.workers import Worker, replicas


class Neighbour:
    """A node whose follower has ended: its replica stays at one moment, while the database goes on."""

    def __init__(self, folder: Path) -> None:
        [path] = replicas(folder)
        self.store = Store.checked(path)
        self.status = ReplicaStatus.open(status_path(folder))
        self._replica = SharedReplica(folder, lambda: self.store)
        self.asked = LocalNeighbour(Source(self._replica))

    def close(self) -> None:
        self.store.close()
        self.status.close()
        self._replica.close()


@pytest.fixture
async def neighbour(database: Database, api: Api, tmp_path: Path) -> AsyncIterator[Neighbour]:
    await api.create("A")
    for user in (1, 2, 3, 4):
        await api.add(user, "A")
    near = tmp_path / "near"
    follower = Follower(database, near)
    await follower.round()
    follower.close()
    with closing(Neighbour(near)) as neighbour:
        neighbour.status.fresh_at = boot_time()
        yield neighbour


async def test_a_copy_shows_what_the_neighbour_had_not_seen_or_not_written_yet(
    neighbour: Neighbour, database: Database, api: Api, folder: Path, worker: Worker
) -> None:
    await api.create("B", percent=100)
    await api.remove(1, "A")
    await api.add(5, "A")
    assert (await api.delete("users/2?erase=true")).status_code == 204
    # Of the third, the neighbour only knows that a change was missed; of the fourth it has another state.
    neighbour.store.forget([3])
    neighbour.store.mark([struct.pack(">q", 4)], [], boot_time())
    with closing(Follower(database, folder, copy=from_neighbour(neighbour.asked))) as follower:
        await follower.round()
        await follower.round()

        assert neighbour.asked.pages_sent == 1
        assert await worker.replicated(1, 2, 3, 4, 5) == [["B"], ["B"], ["A", "B"], ["A", "B"], ["A", "B"]]

        await api.add(1, "A")
        await follower.round()
        assert await worker.replicated(1) == [["A", "B"]]


@pytest.mark.parametrize("trouble", ["away", "format", "another database", "after a fail-over"])
async def test_without_a_copy_the_database_gives_the_first_replica(
    neighbour: Neighbour,
    database: Database,
    folder: Path,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    monkeypatch.setattr(filling, "_AFTER_BREAK_S", 0)
    if trouble == "away":
        neighbour.asked.is_away = True
    elif trouble == "format":
        monkeypatch.setattr("segmentd.replica.source.FORMAT", b"segmentd replica 0")
    elif trouble == "another database":
        monkeypatch.setattr(
            "segmentd.replica.timelines.facts_of",
            lambda _: [(b"source", b"x"), (b"snapshot", b""), (b"seen", b"0")],
        )
    else:
        neighbour.status.late_until = boot_time() + 1
    with closing(Follower(database, folder, copy=from_neighbour(neighbour.asked))) as follower:
        with pytest.raises(Exception, match=r"neighbour|database"):
            await follower.round()
        monkeypatch.undo()
        await follower.round()

        assert await worker.replicated(1, 4) == [["A"], ["A"]]
