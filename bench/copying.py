"""Makes one copy as a node's worker does, in a process of its own: `python -m bench.copying URL FOLDER`."""

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


class CopyMade(msgspec.Struct, frozen=True):
    """What a build took and gave; `size` is in bytes, of all pages that were ever used."""

    seconds: float
    users: int
    size: int


async def make(url: str, folder: Path) -> CopyMade:
    """Makes a copy in an empty folder."""
    async with Database(url, pool_size=2) as database:
        with closing(Follower(database, folder)) as follower:
            begun = time.perf_counter()
            await follower.round()
            seconds = time.perf_counter() - begun
    users, size = measure(folder)
    return CopyMade(seconds, users, size)


def measure(folder: Path) -> tuple[int, int]:
    """Users and bytes of the one copy in a folder."""
    [path] = folder.glob("copy-*.lmdb")
    with lmdb.open(os.fspath(path), subdir=False, readonly=True, lock=False, max_dbs=2) as copy:
        size = (copy.info()["last_pgno"] + 1) * copy.stat()["psize"]
        with copy.begin() as transaction:
            users = transaction.stat(copy.open_db(b"users", transaction, create=False))["entries"]
    return users, size


if __name__ == "__main__":
    set_up_logging("warning")
    made = uvloop.run(make(sys.argv[1], Path(sys.argv[2])))
    sys.stdout.buffer.write(msgspec.json.encode(made))
    sys.stdout.flush()
