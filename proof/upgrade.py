"""An upgrade under load: a node of the next release joins, and then the old one leaves.

Nothing is released yet, so there is no older schema to come from. The next release is made up: this one with
a higher version, a file of tables with a new table, column and index, and changed functions.
"""

import asyncio
import os
import random
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import psycopg

import segmentd
from bench.nodes import node as other_release
from proof.checking import violations
from proof.node import Node, own_port, running_node
from proof.recording import SLUGS, Recorder, Recording, feed_of
from proof.results import Measured
from proof.writers import Doors

_CLIENTS: Final = 16
_OPERATIONS_PER_USER: Final = 400
_NEXT: Final = "999.0.0"
_TABLES: Final = """
CREATE TABLE next_release (id bigint PRIMARY KEY);
ALTER TABLE users ADD COLUMN next_release text;
CREATE INDEX users_of_next_release ON users (next_release) WHERE next_release IS NOT NULL;
"""
_VERSIONS: Final = """
    SELECT version, (SELECT max(number) FROM schema_migrations) FROM schema_functions
"""


class Plan(NamedTuple):
    """How much is done."""

    operations: int = 20_000
    seed: int = 1
    seconds: float = 600.0
    """After so long, it fails."""


async def upgrade(plan: Plan, url: str, folder: Path, say: Callable[[str], None]) -> Measured:
    """A quarter of the operations before the upgrade, half on both nodes, a quarter after."""
    recording = Recording()
    (folder / "old").mkdir()
    async with (
        asyncio.timeout(plan.seconds),
        running_node(folder / "old", {"SEGMENTD_DATABASE_URL": url}, SLUGS) as old,
        _recorders(plan, old.doors, recording) as recorders,
    ):
        await _done(recording, plan.operations // 4)
        before = recording.operations
        async with _next_release(folder, url) as (doors, versions):
            say(f"{recording.operations - before} operations while the next release migrated and started")
            for recorder in recorders:
                recorder.join("new", doors)
            await _done(recording, plan.operations // 2)
            code = await _leave(old, recorders)
            say(f"the old node has left at {recording.operations} operations")
            await _done(recording, plan.operations // 4)
            for recorder in recorders:
                recorder.nodes.clear()
            feed = await feed_of(doors.client())
    found = [*recording.wrong, *violations(recording.history({"a follower": feed}))]
    if versions != (_NEXT, 2):
        found.append(f"the database is of {versions}")
    if code:
        found.append(f"the old node ended with exit code {code}")
    if recording.failed_reads:
        found.append(f"{recording.failed_reads} reads failed")
    unanswered = sum(write.after is None for write in recording.writes)
    figures = (
        f"from this release to a made-up next one (nothing is released yet): {recording.operations:,}"
        f" operations of {_CLIENTS} clients, {recording.failed_reads} failed reads; {len(recording.writes):,}"
        f" writes to users, {unanswered} of them 503"
    )
    return Measured(figures, found)


@asynccontextmanager
async def _recorders(plan: Plan, doors: Doors, recording: Recording) -> AsyncIterator[list[Recorder]]:
    users = max(8, plan.operations // _OPERATIONS_PER_USER)
    recorders = [
        Recorder(f"c{number}", {"old": doors}, users, recording, random.Random(plan.seed * 1000 + number))
        for number in range(_CLIENTS)
    ]
    working = [asyncio.create_task(each.work(partial(_is_alone, each))) for each in recorders]
    try:
        yield recorders
        await asyncio.gather(*working)
    finally:
        for task in working:
            task.cancel()
        for each in recorders:
            await each.close()


def _is_alone(recorder: Recorder) -> bool:
    return not recorder.nodes


async def _done(recording: Recording, operations: int) -> None:
    """Waits until there are so many more."""
    enough = recording.operations + operations
    while recording.operations < enough:  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.02)


@asynccontextmanager
async def _next_release(folder: Path, url: str) -> AsyncIterator[tuple[Doors, tuple[str, int]]]:
    """A node of the next release, and what the database then says of itself."""
    source = folder / "next"
    await asyncio.to_thread(_make_next_release, source)
    grpc_port = own_port()
    with ExitStack() as stack:

        def start() -> str:
            os.environ["PYTHONPATH"] = str(source)
            try:
                flags = ("--grpc-port", str(grpc_port))
                return stack.enter_context(
                    other_release(folder / "new", database_url=url, workers=2, flags=flags)
                ).url
            finally:
                del os.environ["PYTHONPATH"]

        parts = urlsplit(await asyncio.to_thread(start))
        async with await psycopg.AsyncConnection.connect(url) as connection:
            versions = await (await connection.execute(_VERSIONS)).fetchone()
        assert versions is not None  # noqa: S101 - it has one row
        yield Doors(parts.hostname or "", parts.port or 0, grpc_port), versions


def _make_next_release(source: Path) -> None:
    package = source / "segmentd"
    shutil.copytree(Path(segmentd.__file__).parent, package)
    start = package / "__init__.py"
    start.write_text(start.read_text("utf-8").replace(segmentd.__version__, _NEXT), "utf-8")
    (package / "storage" / "tables" / "0002_next_release.sql").write_text(_TABLES, "utf-8")
    for functions in (package / "storage" / "functions").glob("*.sql"):
        functions.write_text(f"{functions.read_text('utf-8')}\n-- Of the next release.\n", "utf-8")


async def _leave(old: Node, recorders: list[Recorder]) -> int:
    """Nobody asks the old node any more, and then it is stopped; its exit code."""
    for recorder in recorders:
        recorder.nodes.discard("old")
    while any(recorder.asking == "old" for recorder in recorders):  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.02)
    return await old.stop()
