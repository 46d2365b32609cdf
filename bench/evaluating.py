"""Rows about OFREP: one flag of a user, and all of them."""

from collections.abc import Iterator
from typing import Final

from bench.closed_loop import Requests, put_load
from bench.figures import Figure, Target
from bench.lab import Lab, read
from bench.population import SEGMENTS
from bench.reading import CONNECTIONS, LOOKUP_CONNECTIONS, LOOKUP_USERS

_WARM_UP_SECONDS: Final = 1.0
_SAMPLE: Final = 500


def ofrep_single(lab: Lab) -> Iterator[Figure]:
    """One flag of one user against the hot read."""
    rates = _alternating(
        lab,
        "ofrep-single",
        Requests("read", lab.plan.size, CONNECTIONS),
        Requests("evaluate", lab.plan.size, CONNECTIONS),
    )
    yield Figure(
        name="ofrep-single",
        work=f"POST /ofrep/v1/evaluate/flags/{{key}}, {CONNECTIONS} connections",
        unit="/s",
        values=rates["evaluate"],
        reference="our own hot read",
        reference_values=rates["read"],
        target=Target(0.6, 0.8),
    )


def ofrep_bulk(lab: Lab) -> Iterator[Figure]:
    """All flags of one user against a lookup, per flag: a lookup answers with the slugs of the members."""
    slugs = sum(read(lab.node.url, user_id).count(b",") for user_id in range(1, _SAMPLE + 1)) / _SAMPLE
    rates = _alternating(
        lab,
        "ofrep-bulk",
        Requests("lookup", lab.plan.size, LOOKUP_CONNECTIONS),
        Requests("evaluate-all", lab.plan.size, LOOKUP_CONNECTIONS),
    )
    yield Figure(
        name="ofrep-bulk",
        work=f"POST /ofrep/v1/evaluate/flags, {SEGMENTS} flags, {LOOKUP_CONNECTIONS} connections",
        unit="flags/s",
        values=[rate * SEGMENTS for rate in rates["evaluate-all"]],
        reference=f"our own lookup of {LOOKUP_USERS:,}, each in {slugs:.0f}",
        reference_values=[rate * LOOKUP_USERS * slugs for rate in rates["lookup"]],
        target=Target(0.5, 0.8),
    )


def _alternating(lab: Lab, name: str, *kinds: Requests) -> dict[str, list[float]]:
    """The rates of several kinds of requests to one node, round by round in turn."""
    rates: dict[str, list[float]] = {requests.kind: [] for requests in kinds}
    for requests in kinds:
        put_load(lab.node.url, requests, _WARM_UP_SECONDS, lab.next_seed())
    for number in range(lab.plan.rounds):
        for requests in kinds:
            lab.say(f"{name}: {requests.kind}, round {number + 1}")
            load = put_load(lab.node.url, requests, lab.plan.seconds, lab.next_seed())
            rates[requests.kind].append(load.rate)
    return rates
