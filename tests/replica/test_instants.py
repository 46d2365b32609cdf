"""Hot reads are right at their own instant: no earlier result is used after its time."""

import json
from datetime import timedelta

import numpy as np

from segmentd.domain.bucketing import buckets
from segmentd.domain.instants import rfc3339
from segmentd.replica.follower import Follower
from segmentd.replica.status import ReplicaStatus
from tests.support.client import Api
from tests.support.clock import Clock
from tests.support.workers import Worker


def microseconds(text: str) -> int:
    """Since 1970."""
    whole, fraction = np.datetime64(text.removesuffix("Z"), "us").astype(int), 0
    return int(whole) + fraction


class Still:
    """Stops the node's clock: sets the word of the replica status so that `now` is near an instant."""

    def __init__(self, status: ReplicaStatus, worker: Worker) -> None:
        self._status = status
        self._worker = worker

    async def segments_around(self, instant: int) -> tuple[list[str], list[str]]:
        """What hot reads answer a minute before an instant, and right after it."""
        self._status.clock_offset += instant - self._status.now() - 60_000_000
        before = await self._worker.replicated(1)
        self._status.clock_offset += instant - self._status.now()
        after = await self._worker.replicated(1)
        return before[0], after[0]


async def test_a_term_ends_at_its_very_instant_with_no_round_in_between(
    api: Api, follower: Follower, worker: Worker, status: ReplicaStatus, clock: Clock
) -> None:
    until = clock.now() + timedelta(days=10)
    await api.create("A")
    await api.create("B")
    await api.add(1, {"slug": "A", "until": rfc3339(until)}, "B")
    await follower.round()

    before, after = await Still(status, worker).segments_around(microseconds(rfc3339(until)))

    assert (before, after) == (["A", "B"], ["B"])


async def test_when_a_term_ends_the_percentage_decides_again(
    api: Api, follower: Follower, worker: Worker, status: ReplicaStatus, clock: Clock
) -> None:
    until = clock.now() + timedelta(days=10)
    for slug, percent in {"NONE": 0, "ALL": 100}.items():
        await api.create(slug, percent=percent)
        await api.add(1, {"slug": slug, "until": rfc3339(until)})
    await follower.round()

    before, after = await Still(status, worker).segments_around(microseconds(rfc3339(until)))

    assert (before, after) == (["ALL", "NONE"], ["ALL"])


async def test_the_node_goes_by_the_clock_of_the_database(
    api: Api, follower: Follower, worker: Worker, status: ReplicaStatus, clock: Clock
) -> None:
    await api.create("A")
    await api.add(1, {"slug": "A", "ttl_seconds": 3600})
    await follower.round()
    assert await worker.get(1) == ["A"]

    clock.advance(seconds=3601)
    await follower.round()

    assert await worker.get(1) == []
    assert abs(status.now() - microseconds(rfc3339(clock.now()))) < 5_000_000


async def test_a_round_shows_what_became_of_segments_to_those_who_read_them_before(
    api: Api, follower: Follower, worker: Worker
) -> None:
    half = await api.create("HALF", percent=50)
    await api.create("GONE")
    [bucket] = buckets(np.array([1], np.int64), np.array([int(half["salt"])], np.int64)).tolist()
    covering = (bucket + 1) * 100 / 2**32
    await api.add(1, "GONE")
    await follower.round()
    seen = [(await worker.get(1), await worker.get(1))]

    for percent in (100, 0, min(100, round(covering + 0.0001, 4)), None):
        await api.change_segment("HALF", percent=percent)
        await follower.round()
        seen.append((await worker.get(1), await worker.get(1)))
    await api.delete("segments/GONE")
    await follower.round()
    seen.append((await worker.get(1), await worker.get(1)))
    await api.create("GONE")
    await follower.round()
    seen.append((await worker.get(1), await worker.get(1)))

    at_first = ["GONE", "HALF"] if bucket < 2**31 else ["GONE"]
    assert [first for first, _ in seen] == [
        at_first, ["GONE", "HALF"], ["GONE"], ["GONE", "HALF"], ["GONE"], [], [],
    ]  # fmt: skip
    assert all(first == second for first, second in seen)


async def test_a_renamed_segment_takes_its_place_among_the_others(
    api: Api, follower: Follower, worker: Worker
) -> None:
    for slug in ("b", "B", "a-1", "a.1", "a_1", "a1", "A"):
        if slug != "B":  # which differs from b in case alone
            await api.create(slug if slug != "A" else "Z", percent=100)
    await follower.round()
    assert await worker.get(5) == sorted(["b", "a-1", "a.1", "a_1", "a1", "Z"])

    await api.change_segment("Z", slug="zz")
    await follower.round()

    assert await worker.get(5) == sorted(["b", "a-1", "a.1", "a_1", "a1", "zz"])
    lookup = await worker.send("POST", "lookup", {"user_ids": [5, 5]})
    assert [user["segments"] for user in json.loads(lookup.body)["users"]] == [await worker.get(5)] * 2
