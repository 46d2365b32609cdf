"""Which transactions one reader saw and another did not: what follows the database rests on this alone.

Nothing that counts up, such as a sequence or a time, tells what is new: a transaction that began earlier may
commit later. A snapshot of PostgreSQL says exactly which transactions it sees, so the difference of two
snapshots has every transaction once, in whatever order they begin and commit.
"""

import re
from collections.abc import Sequence
from typing import Final, LiteralString, NamedTuple


class Snapshot(NamedTuple):
    """Which transactions a reader could not see: all from `xmax` on, and those of `xip`."""

    xmax: int
    xip: Sequence[int]

    @classmethod
    def parsed(cls, text: str) -> "Snapshot":
        """From PostgreSQL's text form, `xmin:xmax:xip,xip`. Raises ValueError."""
        match = re.fullmatch(r"(\d+):(\d+):((?:\d+,?)*)", text)
        if match is None:
            raise ValueError(f"{text!r} is not a snapshot")
        return cls(int(match[2]), [int(xid) for xid in match[3].split(",") if xid])

    def saw(self, xid: int) -> bool:
        """Whether a reader under it saw what this transaction did, if that was committed at all."""
        return xid < self.xmax and xid not in self.xip

    def covers(self, earlier: "Snapshot") -> bool:
        """Whether a reader under it saw all that a reader under the other one did."""
        return earlier.xmax <= self.xmax and not any(earlier.saw(xid) for xid in self.xip)

    def up_to(self, last: int, postponed: Sequence[int]) -> "Snapshot":
        """Of what it shows, the transactions up to `last` without the postponed ones."""
        hidden = {*self.xip, *postponed}
        return Snapshot(last + 1, sorted(xid for xid in hidden if xid <= last))

    def since(self, earlier: "Snapshot") -> "Window":
        """The transactions that this snapshot sees and an earlier one does not."""
        running = {*self.xip}
        return Window(
            first=earlier.xmax,
            end=self.xmax,
            running=sorted(xid for xid in running if xid >= earlier.xmax),
            late=sorted({*earlier.xip} - running),
        )


class Window(NamedTuple):
    """Transactions: those from `first` to before `end` without the `running` ones, and the `late` ones.

    Transactions that run on in both snapshots are in none of these: a large one that stays open costs
    nothing, however many rows it has written.
    """

    first: int
    end: int
    running: Sequence[int]
    late: Sequence[int]

    @property
    def parameters(self) -> dict[str, object]:
        """The parameters of `NEW` and `LATE`."""
        return {
            "first": str(self.first),
            "end": str(self.end),
            "running": [str(xid) for xid in self.running],
            "late": [str(xid) for xid in self.late],
        }


# The rows of a window, in two conditions that each read a part of an index on `xid`. They are the two halves
# of a UNION ALL: joined by OR, they would be a filter on the whole table.
NEW: Final[LiteralString] = (
    "xid >= %(first)s::xid8 AND xid < %(end)s::xid8 AND xid <> ALL (%(running)s::xid8[])"
)
LATE: Final[LiteralString] = "xid = ANY (%(late)s::xid8[])"
