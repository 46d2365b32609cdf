"""Runs the benchmarks: `python -m bench [--quick] [--size USERS] [--only NAME …] [--rounds COUNT]`."""

import sys
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec
from rich.console import Console

from bench import (
    beside_import,
    bulk,
    changing,
    evaluating,
    following,
    grpc_reading,
    grpc_watching,
    listing,
    many_followers,
    mass,
    paging,
    reading,
    shapes,
    sizes,
    starting,
    writing,
)
from bench.figures import Figure, Skipped
from bench.lab import Lab, Plan
from bench.programs import Missing, machine
from bench.table import table
from segmentd.observability.logs import set_up_logging

Row = Callable[[Lab], Iterator[Figure]]

RESULTS: Final = Path(__file__).with_name("results")

# In an order in which no row disturbs another: events are loaded before a node starts, writes come last.
ROWS: Final[dict[str, Row]] = {
    "rollouts": starting.rollouts,
    "start": starting.start,
    "report": bulk.report,
    "replica": bulk.replica,
    "hot-read": reading.hot_read,
    "hot-read-latency": reading.hot_read_latency,
    "batch": reading.batch,
    "ofrep-single": evaluating.ofrep_single,
    "ofrep-bulk": evaluating.ofrep_bulk,
    "grpc-read": grpc_reading.grpc_read,
    "grpc-watchers": grpc_watching.grpc_watchers,
    "growth": reading.growth,
    **shapes.ROWS,
    "console": paging.console,
    "metrics-cost": reading.metrics_cost,
    "memory": reading.memory,
    "mass-change": mass.mass_change,
    "create-rollout": writing.create_rollout,
    "freshness": writing.freshness,
    "feed": following.feed,
    "many-followers": many_followers.many_followers,
    "write": changing.write,
    "write-alone": changing.write_alone,
    "write-function": changing.write_function,
    "write-segments": changing.write_segments,
    "export": listing.exports,
    "import": listing.imports,
    "import-reads": beside_import.beside_import,
    "sizes": sizes.sizes,
}


class Result(msgspec.Struct, frozen=True):
    """The stored result of a run."""

    at: datetime
    machine: str
    size: int
    rounds: int
    quick: bool
    seconds: float
    rows: Sequence[Figure | Skipped]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints the table and stores it; 1 if a row failed, not if it missed its target."""
    options = _options(arguments)
    set_up_logging("warning")
    console = Console(stderr=True)
    size = options.size or (100_000 if options.quick else 1_000_000)
    plan = (Plan.quick if options.quick else Plan.usual)(size, options.rounds or (2 if options.quick else 3))
    begun = datetime.now(UTC)
    with (
        TemporaryDirectory(prefix="segmentd-bench-", dir=options.folder) as folder,
        console.status("starting") as status,
        Lab(plan, Path(folder), lambda line: status.update(f"{_since(begun):4.0f} s  {line}")) as lab,
    ):
        rows = [row for name in options.only or ROWS for row in measured(name, lab, console)]
    result = Result(begun, machine(), size, plan.rounds, options.quick, _since(begun), rows)
    title = f"segmentd, {size:,} users, {plan.rounds} rounds, {begun:%Y-%m-%d}, {result.machine}"
    Console(width=None if sys.stdout.isatty() else 190).print(table(rows, title))
    _keep(result, title, console)
    return int(any(isinstance(row, Skipped) and row.failed for row in rows))


def measured(name: str, lab: Lab, console: Console) -> Iterator[Figure | Skipped]:
    """The lines of one row; if it cannot be measured, a line that says why."""
    begun = datetime.now(UTC)
    try:
        yield from ROWS[name](lab)
    except Missing as missing:
        yield Skipped(name, str(missing))
        console.print(f"{name}: skipped, {missing}")
    except Exception as error:  # noqa: BLE001 - the other rows are still useful
        yield Skipped(name, f"{type(error).__name__}: {error}", failed=True)
        console.print(f"{name}: failed\n{traceback.format_exc()}", markup=False)
    else:
        console.print(f"{name}: measured in {_since(begun):.0f} s")


def _since(begun: datetime) -> float:
    return (datetime.now(UTC) - begun).total_seconds()


def _keep(result: Result, title: str, console: Console) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{result.at:%Y%m%dT%H%M%SZ}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    figures = [row for row in result.rows if isinstance(row, Figure)]
    if any(row.target for row in figures):
        from bench.chart import draw  # noqa: PLC0415 - its library takes long to load, and few runs draw

        draw(figures, title, path.with_suffix(".png"))
    console.print(f"{result.seconds:.0f} s; kept in {path} and .png")


def _options(arguments: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser("python -m bench", description="Benchmarks of segmentd.")
    parser.add_argument("--quick", action="store_true", help="two minutes, few users: does everything work?")
    parser.add_argument("--size", type=int, help="users, at most 10 million or so [1000000; quick: 100000]")
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="NAME", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, help="of each row [3; quick: 2]")
    parser.add_argument("--folder", type=Path, help="where the databases are for the while [the system's]")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
