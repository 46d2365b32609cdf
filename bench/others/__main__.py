"""Measures the flags of random users: segmentd and other products in turn, on one machine.

Each has a hundred flags for 5 % of all users, and each request asks for all flags of one user. Nothing of the
other products comes with segmentd: `npm install --prefix FOLDER unleash-server @growthbook/proxy-eval` brings
those that are measured.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from psycopg.conninfo import conninfo_to_dict
from rich.console import Console
from rich.table import Table

from bench.closed_loop import Requests, put_load
from bench.lab import Lab, Plan
from bench.others.products import FLAGS, PERCENT, Product, growthbook, unleash
from bench.population import Shape
from bench.processor import processor_seconds
from bench.programs import Missing, machine
from bench.reading import CONNECTIONS
from segmentd import __version__
from segmentd.observability.logs import set_up_logging

_SECONDS = 3.0
_WARM_UP_SECONDS = 2.0


def main() -> None:
    """Prints a table; a product that is missing is named, with what brings it."""
    parser = ArgumentParser("python -m bench.others", description="Other products beside segmentd.")
    parser.add_argument("--modules", type=Path, required=True, help="a folder with node_modules")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    set_up_logging("warning")
    console = Console(stderr=True)
    plan = Plan.quick(options.users, options.rounds)._replace(shaped_size=options.users)
    with (
        TemporaryDirectory(prefix="segmentd-bench-") as folder,
        Lab(plan, Path(folder), lambda line: console.print(line, style="dim")) as lab,
        ExitStack() as running,
    ):
        node = running.enter_context(lab.node_of_shape("others", Shape(FLAGS, 1, [PERCENT], 0)))
        pids = node.http_workers()
        products = [
            Product(f"segmentd {__version__}, OFREP", node.url, "evaluate-all", pids),
            Product(f"segmentd {__version__}, its hot read", node.url, "read", pids),
        ]
        makers: list[Callable[[], AbstractContextManager[Product]]] = [
            lambda: growthbook(options.modules.resolve()),
            lambda: unleash(options.modules.resolve(), _database(lab)),
        ]
        for make in makers:
            try:
                products.append(running.enter_context(make()))
            except Missing as missing:
                console.print(f"skipped: {missing}")
        _print(_measured(lab, products, options.users), options.users)


def _database(lab: Lab) -> dict[str, str]:
    parts = conninfo_to_dict(lab.made("bench_unleash"))
    names = {"host": "HOST", "port": "PORT", "user": "USERNAME", "password": "PASSWORD", "dbname": "NAME"}
    return {f"DATABASE_{theirs}": str(parts[ours]) for ours, theirs in names.items()}


def _measured(lab: Lab, products: list[Product], users: int) -> dict[str, tuple[float, float, float]]:
    """By product: requests a second, requests for each second of its processor time, and p99 in ms."""
    found: dict[str, list[tuple[float, float, float]]] = {product.name: [] for product in products}
    for product in products:
        put_load(product.url, Requests(product.kind, users, CONNECTIONS), _WARM_UP_SECONDS, lab.next_seed())
    for number in range(lab.plan.rounds):
        for product in products:
            lab.say(f"{product.name}, round {number + 1}")
            begun = processor_seconds(product.pids)
            requests = Requests(product.kind, users, CONNECTIONS)
            load = put_load(product.url, requests, _SECONDS, lab.next_seed())
            used = processor_seconds(product.pids) - begun
            found[product.name].append((load.rate, load.requests / used, load.p99_ms))
    return {
        name: (
            median(r for r, _, _ in rows),
            median(p for _, p, _ in rows),
            median(late for _, _, late in rows),
        )
        for name, rows in found.items()
    }


def _print(figures: dict[str, tuple[float, float, float]], users: int) -> None:
    title = f"all {FLAGS} flags of a random user of {users:,}, {CONNECTIONS} connections, {machine()}"
    table = Table(
        "product", "requests/s", "flags/s", "requests for a second of processor", "p99", title=title
    )
    for name, (rate, per_second, late) in figures.items():
        table.add_row(name, f"{rate:,.0f}", f"{rate * FLAGS:,.0f}", f"{per_second:,.0f}", f"{late:.1f} ms")
    Console(width=None if sys.stdout.isatty() else 150).print(table)


if __name__ == "__main__":
    main()
