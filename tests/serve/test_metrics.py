"""The figures of a node: the same from each of its processes, whatever became of the others."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.processes import TLS, Serving, eventually, serving
from tests.support.scraping import REQUESTS, Scrape

CHANGES = "segmentd_membership_changes_total"
FOLDER = Path("data/node-1/metrics", verify=TLS)
COUNTERS, GAUGES, TALLIES = "counter_*.db", "gauge_livesum_*.db", "tallies_*"


@contextmanager
def alone(service: Serving, worker: int) -> Iterator[None]:
    """No other HTTP process answers meanwhile."""
    others = service.workers() - {worker}
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)


def scrape(service: Serving) -> Scrape:
    answer = httpx.get(f"{service.url}/metrics", timeout=60, verify=TLS)
    assert answer.status_code == 200
    return Scrape(answer.text)


def added(service: Serving) -> float:
    return scrape(service).of_each(CHANGES, "outcome")["added"]


def add(service: Serving, *user_ids: int) -> None:
    with service.client() as client:
        client.post("segments", json={"slug": "A"})
        for user_id in user_ids:
            assert client.post(f"users/{user_id}/segments", json={"add": ["A"]}).status_code == 200


def measuring(cwd: Path, files: str) -> set[int]:
    """The processes that have such a file in the node's folder."""
    return {int(path.stem.rpartition("_")[2]) for path in (cwd / FOLDER).glob(files)}


def measured(service: Serving) -> set[int]:
    """The processes that measure."""
    return {pid for pid, command in service.family().items() if "_worker" in command}


def test_each_http_process_shows_what_all_of_them_counted_also_after_one_was_killed(
    database_url: str, tmp_path: Path
) -> None:
    with serving("--database-url", database_url, cwd=tmp_path, workers=2) as service:
        service.ready()
        one, two = service.workers()
        with alone(service, one):
            add(service, *range(1, 4))
        with alone(service, two):
            add(service, *range(4, 9))
        for worker in (one, two):
            with alone(service, worker):
                assert added(service) == 8

        os.kill(one, signal.SIGKILL)

        eventually(lambda: len(service.workers() - {one}) == 2)
        [three] = service.workers() - {one, two}
        for worker in (two, three):
            with alone(service, worker):
                assert added(service) == 8
        with alone(service, three):
            add(service, 9)
        assert added(service) == 9
        assert service.stop() == (0, "")


def test_the_node_worker_s_figures_are_among_them(database_url: str, tmp_path: Path) -> None:
    with serving("--database-url", database_url, cwd=tmp_path) as service:
        service.ready()
        add(service, 1, 2, 3)

        # There is no replica at first, and its builder counts it after others can see it.
        eventually(lambda: "segmentd_replica_users" in scrape(service))
        eventually(lambda: scrape(service)("segmentd_replica_users") == 3)
        eventually(lambda: scrape(service).of_each("segmentd_replica_rounds_total", "outcome")["done"] >= 1)

        # On a busy machine the database may answer a scrape too late.
        eventually(lambda: scrape(service)("segmentd_database_up") == 1)

        found = scrape(service)
        assert found("segmentd_replica_rebuilds_total") == 1
        assert found("segmentd_replica_age_seconds") >= 0
        assert service.stop() == (0, "")


def test_a_process_that_was_killed_has_no_connections_any_more(database_url: str, tmp_path: Path) -> None:
    options = ("--database-url", database_url, "--pool-size", "1")

    with serving(*options, cwd=tmp_path, workers=2) as service:
        service.ready()
        [victim, _] = service.workers()

        def all_have_one() -> bool:
            connections = scrape(service).of_each("segmentd_database_pool_connections", "state")
            return measuring(tmp_path, GAUGES) == measured(service) and sum(connections.values()) == 3

        eventually(all_have_one)

        os.kill(victim, signal.SIGKILL)

        eventually(lambda: victim not in measuring(tmp_path, GAUGES) and len(service.workers()) == 2)
        eventually(all_have_one)
        assert victim in measuring(tmp_path, COUNTERS)
        assert service.stop() == (0, "")


def test_a_new_start_counts_from_nothing(database_url: str, tmp_path: Path) -> None:
    with serving("--database-url", database_url, cwd=tmp_path) as service:
        service.ready()
        add(service, 1)
        assert added(service) == 1
        assert service.stop() == (0, "")

    with serving("--database-url", database_url, cwd=tmp_path) as service:
        service.ready()
        assert added(service) == 0
        for files in (COUNTERS, GAUGES, TALLIES):
            assert measuring(tmp_path, files) == measured(service)
        assert service.stop() == (0, "")


def test_a_node_measures_in_its_own_folder_whatever_the_environment_says(
    database_url: str, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    env = {"PROMETHEUS_MULTIPROC_DIR": str(foreign), "prometheus_multiproc_dir": str(foreign)}
    with serving("--database-url", database_url, cwd=tmp_path, env=env) as service:
        service.ready()
        add(service, 1)
        assert added(service) == 1
        assert service.stop() == (0, "")
    assert [*foreign.iterdir()] == []


def test_a_node_that_shall_not_measure_does_not(database_url: str, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    env = {"PROMETHEUS_MULTIPROC_DIR": str(foreign)}
    options = ("--database-url", database_url, "--no-metrics")
    with serving(*options, cwd=tmp_path, env=env) as service:
        service.ready()
        add(service, 1)
        answer = httpx.get(f"{service.url}/metrics", verify=TLS)
        assert answer.status_code == 404
        assert answer.json()["type"] == "/problems/not-found"
        assert service.stop() == (0, "")
    assert [*foreign.iterdir()] == [*(tmp_path / FOLDER).iterdir()] == []


def test_a_hot_read_answered_on_the_spot_is_counted_like_all_others(
    database_url: str, tmp_path: Path
) -> None:
    route = {"method": "GET", "route": "/api/v1/users/{user_id}/segments", "status": "200"}
    with serving("--database-url", database_url, cwd=tmp_path, workers=2) as service:
        service.ready()

        def counted() -> float:
            return scrape(service)(f"{REQUESTS}_count", **route)

        eventually(lambda: "segmentd_replica_age_seconds" in scrape(service))
        with service.client() as client:
            for user_id in range(1, 101):
                assert client.get(f"users/{user_id}/segments").status_code == 200
            # Another process's are added up within a moment.
            eventually(lambda: counted() == 100)
            assert client.get("users/1/segments?detail=true").status_code == 200
            eventually(lambda: counted() == 101)
            # The scrape itself; the one before may not have come to its end in the other process.
            eventually(lambda: scrape(service)("segmentd_http_requests_in_progress") == 1)
