"""The disk under the data directory runs full while a node serves: it kills nobody, and hot reads go on."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.support.disks import small_disk
from tests.support.processes import PATIENCE_S, TLS, Serving, eventually, serving

SIZE: Final = "48m"
# So many kinds of answers that the files of figures have to grow.
MANY_KINDS: Final = [
    *("segments", "segments/A", "segments/NO", "segments/A/users", "segments/NO/users", "segments?limit=x"),
    *(
        "users",
        "users/1",
        "users/99",
        "users/x",
        "users/1/history",
        "users/1/segments/A",
        "users/1/segments/NO",
    ),
    *(
        "users/1/segments?detail=true",
        "users/1/segments?at=x",
        "reports/x",
        "audit",
        "audit?limit=x",
        "nowhere",
    ),
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of this test alone."""
    with small_disk(tmp_path / "disk", SIZE) as disk:
        yield disk


def fill(disk: Path) -> Path:
    """A file that takes all the room that there is."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def ask(service: Serving, method: str, path: str, **body: object) -> httpx.Response:
    """On a connection of its own, so by any of the workers."""
    url = f"{service.url}/api/v1/{path}"
    return httpx.request(method, url, json=body if method != "GET" else None, timeout=PATIENCE_S, verify=TLS)


def reads(service: Serving, user_id: int = 1) -> list[str]:
    answer = ask(service, "GET", f"users/{user_id}/segments")
    assert answer.status_code == 200, answer.text
    found: list[str] = answer.json()["segments"]
    return found


def figure(service: Serving, name: str) -> float | None:
    """A figure without labels; None where the page has none."""
    page = httpx.get(f"{service.url}/metrics", timeout=PATIENCE_S, verify=TLS).text
    lines = [line.split() for line in page.splitlines()]
    return next((float(line[1]) for line in lines if line and line[0] == name), None)


def done(service: Serving, user_ids: range, slug: str = "A") -> None:
    for user_id in user_ids:
        assert ask(service, "POST", f"users/{user_id}/segments", add=[slug]).status_code == 200


def test_a_full_disk_kills_nobody_and_all_heals_when_there_is_room(
    database_url: str, tmp_path: Path, disk: Path
) -> None:
    env = {
        "SEGMENTD_DATABASE_URL": database_url,
        "SEGMENTD_DATA_DIR": str(disk / "data"),
        "SEGMENTD_RATE_LIMIT": "1000000",
    }
    with serving(cwd=tmp_path, workers=2, env=env) as service:
        service.ready()
        assert ask(service, "POST", "segments", slug="A").status_code == 201
        done(service, range(1, 20))
        eventually(lambda: figure(service, "segmentd_replica_users") == 19)
        family = service.family().keys()
        filler = fill(disk)

        done(service, range(20, 60))
        for path in MANY_KINDS * 2:
            ask(service, "GET", path)
            ask(service, "POST", path, nothing=1)
            ask(service, "PATCH", path, nothing=1)
        for user_id in range(1, 60):
            assert reads(service, user_id) == ["A"]
        assert service.family().keys() == family
        assert "process died" not in service.errors

        # Who starts meanwhile finds no room for what is its own.
        victim = min(service.workers())
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(service.workers() - {victim}) == 2)
        for user_id in range(1, 60):
            assert reads(service, user_id) == ["A"]
        family = service.family().keys()

        filler.unlink()

        done(service, range(60, 80))
        eventually(lambda: figure(service, "segmentd_replica_users") == 79)
        eventually(lambda: (figure(service, "segmentd_replica_age_seconds") or 99) < 5)
        assert all(reads(service, user_id) == ["A"] for user_id in range(1, 80))
        assert service.family().keys() == family
        assert service.errors.count("process died") == 1
        assert service.stop() == (0, "")
        assert "Traceback" not in service.errors


def test_a_node_that_starts_on_a_full_disk_uses_its_replica_once_there_is_room(
    database_url: str, tmp_path: Path, disk: Path
) -> None:
    env = {"SEGMENTD_DATABASE_URL": database_url, "SEGMENTD_DATA_DIR": str(disk / "data")}
    filler = fill(disk)
    with serving(cwd=tmp_path, workers=2, env=env) as service:
        service.ready()
        assert ask(service, "POST", "segments", slug="A").status_code == 201
        done(service, range(1, 5))
        assert reads(service) == ["A"]
        page = httpx.get(f"{service.url}/metrics", timeout=PATIENCE_S, verify=TLS)
        assert page.status_code == 200, page.text

        filler.unlink()

        def every_process_has_a_replica() -> bool:
            return all(figure(service, "segmentd_replica_users") == 4 for _ in range(8))

        eventually(every_process_has_a_replica)
        done(service, range(5, 30))
        assert all(reads(service, user_id) == ["A"] for user_id in range(1, 30))
        assert service.stop() == (0, "")
        assert "Traceback" not in service.errors
