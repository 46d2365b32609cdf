"""Local evaluation: the same answers as the service, computed or kept in the client's process."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmentd_client import AsyncClient, Client, Retries, UserChange, errors
from segmentd_client.bucketing import Rollouts, bucket, fold, salted, threshold
from segmentd_client.jobs import ChangesPage, MembershipChange, SegmentChange
from segmentd_client.local_copy import LocalCopy
from segmentd_client.models import Lookup, Segment, UserSegments
from segmentd_client.synchronous.local import Local
from segmentd_client.vectorized import Vectorized
from tests.support.office import until
from tests.support.processes import eventually

VECTORS: Any = json.loads((Path(__file__).parents[2] / "vectors/bucketing.json").read_text("utf-8"))
NOW = datetime.now(UTC)


def test_every_bucket_and_threshold_of_the_vectors_is_reproduced() -> None:
    for vector in VECTORS["buckets"]:
        assert bucket(int(vector["user_id"]), int(vector["salt"])) == vector["bucket"], vector
    for vector in VECTORS["thresholds"]:
        assert threshold(Decimal(vector["percent"])) == vector["threshold"]
        assert threshold(float(vector["percent"])) == vector["threshold"]


@given(st.integers(0, 1_000_000))
def test_a_threshold_of_a_float_is_exact(parts: int) -> None:
    assert threshold(parts / 10_000) == parts * 2**32 // 1_000_000


def without_numpy(segments: Sequence[Segment]) -> Rollouts:
    """The percentages as they are computed where NumPy is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "numpy", None)
        patch.delitem(sys.modules, "segmentd_client.vectorized")
        rollouts = Rollouts(segments)
    assert rollouts._vectorized is None  # noqa: SLF001 - or the two would be one
    return rollouts


INT64 = st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=25)  # of up to 40 percentages and 40 users
@given(st.lists(st.tuples(INT64, st.integers(0, 1_000_000)), max_size=40), st.lists(INT64, max_size=40))
def test_numpy_covers_the_same_users_as_pure_python(
    percentages: list[tuple[int, int]], user_ids: list[int]
) -> None:
    segments = [
        Segment(f"S{number}", "", share / 10_000, str(salt), NOW)
        for number, (salt, share) in enumerate(percentages)
    ]
    ids = [*user_ids, *(int(vector["user_id"]) for vector in VECTORS["buckets"])]
    with_numpy, without = Rollouts(segments), without_numpy(segments)
    expected = {user_id: without.of(user_id) for user_id in ids}

    assert with_numpy.of_many(ids) == expected
    assert {user_id: with_numpy.of(user_id) for user_id in ids} == expected
    for each in segments[:3]:
        assert with_numpy.covered(ids, each.slug) == [
            user_id for user_id in ids if each.slug in expected[user_id]
        ]


def test_every_bucket_of_the_vectors_is_that_of_numpy() -> None:
    for vector in VECTORS["buckets"]:
        parts, bucket = salted(int(vector["salt"])), vector["bucket"]
        covered = Vectorized([parts, parts], [bucket, bucket + 1]).of_one(fold(int(vector["user_id"])))
        assert covered == [1], vector


# The copy, with moments in seconds

ADDED = MembershipChange("p2", 1, "A", "add", NOW, "request", "a", None, None, None)
PERCENT = SegmentChange("p3", "A", "percent", NOW, "a", None, 5, None)


def answer(*slugs: str, age_s: int = 0) -> Lookup:
    return Lookup([UserSegments(1, slugs)], age_s)


def copied(max_age_s: float = 60, most_users: int = 10) -> LocalCopy:
    copy = LocalCopy(max_age_s, most_users)
    copy.begin("p1", (), now=100, asked_at=100)
    return copy


def test_an_answer_counts_as_level_only_if_it_is_newer_than_every_known_change() -> None:
    copy = copied()
    assert [*copy.batches([1, 1], 101)] == [[1]]
    copy.answer(answer(), 101, 101.1)
    assert [*copy.batches([1], 101.2)] == [], "not again at once"
    assert [*copy.batches([1], 102.2)] == [[1]], "it may be older than the beginning"
    copy.answer(answer(age_s=1), 103.2, 103.3)
    assert [*copy.batches([1], 105)] == []

    copy.take(ChangesPage([ADDED], "p2"), now=106, asked_at=105)
    assert [*copy.batches([1], 106)] == [[1]]
    copy.answer(answer("A"), 106.5, 106.6)
    assert [*copy.batches([1], 107.6)] == [[1]], "its age is in whole seconds, so it may be nearly one older"
    copy.answer(answer("A", age_s=3), 107, 107)
    assert copy.segments(1, 107) == ("A",)
    assert [*copy.batches([1], 108.5)] == [[1]], "the answer may be older than the change"
    copy.answer(answer("A"), 108.5, 108.6)
    assert [*copy.batches([1], 120)] == []

    copy.take(ChangesPage([PERCENT], "p3"), now=121, asked_at=121)
    assert [*copy.batches([1], 121)] == [[1]], "a percentage may concern everybody"
    assert copy.position == "p3"


def test_a_copy_says_its_age_and_is_not_used_beyond_its_bound() -> None:
    copy = copied(max_age_s=60)
    copy.answer(answer("A"), 103, 103)
    assert copy.age_s(160) == 60
    assert copy.segments(1, 160) == ("A",)
    with pytest.raises(errors.TooStale):
        copy.segments(1, 161)
    copy.take(ChangesPage([ADDED], "p2"), now=161, asked_at=161)
    copy.take(ChangesPage([], "p2"), now=230, asked_at=230)
    with pytest.raises(errors.TooStale, match="user 1 changed more than 60 s ago"):
        copy.segments(1, 230)


def test_a_copy_keeps_no_more_users_than_it_may() -> None:
    copy = copied(most_users=2)
    copy.answer(Lookup([UserSegments(each, ()) for each in (1, 2, 3)]), 101, 101)
    assert [copy.segments(each, 101) for each in (1, 2, 3)] == [None, (), ()]


def test_users_are_asked_for_in_batches_that_the_service_takes() -> None:
    assert [len(batch) for batch in copied().batches(range(2500), 100)] == [1000, 1000, 500]


# Against the service


class Switch(httpx2.BaseTransport):
    """The network, which a test cuts."""

    def __init__(self) -> None:
        self._network = httpx2.HTTPTransport()
        self.is_cut = False
        self.lookups = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.is_cut:
            raise httpx2.ConnectError("cut")
        self.lookups += request.url.path.endswith("/lookup")
        return self._network.handle_request(request)

    def close(self) -> None:
        self._network.close()


@pytest.fixture
def network() -> Switch:
    return Switch()


@pytest.fixture
def local(service_url: str, network: Switch) -> Iterator[Local]:
    client = Client(service_url, transport=network, retries=Retries(most=0))
    with client, client.local() as local:
        yield local


def test_percentages_are_computed_as_the_service_does(client: Client, local: Local) -> None:
    slugs = [
        client.segments.create(f"LOCAL-{share}", percent=share).slug for share in (0, 7.3331, 50, 99.9999)
    ]
    ids = [9_000_000 + 7 * number for number in range(200)] + [2**63 - 1, 2**40 + 5]

    def of_these(segments: Sequence[str]) -> list[str]:
        return [slug for slug in segments if slug in slugs]

    def is_level() -> bool:
        asked = [of_these(found.segments) for found in client.users.lookup(ids).users]
        computed = [of_these(local.by_percentage(user_id)) for user_id in ids]
        at_once = [of_these(slugs) for slugs in local.lookup_by_percentage(ids).values()]
        return computed == at_once == asked and "LOCAL-99.9999" in asked[0]

    eventually(is_level)
    assert local.covers(ids[0], "LOCAL-99.9999")
    assert not local.covers(ids[0], "LOCAL-0")
    assert local.covered(ids, "LOCAL-50") == [each for each in ids if local.covers(each, "LOCAL-50")]


def test_a_copy_is_kept_level_by_the_feed_and_asks_once(
    client: Client, local: Local, network: Switch
) -> None:
    client.segments.create("LEVEL")
    ids = range(9_100_000, 9_100_005)
    eventually(lambda: "LEVEL" not in local.segments(ids[0]))
    client.users.change_many([UserChange(each, add=["LEVEL"]) for each in ids])

    eventually(lambda: all("LEVEL" in slugs for slugs in local.lookup(ids).values()))
    client.users.change(ids[0], remove=["LEVEL"])
    eventually(lambda: "LEVEL" not in local.segments(ids[0]))

    eventually(asks_nobody(local, network, ids))
    assert local.age_s < 60


def asks_nobody(local: Local, network: Switch, ids: range) -> Callable[[], bool]:
    def condition() -> bool:
        before = network.lookups
        local.lookup(ids)
        return network.lookups == before

    return condition


def test_a_copy_survives_the_service_s_absence(client: Client, local: Local, network: Switch) -> None:
    client.segments.create("AWAY")
    client.users.change(9200, add=["AWAY"])
    eventually(lambda: "AWAY" in local.segments(9200))

    network.is_cut = True
    assert "AWAY" in local.segments(9200)
    assert local.by_percentage(9201) is not None
    with pytest.raises(errors.NotSent):
        local.segments(9202)

    client.users.change(9200, remove=["AWAY"])
    network.is_cut = False
    eventually(lambda: "AWAY" not in local.segments(9200))


async def test_the_asynchronous_copy_does_the_same(client: Client, service_url: str) -> None:
    client.segments.create("ASYNC-LOCAL", percent=100)
    async with AsyncClient(service_url) as asynchronous, asynchronous.local() as local:
        assert local.covers(9300, "ASYNC-LOCAL")
        assert "ASYNC-LOCAL" in local.lookup_by_percentage([9300])[9300]

        async def is_in() -> bool:
            return "ASYNC-LOCAL" in await local.segments(9300)

        async def is_out() -> bool:
            return not await is_in()

        async def is_not_covered() -> bool:
            return not local.covered([9300], "ASYNC-LOCAL")

        await until(is_in)
        await asynchronous.users.change(9300, remove=["ASYNC-LOCAL"])
        await until(is_out)
        await asynchronous.segments.update("ASYNC-LOCAL", percent=None)
        await until(is_not_covered)
        assert 0 <= local.age_s < 60
