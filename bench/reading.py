"""Rows about reads: the hot read and its latency, lookups, growth, and the memory of HTTP workers."""

from collections.abc import Iterator
from statistics import fmean
from typing import Final

from bench.closed_loop import Requests, put_load
from bench.figures import Figure, Target, quantile
from bench.lab import Lab
from bench.memory import private_mebibytes
from bench.open_loop import latencies
from bench.servers import constant_nginx, constant_uvicorn

CONNECTIONS: Final = 32
LOOKUP_USERS: Final = 1000
LOOKUP_CONNECTIONS: Final = 8
_WARM_UP_SECONDS: Final = 1.0
_SLICE_SECONDS: Final = 1.0


def hot_read(lab: Lab) -> Iterator[Figure]:
    """The hot read against nginx, and both against a Python server that does nothing."""
    requests = Requests("read", lab.plan.size, CONNECTIONS)
    body = lab.body_sample()
    rates: dict[str, list[float]] = {"nginx": [], "ceiling": [], "segmentd": []}
    with constant_nginx(body) as nginx, constant_uvicorn(body) as ceiling:
        urls = {"nginx": nginx, "ceiling": ceiling, "segmentd": lab.node.url}
        for url in urls.values():
            put_load(url, requests, _WARM_UP_SECONDS, lab.next_seed())
        for number in range(lab.plan.rounds):
            for name, url in urls.items():
                lab.say(f"hot-read: {name}, round {number + 1}")
                rates[name].append(put_load(url, requests, lab.plan.seconds, lab.next_seed()).rate)
    lab.top_rate = quantile(rates["segmentd"], 0.5)
    yield Figure(
        name="hot-read",
        work=f"GET /users/{{id}}/segments, {CONNECTIONS} connections, random ids of {lab.plan.size:,}",
        unit="/s",
        values=rates["segmentd"],
        reference=f"nginx, a constant body of {len(body)} B",
        reference_values=rates["nginx"],
        target=Target(0.25, 0.5),
    )
    yield Figure(
        name="hot-read-ceiling",
        work="uvicorn with the same workers, a constant body, no segmentd",
        unit="/s",
        values=rates["ceiling"],
        reference="nginx",
        reference_values=rates["nginx"],
        note="the most that uvicorn allows",
    )


def hot_read_latency(lab: Lab) -> Iterator[Figure]:
    """Latency at half of the top rate; requests leave when they are due."""
    if lab.top_rate is None:
        requests = Requests("read", lab.plan.size, CONNECTIONS)
        lab.top_rate = put_load(lab.node.url, requests, lab.plan.seconds, lab.next_seed()).rate
    rate = lab.top_rate / 2
    middle, late = [], []
    for number in range(lab.plan.rounds):
        lab.say(f"hot-read-latency: {rate:,.0f}/s, round {number + 1}")
        found = latencies(lab.node.address, lab.plan.size, rate, lab.plan.seconds, lab.next_seed())
        middle.append(quantile(found, 0.5))
        late.append(quantile(found, 0.99))
    yield Figure(
        name="hot-read-latency",
        work=f"p99 at {rate:,.0f}/s, half of the top rate",
        unit="ms",
        values=late,
        rate=False,
        target=Target(5, 2, at_most=True),
        note=f"p50 {quantile(middle, 0.5):.2f} ms",
    )


def batch(lab: Lab) -> Iterator[Figure]:
    """Lookups of 1,000 users."""
    requests = Requests("lookup", lab.plan.size, LOOKUP_CONNECTIONS)
    put_load(lab.node.url, requests, _WARM_UP_SECONDS, lab.next_seed())
    rates = []
    for number in range(lab.plan.rounds):
        lab.say(f"batch: round {number + 1}")
        load = put_load(lab.node.url, requests, lab.plan.seconds, lab.next_seed())
        rates.append(load.rate * LOOKUP_USERS)
    yield Figure(
        name="batch",
        work=f"POST /lookup of {LOOKUP_USERS:,}, {LOOKUP_CONNECTIONS} connections",
        unit="users/s",
        values=rates,
        target=Target(150_000, 300_000),
    )


def growth(lab: Lab) -> Iterator[Figure]:
    """The hot read among all users against the same among few."""
    large, small = lab.plan.size, lab.plan.small_size
    rates: dict[int, list[float]] = {small: [], large: []}
    with lab.small_node() as few:
        urls = {small: few.url, large: lab.node.url}
        for size, url in urls.items():
            put_load(url, Requests("read", size, CONNECTIONS), _WARM_UP_SECONDS, lab.next_seed())
        for number in range(lab.plan.rounds):
            for size, url in urls.items():
                lab.say(f"growth: {size:,} users, round {number + 1}")
                requests = Requests("read", size, CONNECTIONS)
                rates[size].append(put_load(url, requests, lab.plan.seconds, lab.next_seed()).rate)
    yield Figure(
        name="growth",
        work=f"the hot read with {large:,} users",
        unit="/s",
        values=rates[large],
        reference=f"with {small:,} users",
        reference_values=rates[small],
        target=Target(1 / 1.5, 1 / 1.2),
        note="0.67 is 1.5 times slower, 0.83 is 1.2 times",
    )


def metrics_cost(lab: Lab) -> Iterator[Figure]:
    """The hot read of a node with metrics against a node without."""
    requests = Requests("read", lab.plan.size, CONNECTIONS)
    rates: dict[str, list[float]] = {"without": [], "with": []}
    for number in range(lab.plan.pairs):
        # New nodes for each pair: chance in the layout of memory makes one process 5 % faster than another.
        with (
            lab.node_on(lab.database_url, "node without metrics", flags=["--no-metrics"]) as unmeasured,
            lab.node_on(lab.database_url, "node with metrics") as measured,
        ):
            urls = {"without": unmeasured.url, "with": measured.url}
            for url in urls.values():
                put_load(url, requests, _WARM_UP_SECONDS, lab.next_seed())
            # Each is first as often as the other, because a machine gets slower as it warms up.
            found: dict[str, list[float]] = {name: [] for name in urls}
            turns = max(1, int(lab.plan.seconds / (2 * _SLICE_SECONDS)))
            for name in ("with", "without", "without", "with") * turns:
                lab.say(f"metrics-cost: {name}, pair {number + 1}")
                load = put_load(urls[name], requests, _SLICE_SECONDS, lab.next_seed())
                found[name].append(load.rate)
        for name, values in found.items():
            rates[name].append(fmean(values))
    yield Figure(
        name="metrics-cost",
        work="the hot read of a node with metrics",
        unit="/s",
        values=rates["with"],
        reference="with --no-metrics",
        reference_values=rates["without"],
        target=Target(0.97, 0.99),
    )


def memory(lab: Lab) -> Iterator[Figure]:
    """The private memory of the HTTP workers, before and after many requests."""
    requests = Requests("read", lab.plan.size, CONNECTIONS)
    workers = lab.node.http_workers()
    put_load(lab.node.url, requests, 2 * _WARM_UP_SECONDS, lab.next_seed())
    before = [private_mebibytes(pid) for pid in workers]
    done = 0
    while done < lab.plan.requests:
        lab.say(f"memory: {done:,} of {lab.plan.requests:,} requests")
        done += put_load(lab.node.url, requests, lab.plan.seconds, lab.next_seed()).requests
    after = [private_mebibytes(pid) for pid in workers]
    yield Figure(
        name="memory",
        work=f"each HTTP worker after {done:,} requests",
        unit="MiB",
        values=after,
        rate=False,
        target=Target(150, 100, at_most=True),
        note="private resident; before: " + ", ".join(f"{value:.1f}" for value in before),
    )
