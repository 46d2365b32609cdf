"""Faults, what must hold while they last and afterwards, and where that is shown."""

from typing import Final, NamedTuple


class Fault(NamedTuple):
    """What must hold, and the proofs and tests that show it."""

    holds: tuple[str, ...]
    shown_by: tuple[str, ...]


FAULTS: Final[dict[str, Fault]] = {
    "kill -9 of an HTTP, node or gRPC worker, the supervisor, PostgreSQL or one backend, everything": Fault(
        ("no acknowledged change is lost", "no refused one is made", "it comes back by itself"),
        ("kills",),
    ),
    "processes are stopped for seconds (SIGSTOP)": Fault(("as for a kill",), ("kills",)),
    "the follower of one node of two is stopped, and processes of both are killed": Fault(
        ("no read is older than its `Age`", "own writes show", "nobody goes back", "the feeds are the same"),
        ("histories",),
    ),
    "PostgreSQL fails over: killed, frozen or shut down, and its standby promoted": Fault(
        (
            "nothing is lost that the standby had",
            "what it had not is gone from all views alike",
            "hot reads are answered",
            "writes are back within ten seconds",
            "no replica is built again",
        ),
        ("serve/test_failing_over.py",),
    ),
}
