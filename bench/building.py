"""Builds one replica as a node's worker does, in its own process: `python -m bench.building URL FOLDER`."""

import os
import sys
import time
from contextlib import closing
from pathlib import Path

import lmdb
import msgspec
import uvloop

from segmentd.observability.logs import set_up_logging
from segmentd.replica.follower import Follower
from segmentd.storage.database import Database


class Built(msgspec.Struct, frozen=True):
    """The figures of a build; `size` is in bytes, of all pages that were ever used."""

    seconds: float
    users: int
    size: int


async def build(url: str, folder: Path) -> Built:
    """Builds a replica in an empty folder."""
    async with Database(url, pool_size=2) as database:
        with closing(Follower(database, folder)) as follower:
            begun = time.perf_counter()
            await follower.round()
            seconds = time.perf_counter() - begun
    users, size = measure(folder)
    return Built(seconds, users, size)


def measure(folder: Path) -> tuple[int, int]:
    """Users and bytes of the one replica in a folder."""
    [path] = folder.glob("replica-*.lmdb")
    with lmdb.open(os.fspath(path), subdir=False, readonly=True, lock=False, max_dbs=2) as replica:
        size = (replica.info()["last_pgno"] + 1) * replica.stat()["psize"]
        with replica.begin() as transaction:
            users = transaction.stat(replica.open_db(b"users", transaction, create=False))["entries"]
    return users, size


if __name__ == "__main__":
    set_up_logging("warning")
    built = uvloop.run(build(sys.argv[1], Path(sys.argv[2])))
    sys.stdout.buffer.write(msgspec.json.encode(built))
    sys.stdout.flush()
