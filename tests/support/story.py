"""A sequence of calls that uses everything that a real `segmentd serve` does with its database."""

import re
from pathlib import Path
from typing import Final

import httpx

from tests.support.client import Json
from tests.support.processes import TLS, eventually, serving

TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
SLUGS: Final = ("b", "B", "IZMIR", "a.1", "Zero", "half")

ROUNDS: Final = re.compile(r"^segmentd_replica_age_seconds\S* \d", re.MULTILINE)


def story(database_url: str, folder: Path) -> list[Json]:
    """The answers at the end, without times and ids that differ from run to run."""
    folder.mkdir()
    with serving("--database-url", database_url, cwd=folder) as service:
        service.ready()
        with service.client() as client:
            eventually(lambda: ROUNDS.search(httpx.get(f"{service.url}/metrics", verify=TLS).text))
            answered = [*_changes(client), *_questions(client), _report(client, service.url)]
        assert service.stop() == (0, ""), service.errors
        assert '"level": "error"' not in service.errors, service.errors
    return answered


def _changes(client: httpx.Client) -> list[Json]:
    created = [
        _ok(client.post("segments", json={"slug": slug, "description": "a\\b ' ü", "salt": str(number)}))
        for number, slug in enumerate(SLUGS)
        if slug != "b"
    ]
    term = {"slug": "B", "ttl_seconds": 100_000}
    return [
        *created,
        _ok(client.patch("segments/half", json={"percent": 50})),
        client.post("segments", json={"slug": "izmir"}).status_code,
        *(
            _ok(
                client.post(
                    f"users/{user}/segments",
                    json={"add": ["IZMIR", term, "Zero", "a.1", "half"], "reason": "ü\\"},
                )
            )
            for user in range(1, 5)
        ),
        _ok(client.post("users/1/segments", json={"remove": ["Zero", "half"]})),
        client.post("users/1/segments", json={"add": ["izmir", "Nowhere", "b"]}).json()["segments"],
        _ok(client.patch("segments/a.1", json={"slug": "A.2"})),
        client.delete("segments/B").status_code,
        client.delete("users/4").status_code,
        client.delete("users/3", params={"erase": "true"}).status_code,
    ]


def _questions(client: httpx.Client) -> list[Json]:
    hot = client.get("users/1/segments")
    assert "Age" in hot.headers
    now = client.get("users/1/history").json()["events"][-1]["at"]
    paths = [
        "segments", "segments/IZMIR", "segments/IZMIR/users", "segments/half/users", "users", "users/1",
        f"segments/half/users?at={now}", "segments/half/counts", f"segments/IZMIR/counts?at={now}",
        "users/2/segments?detail=true", f"users/2/segments?at={now}", f"users/1/segments?at={now}",
        "users/1/segments/IZMIR",
        "users/1/segments/half", "users/1/history", "users/2/history", "users/4/history", "audit",
    ]  # fmt: skip
    lookup = _ok(client.post("lookup", json={"user_ids": [1, 2, 3, 4, 5]}))
    preview = _ok(client.post("segments/half/preview", json={"percent": 75}))
    return [_timeless(hot.json()), lookup, preview, *(_ok(client.get(path)) for path in paths)]


def _report(client: httpx.Client, url: str) -> Json:
    """Made by the job queue."""
    period = {"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T00:00:00Z"}
    ordered = client.post("reports", json=period, headers={"Prefer": "wait=50"})
    assert ordered.json()["status"] == "done", ordered.text
    file = httpx.get(httpx.URL(url).join(ordered.json()["url"]), verify=TLS)
    return sorted(TIME.sub("TIME", file.text).splitlines())


def _ok(answer: httpx.Response) -> Json:
    assert answer.is_success, answer.text
    return _timeless(answer.json())


def _timeless(answered: Json) -> Json:
    match answered:
        case dict():
            return {
                key: _timeless(value) for key, value in answered.items() if key not in {"id", "request_id"}
            }
        case list():
            return [_timeless(value) for value in answered]
        case str():
            return TIME.sub("TIME", answered)
        case _:
            return answered
