"""Segments as flags of OpenFeature: the same bytes from the hot path, the framework and the database."""

import json
from typing import Final

import pytest

from segmentd.domain.identifiers import INT64_MAX
from tests.api.http.ofrep.conftest import FLAGS, PERCENTS, USERS, Evaluating, context
from tests.support.asgi import JSON
from tests.support.client import Api
from tests.support.clock import Clock

BAD_KEYS: Final = (
    "NOBODY",
    "plain",
    "DELETED",
    "a b",
    "%00",
    "%2e%2e",
    "a%2Fb",
    "..%2F",
    "%F0%9F%98%80",
    "-",
)


@pytest.mark.parametrize("user_id", [*USERS, 999, 4_000_000_000])
def test_flags_alone_and_together_are_what_the_user_s_segments_say(
    evaluating: Evaluating, user_id: int
) -> None:
    body = context(str(user_id), email="a@b.test", nested={"deep": [1, 2.5, None]})
    detail = evaluating.send("GET", f"users/{user_id}/segments?detail=true")["segments"]
    sources = {membership["slug"]: membership["source"] for membership in detail}
    every = [segment["slug"] for segment in evaluating.send("GET", "segments")["segments"]]

    answer, own = evaluating.evaluate("", body)

    assert own
    assert answer.headers["age"] == "0"
    flags = {flag["key"]: flag for flag in json.loads(answer.body)["flags"]}
    assert [*flags] == every
    for slug, flag in flags.items():
        explained = evaluating.send("GET", f"users/{user_id}/segments/{slug}")
        if slug in sources:
            source = sources[slug]
        elif explained["because"] == "excluded":
            source = "explicit"
        else:
            source = "none" if explained["percent"] is None else "rollout"
        reason = {"explicit": "TARGETING_MATCH", "rollout": "SPLIT", "none": "STATIC"}[source]
        assert flag == {
            "key": slug,
            "value": slug in sources,
            "variant": "on" if slug in sources else "off",
            "reason": reason,
            "metadata": {"source": source},
        }
        one, own = evaluating.evaluate(f"/{slug}", body)
        assert own
        assert json.loads(one.body) == flag
        assert "etag" not in one.headers


def test_there_is_a_user_for_every_kind_of_decision(evaluating: Evaluating) -> None:
    seen = set()
    for user_id in USERS:
        answer, _ = evaluating.evaluate("", context(str(user_id)))
        seen |= {(flag["value"], flag["reason"]) for flag in json.loads(answer.body)["flags"]}

    assert seen == {(value, reason) for value in (True, False) for reason in ("TARGETING_MATCH", "SPLIT")} | {
        (False, "STATIC")
    }


@pytest.mark.parametrize("key", BAD_KEYS)
def test_what_no_living_segment_is_called_is_no_flag(evaluating: Evaluating, key: str) -> None:
    answer, _ = evaluating.evaluate(f"/{key}", context("1"))

    body = json.loads(answer.body)
    assert (answer.status, body["errorCode"]) == (404, "FLAG_NOT_FOUND")
    assert body.keys() == {"key", "errorCode", "errorDetails"}


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "application/json;charset=UTF-8", "application/json"]
)
def test_json_may_say_that_it_is_utf_8(evaluating: Evaluating, content_type: str) -> None:
    _, own = evaluating.evaluate("", context("1"), [("content-type", content_type)])

    assert own


# Entity tags


def etag_of(evaluating: Evaluating, user_id: int) -> str:
    answer, _ = evaluating.evaluate("", context(str(user_id)))
    return answer.headers["etag"]


@pytest.mark.parametrize("form", ["{}", "W/{}", 'W/"x", {}', "*", "bare", '"no", bare'])
def test_flags_that_the_client_knows_are_not_sent_again(evaluating: Evaluating, form: str) -> None:
    etag = etag_of(evaluating, 1)
    known = form.replace("bare", etag.strip('"')).format(etag)

    answer, own = evaluating.evaluate("", context("1"), [*JSON, ("if-none-match", known)])

    assert own
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["etag"] == etag
    assert "content-type" not in answer.headers


@pytest.mark.parametrize("other", ["", "x", '"x"', 'W/""', ",", '"'])
def test_another_entity_tag_gets_the_flags(evaluating: Evaluating, other: str) -> None:
    answer, _ = evaluating.evaluate("", context("1"), [*JSON, ("if-none-match", other)])

    assert answer.status == 200


def test_an_entity_tag_is_strong_and_one_with_its_bytes(evaluating: Evaluating) -> None:
    bodies: dict[str, bytes] = {}
    for user_id in USERS:
        answer, _ = evaluating.evaluate("", context(str(user_id)))
        assert bodies.setdefault(answer.headers["etag"], answer.body) == answer.body
    assert all(etag.startswith('"') for etag in bodies)
    assert len({*bodies.values()}) == len(bodies) > 3


async def test_an_entity_tag_changes_with_the_flags_and_with_nothing_else(api: Api) -> None:
    async def etag(user_id: int = 1) -> str:
        answer = await api.post(FLAGS, content=context(str(user_id)), headers=dict(JSON))
        assert answer.status_code == 200
        found: str = answer.headers["etag"]
        return found

    await api.create("A", percent=100)
    await api.create("B")
    latest = await etag()
    for _ in range(2):  # what changes nothing for this user
        await api.change_segment("A", description="another")
        await api.change_segment("A", percent=100)
        await api.add(2, "B")
        await api.remove(1, "B")
        assert await etag() == latest
    seen = [latest]
    await api.add(1, "B")
    seen.append(await etag())
    await api.add(1, "A")  # only the decision is another one
    seen.append(await etag())
    await api.create("C")
    seen.append(await etag())
    await api.change_segment("C", slug="D")
    seen.append(await etag())
    await api.change_segment("D", percent=0)
    seen.append(await etag())
    await api.delete("segments/D")
    assert await etag() == seen[2]

    assert len({*seen}) == len(seen)


async def test_the_end_of_a_term_changes_the_entity_tag_at_that_instant(api: Api, clock: Clock) -> None:
    await api.create("A")
    without = (await api.post(FLAGS, content=context("1"), headers=dict(JSON))).headers["etag"]
    await api.add(1, {"slug": "A", "ttl_seconds": 60})

    within = (await api.post(FLAGS, content=context("1"), headers=dict(JSON))).headers["etag"]
    clock.advance(seconds=61)
    ended = (await api.post(FLAGS, content=context("1"), headers=dict(JSON))).headers["etag"]

    assert within != without == ended


def test_a_flag_of_the_percentage_0_is_split_and_off(evaluating: Evaluating) -> None:
    assert PERCENTS["NONE"] == 0
    answer, _ = evaluating.evaluate("/NONE", context("999"))

    assert json.loads(answer.body) == {
        "key": "NONE",
        "value": False,
        "reason": "SPLIT",
        "variant": "off",
        "metadata": {"source": "rollout"},
    }


def test_the_largest_id_is_a_user_and_no_number_loses_digits(evaluating: Evaluating) -> None:
    answer, own = evaluating.evaluate("/PLAIN", context(str(INT64_MAX)))

    assert own
    assert json.loads(answer.body)["value"] is True
