"""A node's follower in another process, as it is shipped, whose rounds the test calls."""

import asyncio
import sys
from pathlib import Path
from typing import Final
from unittest.mock import patch

from segmentd.observability.logs import set_up_logging
from segmentd.replica.files import remove
from segmentd.replica.follower import Follower
from segmentd.storage.database import Database
from tests.support.commands import Piped

# The modules that ask how long the machine has been running.
BOOT_TIMES: Final = [f"segmentd.replica.{module}.boot_time" for module in ("status", "follower", "replica")]


class BootTime:
    """The boot-time clock, in microseconds, as the test sets it: it never goes back."""

    def __init__(self) -> None:
        self.now = 1_000_000_000

    def __call__(self) -> int:
        return self.now


class FollowerProcess:
    """The process, and its part of the test's boot time."""

    def __init__(self, database_url: str, folder: Path, boot: BootTime) -> None:
        self._boot = boot
        self._process = Piped("tests.support.follower_process", database_url, str(folder))

    def begin(self) -> None:
        """Removes the replica and builds another one."""
        self._do("begin")

    def restart(self) -> None:
        """Ends the follower; another one resumes its replica."""
        self._do("restart")

    def round(self) -> None:
        self._do("round")

    def close(self) -> None:
        """Ends the process."""
        self._process.end()

    def _do(self, command: str) -> None:
        self._process.stdin.write(f"{command} {self._boot.now}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"


def _empty(folder: Path) -> None:
    for path in folder.glob("replica-*.lmdb"):
        remove(path)


async def _work(database_url: str, folder: Path, boot: BootTime) -> None:
    async with Database(database_url, pool_size=2) as database:
        follower = Follower(database, folder)
        for line in sys.stdin:  # nothing else is to be done meanwhile
            command, now = line.split()
            boot.now = int(now)
            if command in {"begin", "restart"}:
                follower.close()
                if command == "begin":
                    _empty(folder)
                follower = Follower(database, folder)
            await follower.round()
            sys.stdout.write("done\n")
            sys.stdout.flush()
        follower.close()


def _follow() -> None:
    boot = BootTime()
    for place in BOOT_TIMES:
        patch(place, boot).start()
    set_up_logging("error")
    asyncio.run(_work(sys.argv[1], Path(sys.argv[2]), boot))


if __name__ == "__main__":
    _follow()
