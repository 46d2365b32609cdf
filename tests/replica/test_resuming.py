"""A follower resumes the replica of an earlier run or rebuilds it, and is never misled by what it finds."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import lmdb
import pytest
from msgspec import structs

from segmentd.domain.errors import Unavailable
from segmentd.replica.catalog import CatalogState
from segmentd.replica.environment import FORMAT
from segmentd.replica.files import Unusable
from segmentd.replica.follower import Follower
from segmentd.replica.status import ReplicaStatus
from segmentd.replica.store import Store
from segmentd.storage.database import Database
from segmentd.storage.replication import (
    ERASURES_KEPT,
    ChangedUsers,
    OwnWrite,
    Position,
    Reading,
    ReplicatedSegment,
)
from segmentd.storage.snapshots import Window
from tests.support.client import Api
from tests.support.clock import Clock
from tests.support.postgres import new_database
from tests.support.rows import Rows
from tests.support.workers import Worker, replicas

Damage = Callable[[Path], None]
States = Iterable[tuple[int, bytes]]
Facts = Iterable[tuple[bytes, bytes]]


@contextmanager
def opened(path: Path) -> Iterator[Store]:
    with closing(Store(path)) as store:
        yield store


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def note_of(path: Path) -> Path:
    return Path(f"{path}-boot")


async def build_replica(database: Database, folder: Path) -> Path:
    """The file of a new replica, properly closed."""
    with closing(Follower(database, folder)) as follower:
        await follower.round()
    [path] = replicas(folder)
    return path


def other_format(path: Path) -> None:
    with opened(path) as store:
        store.put([], [(b"format", b"segmentd replica 0")])


def never_finished(path: Path) -> None:
    path.unlink()
    with opened(path) as store:
        store.put_catalog(CatalogState(1, []))


def no_replica_at_all(path: Path) -> None:
    path.unlink()
    with opened(path):
        pass


def of_another_database(path: Path) -> None:
    with opened(path) as store:
        store.put([], [(b"source", b"1 2 3")])


def set_back(path: Path) -> None:
    with opened(path) as store:
        store.put([], [(b"snapshot", b"9000000000:9000000000:")])


def of_another_boot(path: Path) -> None:
    note_of(path).write_bytes(b"6ba7b810-9dad-11d1-80b4-00c04fd430c8")


def without_a_note(path: Path) -> None:
    note_of(path).unlink()


def where_no_boot_is_known(path: Path) -> None:
    note_of(path).write_bytes(b"unknown")


def empty_file(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 1000)


def one_page(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4096])


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4096])


def torn_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def head_of_zeros(path: Path) -> None:
    path.write_bytes(bytes(8192) + path.read_bytes()[8192:])


@pytest.mark.parametrize(
    "damage",
    [
        other_format,
        never_finished,
        no_replica_at_all,
        of_another_database,
        set_back,
        of_another_boot,
        without_a_note,
        where_no_boot_is_known,
        empty_file,
        garbage,
        one_page,
        torn,
        torn_in_half,
        head_of_zeros,
    ],
)
async def test_a_replica_that_cannot_be_trusted_is_rebuilt(
    api: Api, database: Database, folder: Path, worker: Worker, damage: Damage
) -> None:
    await api.create("A")
    await api.add(1, "A")
    path = await build_replica(database, folder)
    assert await worker.replicated(1) == [["A"]]  # and has that file open from now on
    damage(path)
    await api.add(2, "A")

    with closing(Follower(database, folder)) as follower:
        await follower.round()

        assert await worker.replicated(1, 2, 3) == [["A"], ["A"], []]
        assert replicas(folder) != [path]
        await api.add(3, "A")
        await follower.round()
        assert await worker.replicated(3) == [["A"]]


CHECK = """
import sys
from pathlib import Path
from segmentd.replica.files import Unusable
from segmentd.replica.store import Store
try:
    Store.checked(Path(sys.argv[1])).close()
except Unusable as error:
    print("unusable:", error)
"""


@pytest.mark.parametrize("kept_share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_torn_file_kills_nobody_who_looks_at_it(tmp_path: Path, kept_share: float) -> None:
    path = tmp_path / "replica-1.lmdb"
    with opened(path) as store:
        store.put_catalog(CatalogState(1, [ReplicatedSegment(n, f"S{n}", 0, None) for n in range(1000)]))
        store.put([(user_id, state(1, *range(100))) for user_id in range(1, 200)], [(b"format", FORMAT)])
        store.sync()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept_share)])

    assert look_at(path).startswith("unusable: ")


def look_at(path: Path) -> str:
    """What the check says, in a process of its own, for a bad file may kill it."""
    checked = subprocess.run(
        [sys.executable, "-c", CHECK, str(path)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked
    return checked.stdout


async def test_what_a_crash_of_the_machine_left_is_not_even_opened(database: Database, folder: Path) -> None:
    path = await build_replica(database, folder)
    whole = bytearray(path.read_bytes())
    for begin in range(8192, len(whole), 4096):  # the heads are whole and all pages are not
        whole[begin : begin + 4096] = bytes(4096)
    path.write_bytes(whole)
    of_another_boot(path)

    assert look_at(path).startswith("unusable: the machine went down")


async def test_the_note_vouches_for_a_replica_only_while_everything_in_it_is_synced(
    database: Database, folder: Path
) -> None:
    path = await build_replica(database, folder)
    assert note_of(path).read_bytes() == b"synced"

    with closing(Follower(database, folder)) as follower:
        await follower.round()

        assert note_of(path).read_bytes() != b"synced"
    assert note_of(path).read_bytes() == b"synced"


async def test_a_replica_of_another_database_is_not_used(
    api: Api, database: Database, folder: Path, worker: Worker, postgres_url: str, template_database: str
) -> None:
    await api.create("A")
    await api.add(1, "A")
    with new_database(postgres_url, template_database) as other_url:
        async with Database(other_url) as other:
            first = await build_replica(other, folder)

    with closing(Follower(database, folder)) as follower:
        await follower.round()

    assert not first.exists()
    assert await worker.replicated(1) == [["A"]]


async def test_a_replica_that_was_away_for_longer_than_erasures_are_kept_is_rebuilt(
    api: Api, clock: Clock, database: Database, folder: Path, worker: Worker, rows: Rows
) -> None:
    await api.create("A")
    await api.add(1, "A")
    path = await build_replica(database, folder)
    await api.delete("users/1?erase=true")
    rows.run("DELETE FROM erasures")
    clock.advance(seconds=ERASURES_KEPT.total_seconds())

    with closing(Follower(database, folder)) as follower:
        await follower.round()

    assert not path.exists()
    assert await worker.replicated(1) == [[]]


@pytest.mark.parametrize("changed", ["another database", "a restored backup"])
async def test_after_an_exchange_of_the_database_the_replica_is_rebuilt(
    api: Api,
    follower: Follower,
    folder: Path,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    changed: str,
) -> None:
    await api.create("A")
    await api.add(1, "A")
    await follower.round()
    assert await worker.replicated(1) == [["A"]]
    [first] = replicas(folder)
    position = Reading.position

    async def elsewhere(reading: Reading) -> Position:
        true = await position(reading)
        if changed == "another database":
            return structs.replace(true, source="elsewhere")
        return structs.replace(true, snapshot="3:3:")

    monkeypatch.setattr(Reading, "position", elsewhere)
    await api.add(2, "A")

    await follower.round()

    assert not first.exists()
    assert await worker.replicated(1, 2) == [["A"], ["A"]]


async def test_a_discarded_replica_is_not_read_while_there_is_no_other(
    api: Api, follower: Follower, worker: Worker, status: ReplicaStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.create("A")
    await follower.round()

    async def elsewhere(_: Reading) -> Position:
        return Position("3:3:", "elsewhere", 1, 0, 0)

    async def away(_: Reading) -> int:
        raise Unavailable

    monkeypatch.setattr(Reading, "position", elsewhere)
    monkeypatch.setattr(Reading, "approximate_users", away)
    with pytest.raises(Unavailable):
        await follower.round()

    assert await worker.age() is None
    assert (status.serving, status.filling) == (0, 0)
    await worker.change(1, ["A"])
    assert await worker.get(1) == ["A"]


async def test_a_process_never_takes_a_new_replica_for_a_discarded_one(
    api: Api, follower: Follower, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.create("A")
    await api.add(1, "A")
    await follower.round()
    asked = 0
    changed_users = Reading.changed_users

    async def interrupted(reading: Reading, window: Window) -> AsyncGenerator[ChangedUsers]:
        nonlocal asked
        asked += 1
        if asked == 2:  # the replica is made and catches up
            await worker.change(2, ["A"])  # which has it open from now on
            raise Unavailable
        async for changed in changed_users(reading, window):
            yield changed

    with monkeypatch.context() as patch:
        patch.setattr(Reading, "changed_users", interrupted)
        patch.setattr("segmentd.replica.moments.FEW_USERS", 0)
        patch.setattr("segmentd.replica.follower.SMALLEST_REBUILD", 0)
        patch.setattr("segmentd.replica.follower.REBUILD_SHARE", 0)
        await api.add(3, "A")
        with pytest.raises(Unavailable):
            await follower.round()
        await follower.round()

    await api.add(4, "A")
    await follower.round()
    assert await worker.replicated(1, 2, 3, 4) == [["A"]] * 4


async def test_own_writes_go_into_a_replica_as_soon_as_it_is_resumed(
    api: Api, database: Database, folder: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.create("A")
    await build_replica(database, folder)
    changed_users = Reading.changed_users

    async def slow(reading: Reading, window: Window) -> AsyncGenerator[ChangedUsers]:
        await worker.change(1, ["A"])  # too late for this round's snapshot
        async for changed in changed_users(reading, window):
            yield changed

    monkeypatch.setattr(Reading, "changed_users", slow)
    with closing(Follower(database, folder)) as follower:
        await follower.round()

        assert await worker.get(1) == ["A"]


async def test_leftovers_of_killed_followers_are_cleared_away(
    api: Api, database: Database, folder: Path, worker: Worker
) -> None:
    path = await build_replica(database, folder)
    shutil.copy(path, folder / "replica-77.lmdb")
    (folder / "replica-78.lmdb").write_bytes(b"begun")
    (folder / "replica-78.lmdb-lock").write_bytes(b"begun")
    await api.create("A")

    with closing(Follower(database, folder)) as follower:
        await follower.round()

    assert replicas(folder) == [path]
    of_the_replica = {path.name, f"{path.name}-lock", f"{path.name}-boot"}
    assert names(folder) - of_the_replica == {"status", "tokens", "tokens-seen"}
    assert await worker.replicated(1) == [[]]


async def test_a_replica_that_fails_in_a_round_is_rebuilt(
    api: Api, follower: Follower, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.create("A")
    await follower.round()
    await api.add(1, "A")
    failed = asyncio.Event()
    put = Store.put

    def failing(store: Store, states: States, facts: Facts = (), catalog: CatalogState | None = None) -> None:
        if not failed.is_set():
            failed.set()
            raise lmdb.CorruptedError("what a bad disk leaves")
        put(store, states, facts, catalog)

    monkeypatch.setattr(Store, "put", failing)

    await follower.round()

    assert await worker.replicated(1) == [["A"]]


def test_a_process_that_comes_late_finds_a_removed_replica_gone_and_not_empty(tmp_path: Path) -> None:
    with opened(tmp_path / "replica-1.lmdb") as store:
        store.delete()

    with pytest.raises(Unusable, match="gone"):
        Store.existing(tmp_path / "replica-1.lmdb")
    assert [*tmp_path.iterdir()] == []


def test_a_replica_that_vanishes_while_a_process_opens_it_is_gone_and_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def there(_: Path) -> bool:
        return True

    monkeypatch.setattr(Path, "exists", there)

    with pytest.raises(Unusable, match="gone"):
        Store.existing(tmp_path / "replica-1.lmdb")
    assert [*tmp_path.iterdir()] == []


def state(version: int, *segments: int) -> bytes:
    head = (version << 20 | len(segments)).to_bytes(8, "big")
    return head + b"".join(segment.to_bytes(4, "big") for segment in segments)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "replica-1.lmdb") as store:
        yield store


def test_a_state_is_never_replaced_by_an_older_one(store: Store) -> None:
    store.put_catalog(
        CatalogState(1, [ReplicatedSegment(1, "A", 0, None), ReplicatedSegment(2, "B", 0, None)])
    )
    store.put([(5, state(7, 1))])

    store.put([(5, state(6, 2)), (6, state(6, 2))])

    assert [store.segments(user_id, 0) for user_id in (5, 6)] == [b'"A"', b'"B"']
    store.put([(5, state(7, 2))])
    assert store.segments(5, 0) == b'"B"'
    store.put([(5, state(8))])
    assert store.segments(5, 0) == b""
    assert store.users() == 2


def test_a_catalog_is_never_replaced_by_an_older_one(store: Store) -> None:
    store.put([(5, state(7, 1))])
    for version, slug in ((5, "A"), (4, "OLD"), (5, "SAME"), (-1, "OLDER")):
        store.put_catalog(CatalogState(version, [ReplicatedSegment(1, slug, 0, None)]))

    assert store.segments(5, 0) in (b'"A"', b'"SAME"')
    store.put_catalog(CatalogState(6, []))
    assert store.segments(5, 0) == b""


def test_facts_and_states_are_written_all_or_nothing(store: Store) -> None:
    def failing() -> Iterator[tuple[int, bytes]]:
        yield 5, state(1, 1)
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - our own
        store.put(failing(), [(b"snapshot", b"1:1:")])

    assert store.users() == 0
    assert store.fact(b"snapshot") is None


def test_an_own_write_with_a_segment_that_the_replica_does_not_know_is_not_called_shown(store: Store) -> None:
    store.put_catalog(CatalogState(1, [ReplicatedSegment(1, "A", 0, None)]))
    store.put([], [(b"snapshot", b"8:8:")])
    store.put_own([(5, OwnWrite(state(1, 1), xid=8, catalog_version=1))])

    with pytest.raises(Unusable, match="segments"):
        store.put_own([(5, OwnWrite(state(2, 1, 2), xid=9, catalog_version=2))])
    assert store.segments(5, 0) == b'"A"'
