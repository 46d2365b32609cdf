"""The replica status, in shared memory: the follower shows a node's readers in it which replica serves.

All times are microseconds of the boot-time clock, which nobody sets and which goes on during sleep.
"""

import time
from pathlib import Path
from typing import Final, Self

from segmentd.shared_memory import SharedMemory, boot_word

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_WORDS: Final = 11


def boot_time() -> int:
    """Microseconds of the boot-time clock."""
    return time.clock_gettime_ns(_CLOCK) // 1000


def status_path(folder: Path) -> Path:
    """The path of a node's replica status."""
    return folder / "status"


class ReplicaStatus:
    """Words of 64 bits, each written in one piece: a reader never sees half of one.

    - fresh_at: just before the snapshot that the replica shows; 0: there is no usable replica
    - clock_offset: PostgreSQL's clock minus the boot-time clock
    - serving: the number of the replica that answers reads; 0: none
    - filling: the number of the replica that is being built and also gets own writes; 0: none
    - spoilt_at: when an own write could not be shown; only a replica that is fresher may answer
    - behind: users who changed and whose states are not written yet
    - made: the number of the latest replica; no number is used twice, as a removed replica may still be open
    - boot: the start of the machine in which this was written; 0: the system has no id for it
    - whole_at, whole_version: a boot time at which the states of all users were right with this version of
      the segments, or of a later one; 0: unknown. It serves where some users are behind
    - late_until: after a fail-over, until when own writes may be shown that the new primary lacks; 0: never
    """

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._view = memory.words

    @classmethod
    def open(cls, path: Path) -> Self:
        """The replica status at this path; a new one says that there is no replica."""
        return cls(SharedMemory(path, _WORDS))

    def close(self) -> None:
        self._memory.close()

    @property
    def shared(self) -> bool:
        """Whether the other processes of the node see it."""
        return self._memory.shared

    def share(self) -> None:
        """If the disk had no room for it, tries again."""
        if self._memory.share():
            self._view = self._memory.words

    def take_over(self) -> None:
        """For a follower that starts: keeps what an earlier one wrote since the machine's start.

        So the serving replica goes on answering while the database is away, though it ages. The clock's
        offset stays in any case, because a read in progress needs it.
        """
        boot = boot_word()
        if boot == 0 or self._view[7] != boot:
            self.clear()
        self._view[7] = boot
        self.filling = 0

    def clear(self) -> None:
        """Shows that there is no replica."""
        self.fresh_at = self.serving = self.filling = self.spoilt_at = self.behind = 0
        self.late_until = self._view[8] = 0

    @property
    def fresh_at(self) -> int:
        """Boot time just before the snapshot that the replica shows."""
        return self._view[0]

    @fresh_at.setter
    def fresh_at(self, value: int) -> None:
        self._view[0] = value

    @property
    def clock_offset(self) -> int:
        """PostgreSQL's clock minus the boot-time clock."""
        return self._view[1]

    @clock_offset.setter
    def clock_offset(self, value: int) -> None:
        self._view[1] = value

    @property
    def serving(self) -> int:
        """The number of the replica that answers reads."""
        return self._view[2]

    @serving.setter
    def serving(self, value: int) -> None:
        self._view[2] = value

    @property
    def filling(self) -> int:
        """The number of the replica that is being built and also gets own writes."""
        return self._view[3]

    @filling.setter
    def filling(self, value: int) -> None:
        self._view[3] = value

    @property
    def spoilt_at(self) -> int:
        """Boot time of the latest own write that the replica does not show."""
        return self._view[4]

    @spoilt_at.setter
    def spoilt_at(self, value: int) -> None:
        self._view[4] = value

    @property
    def behind(self) -> int:
        """Users who changed and whose states are not written yet."""
        return self._view[5]

    @behind.setter
    def behind(self, value: int) -> None:
        self._view[5] = value

    @property
    def made(self) -> int:
        """The number of the latest replica."""
        return self._view[6]

    @made.setter
    def made(self, value: int) -> None:
        self._view[6] = value

    @property
    def late_until(self) -> int:
        """Until when own writes may be shown that the new primary lacks."""
        return self._view[10]

    @late_until.setter
    def late_until(self, value: int) -> None:
        self._view[10] = value

    def set_whole(self, since: int, version: int) -> None:
        """Since when all states are right with this version of the segments; 0: that is unknown."""
        if version != self._view[9]:
            self._view[8] = 0  # never the time of one version beside another one
            self._view[9] = version
        self._view[8] = since

    def whole_since(self, version: int) -> int:
        """Since when all states are right with this version of the segments; 0: that is unknown."""
        since = self._view[8]
        return since if self._view[9] == version and self._view[8] == since else 0

    def age(self) -> int | None:
        """How old the replica is, in microseconds; None if there is no usable one."""
        fresh_at = self._view[0]
        if fresh_at == 0 or fresh_at <= self._view[4]:
            return None
        return boot_time() - fresh_at

    def moment(self) -> tuple[int, int] | None:
        """`age` and `now` by one look at the clock; None if there is no usable replica."""
        view = self._view
        fresh_at = view[0]
        if fresh_at == 0 or fresh_at <= view[4]:
            return None
        present = boot_time()
        return present - fresh_at, present + view[1]

    def age_of(self, since: int) -> int | None:
        """How old a state is that was right at this boot time, in microseconds; None if it is of no use."""
        if since == 0 or since <= self._view[4] or self.age() is None:
            return None
        return boot_time() - min(since, self._view[0])

    def now(self) -> int:
        """PostgreSQL's clock, in microseconds since 1970."""
        return boot_time() + self._view[1]
