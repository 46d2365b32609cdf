"""Runs the proofs: `python -m proof [NAME] [--help]`; without a name all of them."""

import asyncio
import signal
import sys
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from proof import histories, kills, long_tests, mutations, scenarios, soak, upgrade
from proof.results import PAGE, Measured, Result, keep, kept, page
from tests.support.postgres import new_database, quick_server

Run = Callable[[Namespace, Path], Measured]


class Proof(NamedTuple):
    """A proof: its promise, the most time that it takes, its options with defaults, and what runs it."""

    promise: str
    minutes: int
    options: dict[str, tuple[int, str]]
    run: Run


def _kills(options: Namespace, folder: Path) -> Measured:
    plan = kills.Plan(options.cycles, options.seed, seconds=60 * options.minutes)
    return kills.measured(asyncio.run(kills.kill_cycles(plan, folder, _say)), plan)


def _histories(options: Namespace, folder: Path) -> Measured:
    plan = histories.Plan(options.operations, options.seed, seconds=60 * options.minutes)
    with quick_server(folder) as server, new_database(server, "template1") as url:
        return asyncio.run(histories.histories(plan, url, folder, _say))


def _faults(options: Namespace, folder: Path) -> Measured:
    return asyncio.run(scenarios.scenarios(folder, _say, seconds=60 * options.minutes))


def _upgrade(options: Namespace, folder: Path) -> Measured:
    plan = upgrade.Plan(options.operations, options.seed, 60 * options.minutes)
    with quick_server(folder) as server, new_database(server, "template1") as url:
        return asyncio.run(upgrade.upgrade(plan, url, folder, _say))


def _soak(options: Namespace, folder: Path) -> Measured:
    plan = soak.Plan(60.0 * options.minutes, options.percent, options.seed)
    return soak.measured(*asyncio.run(soak.soak(plan, folder, _say)), plan)


def _mutations(options: Namespace, folder: Path) -> Measured:
    del options
    return mutations.run(folder, _say)


def _long_tests(options: Namespace, folder: Path) -> Measured:
    del folder
    return long_tests.run(60 * options.minutes)


PROOFS: Final[dict[str, Proof]] = {
    "kills": Proof(
        "every acknowledged change is there, none that was refused, none by half; events replay to the"
        " memberships, the replica and the feed have the same",
        25,
        {"cycles": (100, "how often something is killed"), "seed": (1, "of everything random")},
        _kills,
    ),
    "histories": Proof(
        "writes to a user are linearizable; a node shows what it acknowledged; no read is older than its age;"
        " no client sees a node go back; every follower of the feed has the same changes once and in order",
        20,
        {"operations": (100_000, "of all clients together"), "seed": (1, "of everything random")},
        _histories,
    ),
    "faults": Proof(
        "whatever happens around a node, what it acknowledged is kept, hot reads are answered rightly,"
        " nothing is answered 500, a revoked token stays out, and all goes on with the same processes",
        15,
        {},
        _faults,
    ),
    "upgrade": Proof(
        "while a node of the next release migrates the database, joins and takes over, no read fails, and the"
        " promises of histories hold across both",
        10,
        {"operations": (20_000, "of all clients together"), "seed": (1, "of everything random")},
        _upgrade,
    ),
    "soak": Proof(
        "under a steady mixed load memory, descriptors, connections, the replica, tables and latency stay"
        " within their bounds, from the first quarter to the last",
        20,
        {"percent": (70, "of the capacity, which is measured first"), "seed": (1, "of everything random")},
        _soak,
    ),
    "mutations": Proof(
        "a fault in the domain, the SQL, the storage, the replica or a door is caught by the tests near it",
        15,
        {},
        _mutations,
    ),
    "tests": Proof("the long forms of the tests", 30, {}, _long_tests),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one proof or all, and writes the page; 1 if anything contradicted a promise."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # either ends what was started, also in the background
        signal.signal(number, signal.default_int_handler)
    if options.name == "page":
        PAGE.write_text(page(kept()), "utf-8")
        return 0
    failed = [name for name in ([options.name] if options.name else PROOFS) if not _prove(name, options)]
    if failed:
        _say(f"contradicted: {', '.join(failed)}")
    return bool(failed)


def _prove(name: str, options: Namespace) -> bool:
    """Whether the promise held."""
    proof = PROOFS[name]
    defaults = {option: default for option, (default, _) in proof.options.items()}
    given = Namespace(**{"minutes": proof.minutes, **defaults, **vars(options)})
    _say(f"{name}: {proof.promise}")
    begun = time.monotonic()
    with TemporaryDirectory(prefix="proof-", ignore_cleanup_errors=True) as folder:
        measured = proof.run(given, Path(folder))
    for violation in measured.violations:
        _say(f"{name}: VIOLATION {violation}")
    result = Result.of(proof.promise, measured, time.monotonic() - begun)
    _say(f"{name}: {result.figures}; {result.violations} violations; {result.seconds} s")
    keep(name, result)
    return not measured.violations


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m proof", description=__doc__)
    names = parser.add_subparsers(dest="name", metavar="NAME")
    for name, proof in PROOFS.items():
        own = names.add_parser(
            name,
            help=proof.promise,
            description=f"{proof.promise}.",
            formatter_class=ArgumentDefaultsHelpFormatter,
        )
        own.add_argument("--minutes", type=int, default=proof.minutes, help="the most time that it takes")
        for option, (default, meaning) in proof.options.items():
            own.add_argument(f"--{option}", type=int, default=default, help=meaning)
    names.add_parser("page", help="writes docs/proof.md from the latest results")
    return parser


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
