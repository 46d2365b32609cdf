"""A replica outlives its follower: while the database is away, the next follower leaves it as it is."""

import os
from contextlib import closing
from pathlib import Path

import lmdb
import pytest

from segmentd.domain.errors import Unavailable
from segmentd.replica.files import Unusable
from segmentd.replica.follower import Follower
from segmentd.replica.status import ReplicaStatus, boot_time, status_path
from segmentd.replica.store import Store
from segmentd.storage.database import Database
from segmentd.storage.replication import Position, Reading
from tests.support.client import Api
from tests.support.workers import Worker, replicas, tells_its_age


async def away(_: Reading) -> Position:
    raise Unavailable


def double(path: Path, other: Path) -> None:
    """The same replica under another number, which was written later."""
    other.write_bytes(path.read_bytes())
    Path(f"{other}-boot").write_bytes(Path(f"{path}-boot").read_bytes())
    os.utime(path, (0, 0))


def rename(path: Path, other: Path) -> None:
    """Gives a replica another number."""
    path.rename(other)
    Path(f"{path}-boot").rename(f"{other}-boot")


@pytest.fixture
async def left(api: Api, database: Database, folder: Path, worker: Worker, status: ReplicaStatus) -> Path:
    """The file of a serving replica, whose follower has ended."""
    await api.create("A")
    await api.add(1, "A")
    with closing(Follower(database, folder)) as follower:
        await follower.round()
    assert await tells_its_age(worker, status)
    [path] = replicas(folder)
    return path


async def test_a_follower_that_starts_while_the_database_is_away_leaves_the_replica_and_its_age(
    left: Path,
    database: Database,
    folder: Path,
    worker: Worker,
    status: ReplicaStatus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = (status.fresh_at, status.serving, status.clock_offset)
    monkeypatch.setattr(Reading, "position", away)

    for _ in range(2):
        with closing(Follower(database, folder)) as follower:
            with pytest.raises(Unavailable):
                await follower.round()
            assert (status.fresh_at, status.serving, status.clock_offset) == shown
            assert await worker.get(1) == ["A"]

    assert replicas(folder) == [left]


async def test_the_replica_is_resumed_when_the_database_is_back(
    left: Path, api: Api, database: Database, folder: Path, worker: Worker, status: ReplicaStatus
) -> None:
    fresh_at = status.fresh_at
    await api.add(2, "A")

    with closing(Follower(database, folder)) as follower:
        await follower.round()

    assert replicas(folder) == [left]
    assert status.fresh_at > fresh_at
    assert await worker.replicated(1, 2) == [["A"], ["A"]]


async def test_a_write_that_the_replica_does_not_show_is_not_forgotten_with_the_follower(
    left: Path,
    database: Database,
    folder: Path,
    worker: Worker,
    status: ReplicaStatus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del left
    status.spoilt_at = boot_time()

    with monkeypatch.context() as patch, closing(Follower(database, folder)) as follower:
        patch.setattr(Reading, "position", away)
        with pytest.raises(Unavailable):
            await follower.round()
        assert await worker.age() is None

    with closing(Follower(database, folder)) as follower:
        await follower.round()
        assert await worker.age() is not None


async def test_what_stands_there_from_before_the_machine_s_start_counts_for_nothing(
    left: Path,
    database: Database,
    folder: Path,
    worker: Worker,
    status: ReplicaStatus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del left
    for boot in (b"another boot", None):
        status.serving, status.fresh_at = 1, boot_time()
        with monkeypatch.context() as patch:
            patch.setattr("segmentd.shared_memory.boot_id", lambda boot=boot: boot)
            Follower(database, folder).close()

        assert await worker.age() is None
        assert (status.serving, status.spoilt_at) == (0, 0)


async def test_the_serving_replica_is_resumed_and_not_the_one_that_was_being_built(
    left: Path, api: Api, database: Database, folder: Path, worker: Worker, status: ReplicaStatus
) -> None:
    serving = status.serving
    other = folder / f"replica-{serving + 1}.lmdb"
    double(left, other)
    await api.add(2, "A")

    with closing(Follower(database, folder)) as follower:
        await follower.round()

    assert status.serving == serving
    assert replicas(folder) == [left]
    assert await worker.replicated(2) == [["A"]]


async def test_a_replica_that_did_not_serve_does_not_get_the_age_of_the_one_that_did(
    left: Path,
    database: Database,
    folder: Path,
    worker: Worker,
    status: ReplicaStatus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = folder / "replica-70.lmdb"
    rename(left, other)

    async def away_then(_: Reading) -> int:
        raise Unavailable

    monkeypatch.setattr(Reading, "clock", away_then)
    with closing(Follower(database, folder)) as follower:
        with pytest.raises(Unavailable):
            await follower.round()

        assert status.serving == 70
        assert await worker.age() is None


def no_room(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("fails", ["environment.mapped", "files._write_note"])
async def test_a_disk_without_room_is_no_reason_to_remove_a_replica(
    left: Path,
    database: Database,
    folder: Path,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
) -> None:
    with closing(Follower(database, folder)) as follower:
        with monkeypatch.context() as patch:
            patch.setattr(f"segmentd.replica.{fails}", no_room)
            with pytest.raises(OSError, match="No space"):
                await follower.round()
        assert replicas(folder) == [left]
        assert await worker.get(1) == ["A"]

        await follower.round()
        assert replicas(folder) == [left]


async def test_a_process_that_can_no_longer_write_opens_the_replica_again(
    left: Path, api: Api, database: Database, folder: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panics(*_: object) -> None:
        raise lmdb.PanicError("MDB_PANIC")

    await api.add(2, "A")
    with closing(Follower(database, folder)) as follower:
        with monkeypatch.context() as patch:
            patch.setattr(Store, "put", panics)
            with pytest.raises(lmdb.PanicError):
                await follower.round()
        assert await worker.age() is not None

        await follower.round()
        assert replicas(folder) == [left]
        assert await worker.replicated(2) == [["A"]]


def test_a_status_without_room_on_the_disk_shows_no_replica_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("segmentd.shared_memory.allocate", no_room)
        status = ReplicaStatus.open(status_path(tmp_path))
        status.share()
    with closing(status), closing(ReplicaStatus.open(status_path(tmp_path))) as other:
        other.serving, other.fresh_at = 7, boot_time()
        assert (status.serving, status.age()) == (0, None)

        status.share()

        assert status.serving == 7
        assert status.age() is not None


def test_nothing_that_is_shared_has_a_hole(tmp_path: Path) -> None:
    ReplicaStatus.open(tmp_path / "status").close()
    with closing(Store(tmp_path / "replica-1.lmdb")):
        for name in ("status", "replica-1.lmdb-lock"):
            found = (tmp_path / name).stat()
            assert found.st_blocks * 512 >= found.st_size > 0, name
    with pytest.raises(Unusable):
        Store.checked(tmp_path / "replica-2.lmdb")
