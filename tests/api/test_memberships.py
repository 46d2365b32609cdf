from tests.client import Api
from tests.clock import Clock


async def test_a_change_adds_and_removes_in_one_request(api: Api) -> None:
    await api.create("A")
    await api.create("B")
    await api.create("C")
    await api.add(1000, "A", "B")

    changed = await api.change(1000, add=["C"], remove=["A"])

    assert changed == {
        "user_id": 1000,
        "segments": ["B", "C"],
        "added": ["C"],
        "removed": ["A"],
        "updated": [],
        "unchanged": [],
    }
    assert await api.segments(1000) == ["B", "C"]


async def test_a_renewed_term_is_not_cut_short_by_the_earlier_one(api: Api, clock: Clock) -> None:
    await api.create("DISCOUNT")
    await api.add(1000, {"slug": "DISCOUNT", "ttl_seconds": 60})
    await api.add(1000, {"slug": "DISCOUNT", "ttl_seconds": 600})

    clock.advance(seconds=61)

    assert await api.segments(1000) == ["DISCOUNT"]
    [event] = await api.history(1000)
    assert (event["segment"], event["operation"]) == ("DISCOUNT", "add")
