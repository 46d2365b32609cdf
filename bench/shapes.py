"""Rows about the hot read where the segments are of another shape: how many, with which percentages."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Final, NamedTuple

from bench.closed_loop import Requests, put_load
from bench.figures import Figure, Target
from bench.lab import MANY_SEGMENTS, Lab, average_body
from bench.population import Shape
from bench.reading import CONNECTIONS
from bench.servers import constant_nginx

_WARM_UP_SECONDS: Final = 1.0
_GROWTH: Final = Target(1 / 1.5, 1 / 1.2)


class Shaped(NamedTuple):
    """A shape, what it is in words, and the target beside nginx."""

    shape: Shape
    words: str
    target: Target | None = None


SHAPES: Final = {
    "explicit": Shaped(Shape(rollout_every=0), "500 segments, no percentages", Target(0.65, 0.75)),
    "short": Shaped(
        Shape(200, 2, [5], 2),
        "200 segments, 100 percentages of 5 %, 2 overrides a user",
        Target(0.6, 0.75),
    ),
    "segments": Shaped(
        Shape(MANY_SEGMENTS, MANY_SEGMENTS // 100, [10]),
        f"{MANY_SEGMENTS:,} segments, 100 percentages of 10 %",
    ),
    "percentages": Shaped(Shape(1000, 1, [1]), "1,000 segments, each with a percentage of 1 %"),
    "usual": Shaped(Shape(1000, 10, [10]), "1,000 segments, 100 percentages of 10 %"),
}


def hot_read_of(name: str, lab: Lab) -> Iterator[Figure]:
    """The hot read of one shape against nginx with a body of the same length."""
    shaped = SHAPES[name]
    requests = Requests("read", lab.plan.shaped_size, CONNECTIONS)
    with lab.node_of_shape(name, shaped.shape) as node:
        body = average_body(node, lab.plan.shaped_size)
        with constant_nginx(body) as nginx:
            rates = _in_turn(lab, f"hot-read-{name}", {"nginx": nginx, "segmentd": node.url}, requests)
    yield Figure(
        name=f"hot-read-{name}",
        work=f"the hot read, {lab.plan.shaped_size:,} users, {shaped.words}",
        unit="/s",
        values=rates["segmentd"],
        reference=f"nginx, a constant body of {len(body)} B",
        reference_values=rates["nginx"],
        target=shaped.target,
    )


def growth_of(name: str, lab: Lab) -> Iterator[Figure]:
    """The hot read of one shape against that of the usual one; the answers are about as long."""
    requests = Requests("read", lab.plan.shaped_size, CONNECTIONS)
    with ExitStack() as nodes:
        urls = {
            each: nodes.enter_context(lab.node_of_shape(each, SHAPES[each].shape)).url
            for each in ("usual", name)
        }
        rates = _in_turn(lab, f"growth-{name}", urls, requests)
    yield Figure(
        name=f"growth-{name}",
        work=f"the hot read, {lab.plan.shaped_size:,} users, {SHAPES[name].words}",
        unit="/s",
        values=rates[name],
        reference=f"with {SHAPES['usual'].words}",
        reference_values=rates["usual"],
        target=_GROWTH,
        note="0.67 is 1.5 times slower, 0.83 is 1.2 times",
    )


def _in_turn(lab: Lab, said: str, urls: dict[str, str], requests: Requests) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in urls}
    for url in urls.values():
        put_load(url, requests, _WARM_UP_SECONDS, lab.next_seed())
    for number in range(lab.plan.rounds):
        for name, url in urls.items():
            lab.say(f"{said}: {name}, round {number + 1}")
            rates[name].append(put_load(url, requests, lab.plan.seconds, lab.next_seed()).rate)
    return rates


ROWS: Final[dict[str, Callable[[Lab], Iterator[Figure]]]] = {
    **{
        f"hot-read-{name}": partial(hot_read_of, name)
        for name in ("explicit", "short", "segments", "percentages")
    },
    **{f"growth-{name}": partial(growth_of, name) for name in ("segments", "percentages")},
}
