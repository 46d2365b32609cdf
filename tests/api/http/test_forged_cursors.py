"""The seal of a cursor is no secret: whatever somebody seals is refused, or is a place in the list."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segmentd.domain.instants import LAST_INSTANT
from segmentd.domain.pages import encode_cursor
from segmentd.storage.positions import read_position
from tests.support.client import Json
from tests.support.postgres import new_database
from tests.support.world import World, inhabited

LISTS: Final = {
    "segments": "segments",
    "users": "users",
    "members of A": "segments/A/users",
    "history of 1": "users/1/history",
    "audit log": "audit",
}
NOW: Final = datetime(2026, 11, 27, tzinfo=UTC)
FIRST: Final = datetime(1, 1, 1, tzinfo=UTC)
AHEAD: Final = timezone(timedelta(hours=14))
BEHIND: Final = timezone(timedelta(hours=-14))

NO_IDS: Final[Sequence[Json]] = (0, -1, 2**63, 2**64 - 1, -(2**63), 1.5, "1", None, True, b"1", [1], {})
NO_SLUGS: Final[Sequence[Json]] = ("", "a\0b", "\0", "A\n", "-a", "é", "A" * 129, 1, None, b"A", ["A"], {})
NO_TIMES: Final = (
    NOW.replace(tzinfo=None),
    "2026-11-27T00:00:00",
    FIRST.replace(tzinfo=AHEAD).isoformat(),
    LAST_INSTANT.replace(tzinfo=BEHIND).isoformat(),
    "infinity",
    "0001-01-01T00:00:00+14:00",
    0,
    1e300,
    None,
)
NO_PLACES: Final = (
    *((at, "A", 1) for at in NO_TIMES),
    *((NOW, slug, 1) for slug in NO_SLUGS),
    *((NOW, "A", row) for row in NO_IDS),
    *((), (NOW,), (NOW, "A", 1, 1), NOW, "A", 1, {}),
)
FORGED: Final = {
    "segments": NO_SLUGS,
    "users": NO_IDS,
    "members of A": NO_IDS,
    "history of 1": NO_PLACES,
    "audit log": NO_IDS,
}

# msgspec writes one with a zone in UTC, which at the ends of the calendar there is not.
instants = st.datetimes(timezones=st.none() | st.just(UTC))
written = st.datetimes(timezones=st.sampled_from([UTC, AHEAD, BEHIND])).map(datetime.isoformat)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
    | instants
    | written
    | st.sampled_from(["A", "a\0", NOW, 1, 2**63])
)
keys = (
    scalars
    | st.lists(scalars, max_size=4)
    | st.tuples(instants | written, st.text(), st.integers(-(2**63), 2**64 - 1))
)


@pytest.fixture(scope="module")
def world(
    postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("data")
    with new_database(postgres_url, template_database) as url, inhabited(url, folder) as world:
        world.set_clock(NOW)
        world.send("POST", "segments", {"slug": "A"})
        world.send("POST", "users/1/segments", {"add": ["A"]})
        yield world


@pytest.mark.parametrize(
    ("listing", "key"),
    [
        pytest.param(listing, key, id=f"{listing} {number}: {str(key)[:20]!r}")
        for listing, forged in FORGED.items()
        for number, key in enumerate(forged)
    ],
)
def test_a_cursor_with_a_key_that_no_row_has_is_refused(world: World, listing: str, key: Json) -> None:
    status, problem = world.send("GET", f"{LISTS[listing]}?cursor={encode_cursor(listing, key)}")

    assert (status, [fault["pointer"] for fault in problem["errors"]]) == (422, ["/cursor"])


@pytest.mark.parametrize(
    ("listing", "key"),
    [
        *(("segments", slug) for slug in ("0", "z" * 128)),
        *((listing, row) for listing in ("users", "members of A", "audit log") for row in (1, 2**63 - 1)),
        *(("history of 1", (at, "A", 2**63 - 1)) for at in (FIRST, NOW, LAST_INSTANT)),
    ],
)
def test_a_cursor_at_the_border_of_what_may_be_is_a_place(world: World, listing: str, key: Json) -> None:
    status, _ = world.send("GET", f"{LISTS[listing]}?cursor={encode_cursor(listing, key)}")

    assert status == 200


@given(listing=st.sampled_from([*LISTS]), key=keys)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_cursor_is_a_mistake_of_ours(world: World, listing: str, key: Json) -> None:
    status, _ = world.send("GET", f"{LISTS[listing]}?cursor={encode_cursor(listing, key)}")

    assert status in {200, 422}


@pytest.mark.parametrize("seen", [[], [-1], [9, 0], [9, 10], [9, 4, 0]])
def test_a_position_of_the_feed_that_no_snapshot_gives_is_refused(world: World, seen: Json) -> None:
    _, page = world.send("GET", "changes?after=now")
    log = read_position(page["next"]).log

    status, _ = world.send("GET", f"changes?after={encode_cursor('feed', (log, seen, None, None))}")

    assert status == 422


# What is true in the world's database, or nearly.
numbers = st.integers(-1, 2**63) | st.integers(0, 3000)
snapshots = st.lists(numbers | st.just(1), max_size=5)


@given(
    log=st.tuples(st.booleans(), st.sampled_from([0, 1, 2, 2**32]) | numbers, numbers),
    seen=snapshots,
    earlier=st.none() | snapshots,
    place=st.none() | st.tuples(st.integers(-1, 2), *[numbers | st.integers(-(2**60), 2**60)] * 3, numbers),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_position_of_the_feed_is_a_mistake_of_ours(
    world: World, log: tuple[bool, int, int], seen: Json, earlier: Json, place: Json
) -> None:
    _, page = world.send("GET", "changes?after=now")
    here = read_position(page["next"]).log.database
    is_here, timeline, offset = log
    forged = encode_cursor("feed", ((here if is_here else 1, timeline, offset), seen, earlier, place))

    status, _ = world.send("GET", f"changes?after={forged}")

    assert status in {200, 410, 422}
