"""Faults, what must hold while they last and afterwards, and where that is shown."""

from typing import Final, NamedTuple

ALWAYS: Final = (
    "no acknowledged change is lost, none is made that was refused, none by half; tables, replica and feed"
    " agree again; nothing is answered 500; the processes that the fault spares live on; a token"
    " that is revoked meanwhile opens nothing afterwards"
)
_READS: Final = "hot reads are right"
_503: Final = "changes are made or answered 503"


class Fault(NamedTuple):
    """What must hold beside what always must, and the proofs and tests that show it."""

    holds: tuple[str, ...]
    shown_by: tuple[str, ...] = ("faults",)


FAULTS: Final[dict[str, Fault]] = {
    "an HTTP, node or gRPC worker, the supervisor, PostgreSQL, one backend or everything is killed": Fault(
        ("what died is started again, by the supervisor or the next start",), ("kills",)
    ),
    "these are stopped (SIGSTOP) for seconds, and killed or not": Fault(("as before",), ("kills",)),
    "the followers of two nodes are stopped, and processes of both are killed": Fault(
        ("no read is older than its `Age`, lacks an own write, or goes back", "all feeds are the same"),
        ("histories",),
    ),
    "a process of an import is killed": Fault(
        ("no row is lost, none is applied twice",), ("kills", "serve/test_imports.py")
    ),
    "PostgreSQL is paused": Fault((_READS, _503)),
    "PostgreSQL is killed": Fault((_READS, _503), ("faults", "storage/test_outage.py")),
    "all connections are terminated in a loop": Fault((_READS, _503)),
    "PostgreSQL is read-only": Fault((_READS, _503), ("faults", "storage/test_unusable_servers.py")),
    "the disk of PostgreSQL is full": Fault((_READS, _503)),
    "the clock of PostgreSQL is set forward and back": Fault(
        (_READS, "changes of a user keep their order"),
        ("faults", "truth/test_one_truth.py", "storage/test_feed.py", "test_jobs.py"),
    ),
    "a slow network to PostgreSQL": Fault((_READS, _503)),
    "a silent network to PostgreSQL": Fault((_READS, _503), ("faults", "serve/test_outage.py")),
    "a network to PostgreSQL that resets connections": Fault((_READS, _503)),
    "PostgreSQL is away for long, and processes of the node die meanwhile": Fault(
        ("hot reads go on", "readiness says so"), ("serve/test_outage.py",)
    ),
    "PostgreSQL fails over: killed, frozen, cut off or shut down; its standby has another clock": Fault(
        (
            "nothing is lost that the standby had",
            "what it had not is gone from all views alike",
            "hot reads are answered",
            "writes are back within ten seconds",
            "no replica is built again",
            "the history of each user alternates",
        ),
        ("serve/test_failing_over.py", "storage/test_feed_after_failover.py"),
    ),
    "the database is restored from a backup": Fault(
        (
            "it lacks what came later, and all that is left agrees",
            "the replica is built again",
            "positions that are ahead have expired",
        ),
        ("faults", "replica/test_resuming.py", "storage/test_feed.py"),
    ),
    "the disk of the node is full": Fault(
        ("changes go on, hot reads are right", "no process dies"),
        ("serve/test_full_disk.py", "replica/test_outliving.py"),
    ),
    "there is no room for a report": Fault(
        ("it fails with its reason, and leaves no file",),
        ("reports/test_limits.py", "reports/test_build.py"),
    ),
    "there is no room for the rows of imports": Fault(
        ("it is refused, nothing is changed",), ("api/http/resources/test_imports.py",)
    ),
    "the HTTP workers have no descriptors left": Fault(
        ("new connections are reset, open ones are served",), ("faults", "serve/test_slow_clients.py")
    ),
    "a slow network to the clients": Fault((_READS,)),
    "a network to the clients that resets connections": Fault((_READS,)),
    "2,000 slow clients": Fault(
        (_READS, "all others are served", "slow ones are cut off"), ("faults", "serve/test_slow_clients.py")
    ),
    "a token is revoked": Fault(
        ("every process refuses it after its next look",),
        ("faults", "serve/test_first_token.py", "auth/test_authenticator.py"),
    ),
    "the next release is started beside this one": Fault(
        ("no read fails", "the promises of histories hold across both"),
        ("upgrade", "storage/test_migrate.py"),
    ),
}
