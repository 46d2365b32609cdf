"""Faults of the surroundings, one after the other, while a node is used."""

import asyncio
import json
import os
import resource
import shutil
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Final

import psycopg

from proof.company import Company
from proof.ledger import Told
from proof.node import HTTP, send
from proof.results import Measured
from proof.stage import Reader, Stage, Victim, all_answer, stage_in
from tests.support.clock import Clock
from tests.support.disks import small_disk

_DISK: Final = "700m"
_WHILE_S: Final = 6.0
_SLOW_CLIENTS: Final = 2000
_BEGUN: Final = b"GET /api/v1/users/1/segments HTTP/1.1\r\nX: "


async def _paused(stage: Stage) -> None:
    pids = stage.server.pids()
    send(pids, signal.SIGSTOP)
    try:
        await asyncio.sleep(_WHILE_S)
    finally:
        send(pids, signal.SIGCONT)


async def _killed(stage: Stage) -> None:
    send(stage.server.pids(), signal.SIGKILL)
    await asyncio.sleep(_WHILE_S / 2)
    await stage.restart_postgres()


async def _terminated(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    over = loop.time() + _WHILE_S
    async with await psycopg.AsyncConnection.connect(stage.server.url, autocommit=True) as connection:
        while loop.time() < over:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            await asyncio.sleep(0.3)


async def _read_only(stage: Stage) -> None:
    sign = stage.server.folder / "postgres" / "standby.signal"
    await stage.server.stop()
    sign.touch()
    await stage.restart_postgres()
    await asyncio.sleep(_WHILE_S)
    await stage.server.stop()
    sign.unlink()
    await stage.restart_postgres()


async def _slow_to_database(stage: Stage) -> None:
    stage.database.delay_s, stage.database.bytes_per_second = 0.15, 200_000
    await asyncio.sleep(_WHILE_S)
    stage.database.delay_s, stage.database.bytes_per_second = 0.0, float("inf")


async def _silent_to_database(stage: Stage) -> None:
    stage.database.hush()
    await asyncio.sleep(2 * _WHILE_S)
    stage.database.flowing.set()


async def _reset_to_database(stage: Stage) -> None:
    for _ in range(20):
        stage.database.reset()
        await asyncio.sleep(_WHILE_S / 20)


async def _slow_to_clients(stage: Stage) -> None:
    stage.door.delay_s, stage.door.bytes_per_second = 0.1, 20_000
    await asyncio.sleep(_WHILE_S)
    stage.door.delay_s, stage.door.bytes_per_second = 0.0, float("inf")


async def _reset_to_clients(stage: Stage) -> None:
    for _ in range(40):
        stage.door.reset()
        await asyncio.sleep(_WHILE_S / 40)


async def _full_disk(stage: Stage) -> None:
    """Of PostgreSQL, whose write-ahead log then has no room."""
    filler = stage.server.folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    await asyncio.sleep(_WHILE_S)
    filler.unlink()
    await asyncio.sleep(1)
    if not stage.server.is_running():
        await stage.restart_postgres()


async def _clock_steps(stage: Stage) -> None:
    with closing(Clock(stage.server.url)) as clock:
        for seconds in (3600, -1800, -3600, 5400, -3600):
            clock.advance(seconds=seconds)
            await asyncio.sleep(_WHILE_S / 5)


async def _few_descriptors(stage: Stage) -> None:
    """The HTTP workers may open only a few more files than they have open."""
    limits = {}
    for pid in stage.node.of(HTTP):
        limits[pid] = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        open_now = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - of memory, so it does not block
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_now + 3, limits[pid][1]))
    doors = stage.node.doors
    connected = await asyncio.gather(
        *(asyncio.open_connection(doors.host, doors.port) for _ in range(100)), return_exceptions=True
    )
    await asyncio.sleep(_WHILE_S / 2)
    for pid, limit in limits.items():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
    for each in connected:
        if not isinstance(each, BaseException):
            each[1].transport.abort()


async def _slow_clients(stage: Stage) -> None:
    doors = stage.node.doors
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, 3 * _SLOW_CLIENTS), most))

    async def dribble() -> None:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(doors.host, doors.port)
            answer = asyncio.create_task(reader.read())
            writer.write(_BEGUN)
            while not answer.done():
                writer.write(b"x")
                await asyncio.sleep(1)
            writer.transport.abort()
            with suppress(OSError):
                await answer

    async with asyncio.timeout(60):
        await asyncio.gather(*(dribble() for _ in range(_SLOW_CLIENTS)))


SCENARIOS: Final[dict[str, Callable[[Stage], Awaitable[None]]]] = {
    "PostgreSQL is paused": _paused,
    "PostgreSQL is killed": _killed,
    "all connections are terminated in a loop": _terminated,
    "PostgreSQL is read-only": _read_only,
    "a slow network to PostgreSQL": _slow_to_database,
    "a silent network to PostgreSQL": _silent_to_database,
    "a network to PostgreSQL that resets connections": _reset_to_database,
    "the disk of PostgreSQL is full": _full_disk,
    "the clock of PostgreSQL is set forward and back": _clock_steps,
    "a slow network to the clients": _slow_to_clients,
    "a network to the clients that resets connections": _reset_to_clients,
    "the HTTP workers have no descriptors left": _few_descriptors,
    "2,000 slow clients": _slow_clients,
}
# New connections are reset meanwhile, those of readers among them.
_NO_READS: Final = {"the HTTP workers have no descriptors left"}


RESTORED: Final = "the database is restored from a backup"


async def _restored(stage: Stage, users: Company) -> list[str]:
    """It loses what came after the backup, which nobody can help; all that is left has to agree."""
    folder = stage.server.folder
    backup = folder.with_name("backup")
    await stage.server.stop()
    await asyncio.to_thread(shutil.copytree, folder, backup, symlinks=True)
    await stage.restart_postgres()
    await all_answer(stage)
    enough = users.ledger.count(Told.ACKNOWLEDGED) + 200
    async with asyncio.timeout(60):
        while users.ledger.count(Told.ACKNOWLEDGED) < enough:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.1)
    family = stage.node.family().keys()
    logged = len(stage.node.errors)
    async with users.quiet():
        await stage.server.stop()
        await asyncio.to_thread(shutil.rmtree, folder)
        await asyncio.to_thread(backup.rename, folder)
        await stage.restart_postgres()
        await all_answer(stage)
        wrong = await users.differences_after_a_restore()
        if stage.node.family().keys() != family:
            wrong.append("a process of the node died")
        return [*wrong, *{*_errors(stage.node.errors[logged:])}]


async def scenarios(
    folder: Path, say: Callable[[str], None], only: str = "", seconds: float = 1200.0
) -> Measured:
    """Every fault, or those that have these words in their name."""
    found: list[str] = []
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(folder / "disk", _DISK))
        async with stage_in(folder, disk / "postgres-folder") as (stage, users), asyncio.timeout(seconds):
            done, reads, slowest = 0, 0, 0.0
            for name, fault in SCENARIOS.items():
                if only not in name:
                    continue
                before = Counter(each.told for each in users.ledger.asked.values())
                reader = Reader(stage)
                wrong = await _suffered(stage, users, reader, name, fault)
                found += [f"{name}: {each}" for each in wrong]
                done, reads = done + 1, reads + reader.answered
                if name not in _NO_READS:
                    slowest = max(slowest, reader.slowest_s)
                told = Counter(each.told for each in users.ledger.asked.values()) - before
                say(
                    f"{name}: {told[Told.ACKNOWLEDGED]} acknowledged, {told[Told.NOTHING]} without an answer,"
                    f" {reader.answered} hot reads,"
                    f" the slowest {reader.slowest_s:.2f} s, {len(wrong)} wrong"
                )
            if only in RESTORED:
                found += [f"{RESTORED}: {each}" for each in await _restored(stage, users)]
                done += 1
                say(f"{RESTORED}: done")
    figures = (
        f"{done} faults; {users.ledger.count(Told.ACKNOWLEDGED):,} changes acknowledged,"
        f" {users.ledger.count(Told.NOTHING):,} without an answer; {reads:,} hot reads, the slowest"
        f" {slowest:.1f} s"
    )
    return Measured(figures, found)


async def _suffered(
    stage: Stage, users: Company, reader: Reader, name: str, fault: Callable[[Stage], Awaitable[None]]
) -> list[str]:
    """What contradicted the promises during a fault and after it."""
    victim = Victim(stage, f"victim-{len(users.ledger.asked)}")
    await victim.begin()
    family = stage.node.family().keys()
    logged = len(stage.node.errors)
    reading = asyncio.create_task(reader.read())
    revoking = asyncio.create_task(victim.be_revoked())
    try:
        await fault(stage)
        await all_answer(stage)
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
    await revoking
    wrong = await victim.wrong()
    wrong += await users.differences()
    if name not in _NO_READS:
        wrong += reader.wrong
    if stage.node.family().keys() != family:
        wrong.append("a process of the node died")
    wrong += [*{*_errors(stage.node.errors[logged:])}]
    reader.close()
    return wrong


def _errors(log: str) -> list[str]:
    """Failures of requests in the log; of the queue's library there are others, which it tries again."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [
        f"logged: {line['event']}: {line['exception'].strip().splitlines()[-1]}"
        for line in lines
        if line["level"] == "error" and "exception" in line and line["logger"].startswith("segmentd")
    ]
