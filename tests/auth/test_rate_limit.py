"""How often a caller may come, counted in memory that processes share."""

import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final, Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segmentd.auth.rate_limit import RateLimit

S: Final = 1_000_000_000

# What is kept secret by a node.
KEY: Final = bytes(32)


class Opened(Protocol):
    def __call__(self, per_second: float, key: bytes = KEY) -> RateLimit: ...


class Watch:
    """The monotonic clock, which the test moves."""

    def __init__(self) -> None:
        self.now = time.monotonic_ns()

    def advance(self, seconds: float) -> None:
        self.now += int(seconds * S)

    def monotonic_ns(self) -> int:
        return self.now


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr("segmentd.auth.rate_limit.time", watch)
    return watch


@pytest.fixture
def opened(tmp_path: Path, watch: Watch) -> Iterator[Opened]:  # noqa: ARG001 - the clock stands still from here on
    """Opens the words of this test's node, as each of its processes does."""
    with ExitStack() as stack:
        yield lambda per_second, key=KEY: stack.enter_context(
            closing(RateLimit.open(tmp_path / "rates", per_second, key))
        )


def taken(limit: RateLimit, caller: str = "one", most: int = 1000) -> int:
    """How many requests there is room for at once."""
    return next((count for count in range(most) if limit.take(caller)), most)


@pytest.mark.parametrize("per_second", [1, 2, 3, 7, 10, 100])
def test_a_second_s_worth_may_come_at_once_and_then_it_fills_up_again(
    opened: Opened, watch: Watch, per_second: int
) -> None:
    limit = opened(per_second)
    assert taken(limit) == per_second

    assert limit.take("one") == pytest.approx(1 / per_second, rel=1e-6)

    watch.advance(0.999 / per_second)
    assert taken(limit) == 0
    watch.advance(0.002 / per_second)
    assert taken(limit) == 1
    watch.advance(3600)
    assert taken(limit) == per_second


def test_what_was_refused_is_not_counted(opened: Opened, watch: Watch) -> None:
    limit = opened(2)
    assert taken(limit) == 2
    for _ in range(100):
        assert limit.take("one") == pytest.approx(0.5)

    watch.advance(0.5)

    assert limit.take("one") == 0


def test_less_than_one_a_second_is_one_in_so_many_seconds(opened: Opened, watch: Watch) -> None:
    limit = opened(0.1)
    assert taken(limit) == 1

    watch.advance(4)

    assert limit.take("one") == pytest.approx(6)
    watch.advance(6)
    assert taken(limit) == 1


def test_callers_do_not_count_for_each_other(opened: Opened) -> None:
    limit = opened(3)
    assert taken(limit, "one") == 3

    assert [taken(limit, caller) for caller in ("two", "", "имя", "x" * 1000)] == [3, 3, 3, 3]


def sharing(limit: RateLimit, watch: Watch, names: Iterable[str]) -> Iterator[str]:
    """The names that use up the rate of "victim"."""
    for name in names:
        watch.advance(60)
        while not limit.take(name):
            pass
        if limit.take("victim"):
            yield name


def test_which_callers_share_a_rate_cannot_be_computed_without_the_node_s_key(
    opened: Opened, watch: Watch
) -> None:
    # These fall on the same place of 65,536 by CRC-32, as by any hash that everybody knows.
    computed = ["victim 32670", "victim 85714"]
    for name in computed:
        assert zlib.crc32(name.encode()) % 65536 == zlib.crc32(b"victim") % 65536

    assert list(sharing(opened(1), watch, computed)) == []


def test_who_shares_a_rate_on_one_node_shares_none_on_another(opened: Opened, watch: Watch) -> None:
    chosen = next(sharing(opened(1), watch, map(str, range(1_000_000))))

    assert list(sharing(opened(1, b"another key"), watch, [chosen])) == []


def test_the_processes_of_a_node_count_together(opened: Opened, watch: Watch) -> None:
    one, another = opened(4), opened(4)
    assert taken(one, most=3) == 3

    assert taken(another) == 1
    assert taken(one) == 0
    watch.advance(0.25)
    assert taken(one) == 1
    assert taken(another) == 0


def test_what_was_counted_before_the_machine_s_last_start_does_not_matter(
    opened: Opened, watch: Watch
) -> None:
    assert taken(opened(5)) == 5

    watch.now = 60 * S  # the clock began again

    assert taken(opened(5)) == 5


def test_a_file_that_is_not_ours_is_no_reason_to_refuse_anybody(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "rates").write_bytes(b"\xff" * 1000 + b"\x7f" * 600_000)

    assert taken(opened(5)) == 5


@settings(
    max_examples=100,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    per_second=st.floats(0.01, 50),
    pauses=st.lists(st.floats(0, 5), max_size=100),
)
def test_a_caller_who_waits_for_retry_after_is_admitted_and_nobody_exceeds_the_rate(
    opened: Opened, watch: Watch, per_second: float, pauses: list[float]
) -> None:
    watch.advance(1000)
    limit, begun, let_in = opened(per_second), watch.now, 0
    for pause in pauses:
        watch.advance(pause)
        if seconds := limit.take("one"):
            watch.advance(seconds + 1e-9)
            assert limit.take("one") == 0
        let_in += 1

    passed = (watch.now - begun) / S
    assert let_in <= (passed + 1) * per_second * (1 + 1e-6) + 1


async def test_processes_that_found_no_room_at_their_start_share_the_rate_once_there_is_some(
    watch: Watch, tmp_path: Path
) -> None:
    place = tmp_path / "not there yet" / "rates"
    with ExitStack() as stack:
        first, second = (stack.enter_context(closing(RateLimit.open(place, 1, KEY))) for _ in range(2))
        assert first.take("me") == second.take("me") == 0

        place.parent.mkdir()
        for limit in (first, second):
            await limit.memory.share_when_there_is_room()

        assert first.take("me") == 0
        assert second.take("me") > 0
        watch.advance(1)
        assert second.take("me") == 0
        assert first.take("me") > 0
