"""Runs the proofs: `python -m proof [NAME] [--help]`; without a name all of them, in a time that is set."""

import asyncio
import signal
import sys
import time
import traceback
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from proof import console, histories, kills, long_tests, mutations, scenarios, soak, upgrade
from proof.results import PAGE, Measured, Result, keep, kept, page
from proof.whole import MOST_MINUTES, Part, Whole
from tests.support.postgres import new_database, quick_server

_SPEAKER: Final = ContextVar("_SPEAKER", default="")

Run = Callable[[Namespace, Path], Measured]


class Proof(NamedTuple):
    """A proof: its promise, the most time that it takes, its options with defaults, and what runs it."""

    promise: str
    minutes: float
    options: dict[str, tuple[int, str]]
    run: Run
    bears_others: bool = True
    """Whether another proof may run beside it."""


def _time_for(options: Namespace, minutes_after: float) -> float:
    """For how many seconds it goes on, where what comes afterwards takes so many minutes."""
    return max(1.0, 60 * (float(options.minutes) - minutes_after))


def _kills(options: Namespace, folder: Path) -> Measured:
    plan = kills.Plan(options.cycles, options.seed, seconds=_time_for(options, 2.5))
    # Forked (docs/decisions/0094), as processes are started all the time; other proofs start them as shipped.
    return kills.measured(asyncio.run(kills.kill_cycles(plan, folder, _say, as_shipped=False)), plan)


def _histories(options: Namespace, folder: Path) -> Measured:
    plan = histories.Plan(options.operations, options.seed, seconds=_time_for(options, 1.0))
    with quick_server(folder) as server, new_database(server, "template1") as url:
        return asyncio.run(histories.histories(plan, url, folder, _say))


def _faults(options: Namespace, folder: Path) -> Measured:
    return asyncio.run(scenarios.scenarios(folder, _say, seconds=60 * options.minutes))


def _upgrade(options: Namespace, folder: Path) -> Measured:
    plan = upgrade.Plan(options.operations, options.seed, 60 * options.minutes)
    with quick_server(folder) as server, new_database(server, "template1") as url:
        return asyncio.run(upgrade.upgrade(plan, url, folder, _say))


def _soak(options: Namespace, folder: Path) -> Measured:
    plan = soak.Plan(_time_for(options, 1.5), options.percent, options.seed)
    return soak.measured(*asyncio.run(soak.soak(plan, folder, _say)), plan)


def _mutations(options: Namespace, folder: Path) -> Measured:
    return mutations.run(folder, _say, _time_for(options, 2.5))


def _console(options: Namespace, folder: Path) -> Measured:
    del options
    return console.console(folder, _say)


def _long_tests(options: Namespace, folder: Path) -> Measured:
    del folder
    return long_tests.run(_time_for(options, 1.0), _say)


# In this order they begin; the longest do so early, so that at the end two are still at work.
PROOFS: Final[dict[str, Proof]] = {
    "soak": Proof(
        "under a steady mixed load memory, descriptors, connections, the replica, tables and latency stay"
        " within their bounds, from the first quarter to the last",
        21.5,
        {"percent": (70, "of the capacity, which is measured first"), "seed": (1, "of everything random")},
        _soak,
        bears_others=False,
    ),
    "tests": Proof("the long forms of the tests", 20, {}, _long_tests),
    "kills": Proof(
        "every acknowledged change is there, none that was refused, none by half; events replay to the"
        " memberships, the replica and the feed have the same",
        15,
        {"cycles": (100, "how often something is killed"), "seed": (1, "of everything random")},
        _kills,
    ),
    "histories": Proof(
        "writes to a user are linearizable; a node shows what it acknowledged; no read is older than its age;"
        " no client sees a node go back; every follower of the feed has the same changes once and in order",
        12,
        {"operations": (100_000, "of all clients together"), "seed": (1, "of everything random")},
        _histories,
    ),
    "mutations": Proof(
        "a fault in the domain, the SQL, the storage, the replica or a door is caught by the tests near it",
        11,
        {},
        _mutations,
    ),
    "faults": Proof(
        "whatever happens around a node, what it acknowledged is kept, hot reads are answered rightly,"
        " nothing is answered 500, a revoked token stays out, and all goes on with the same processes",
        8,
        {},
        _faults,
    ),
    "upgrade": Proof(
        "while a node of the next release migrates the database, joins and takes over, no read fails, and the"
        " promises of histories hold across both",
        6,
        {"operations": (20_000, "of all clients together"), "seed": (1, "of everything random")},
        _upgrade,
    ),
    "console": Proof(
        "in a real browser people do what the console is for, with script and without, and with keys alone;"
        " axe-core finds no serious fault on any page, nothing is loaded from elsewhere, no page has 100 kB",
        4,
        {},
        _console,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one proof or all, and writes the page; 1 if anything contradicted a promise."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # either ends what was started, also in the background
        signal.signal(number, signal.default_int_handler)
    if options.name == "page":
        PAGE.write_text(page(kept()), "utf-8")
        return 0
    if options.name:
        return not _prove(options.name, options)
    return _prove_all()


def _prove_all() -> int:
    parts = {name: Part(name, proof.minutes) for name, proof in PROOFS.items()}
    alone = [part for name, part in parts.items() if not PROOFS[name].bears_others]
    beside = [part for part in parts.values() if part not in alone]
    _say(f"{len(parts)} proofs, {MOST_MINUTES} minutes at most")
    begun = time.monotonic()
    ended = Whole(_say).run(alone, beside)
    for each in ended:
        if each.because:
            _keep(each.name, Measured("it has no result", [each.because]), each.seconds)
    failed = [each.name for each in ended if not each.held]
    _say(f"all ended after {(time.monotonic() - begun) / 60:.1f} minutes")
    if failed:
        _say(f"contradicted: {', '.join(failed)}")
    return bool(failed)


def _prove(name: str, options: Namespace) -> bool:
    """Whether the promise held."""
    proof = PROOFS[name]
    defaults = {option: default for option, (default, _) in proof.options.items()}
    given = Namespace(**{"minutes": proof.minutes, **defaults, **vars(options)})
    _SPEAKER.set(f"{name}: ")
    _say(proof.promise)
    begun = time.monotonic()
    with TemporaryDirectory(prefix="proof-", ignore_cleanup_errors=True) as folder:
        try:
            measured = proof.run(given, Path(folder))
        except Exception as error:  # noqa: BLE001 - whatever it is, the promise was not shown to hold
            traceback.print_exc()
            measured = Measured("it ended early", [f"{type(error).__name__}: {error}"])
    for violation in measured.violations:
        _say(f"VIOLATION {violation}")
    result = _keep(name, measured, time.monotonic() - begun)
    _say(f"{result.figures}; {result.violations} violations; {result.seconds} s")
    return not measured.violations


def _keep(name: str, measured: Measured, seconds: float) -> Result:
    result = Result.of(PROOFS[name].promise, measured, seconds, PROOFS[name].minutes)
    keep(name, result)
    return result


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
        own.add_argument("--minutes", type=float, default=proof.minutes, help="the most time that it takes")
        for option, (default, meaning) in proof.options.items():
            own.add_argument(f"--{option}", type=int, default=default, help=meaning)
    names.add_parser("page", help="writes docs/proof.md from the latest results")
    return parser


def _say(line: str) -> None:
    """With the time, by the clock on the wall, and the proof, since two run at a time."""
    print(f"{datetime.now():%H:%M:%S} {_SPEAKER.get()}{line}", flush=True)  # noqa: DTZ005


if __name__ == "__main__":
    sys.exit(main())
