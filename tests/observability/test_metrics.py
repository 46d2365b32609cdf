"""What is measured, and how it is shown, by one process and by several."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from segmentd.config import Settings
from segmentd.observability import FOLDER_VARIABLE
from segmentd.observability.metrics import Metrics, Refusal
from segmentd.observability.tally import BUCKETS_S, Tallies
from segmentd.replica.kernel import BEST
from segmentd.serve.wiring import sampling, service
from segmentd.storage.database import Database
from tests.support.client import Api
from tests.support.door import middleware, open_door, open_to_all
from tests.support.scraping import REQUESTS, Scrape

READ: Final = {"method": "GET", "route": "/api/v1/users/{user_id}/segments", "status": "200"}
LOOKUP: Final = {"method": "POST", "route": "/api/v1/lookup", "status": "200"}
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"


def scraped(metrics: Metrics) -> Scrape:
    metrics.flush()
    return Scrape(metrics.page([], "").content.decode())


# One process


def test_a_tally_puts_each_duration_where_prometheus_looks_for_it() -> None:
    metrics = Metrics()
    metrics.tally(**LOOKUP)
    for nanoseconds in (0, 9_999, 10_000, 10_001, 24_000, 30_000_000_000, 30_000_000_001, 10**12):
        metrics.tally(**READ).add(nanoseconds)

    scrape = scraped(metrics)

    buckets = scrape.buckets(REQUESTS, **READ)
    assert [*buckets] == [*BUCKETS_S, float("inf")]
    # A bound belongs to its bucket.
    assert (buckets[0.00001], buckets[0.000025], buckets[10], buckets[30]) == (3, 5, 5, 6)
    assert scrape(f"{REQUESTS}_count", **READ) == 8
    assert scrape(f"{REQUESTS}_sum", **READ) == pytest.approx(60 + 1000 + 54e-6, abs=1e-6)
    assert scrape(f"{REQUESTS}_count", **LOOKUP) == 0


def test_a_tally_and_the_histogram_agree_about_every_bucket() -> None:
    tallied, observed = Metrics(), Metrics()
    bounds = [round(bound * 1e9) for bound in BUCKETS_S]
    for nanoseconds in (*bounds, *(bound + 1 for bound in bounds), *(bound - 1 for bound in bounds)):
        tallied.tally(**LOOKUP).add(nanoseconds)
        observed.answered("POST", LOOKUP["route"], 200, nanoseconds / 1e9)

    assert scraped(tallied).buckets(REQUESTS, **LOOKUP) == scraped(observed).buckets(REQUESTS, **LOOKUP)


def test_hot_calls_are_one_series_whether_they_are_answered_on_the_spot_or_by_the_framework() -> None:
    metrics = Metrics()
    metrics.answered("GET", READ["route"], 200, 0.003)
    metrics.answered("GET", READ["route"], 503, 0.003)
    for _ in range(5):
        metrics.tally(**READ).add(15_000)

    scrape = scraped(metrics)

    assert scrape(f"{REQUESTS}_count", **READ) == 6
    assert scrape(f"{REQUESTS}_sum", **READ) == pytest.approx(0.003 + 5 * 15e-6)
    assert scrape.buckets(REQUESTS, **READ)[0.000025] == 5
    assert scrape(f"{REQUESTS}_count", **READ | {"status": "503"}) == 1


def test_no_client_can_make_new_series() -> None:
    metrics = Metrics()
    for method in ("BREW", "get", "PROPFIND", "\n"):
        metrics.answered(method, None, 404, 0.001)

    counted = {
        tuple(s.labels.values()): s.value for s in scraped(metrics).samples if s.name == f"{REQUESTS}_count"
    }

    assert counted == {
        ("other", "unknown", "404"): 4,
    }


def test_each_reason_of_a_refusal_is_there_before_it_was_ever_given() -> None:
    metrics = Metrics()
    metrics.refused(Refusal.OVERLOAD)
    metrics.refused(Refusal.OVERLOAD)

    refused = scraped(metrics).of_each("segmentd_http_refused_total", "reason")

    assert refused == dict.fromkeys(map(str, Refusal), 0) | {"overload": 2}


def test_requests_that_end_are_not_in_progress_any_more() -> None:
    metrics = Metrics()
    with metrics.requests_in_progress.track_inprogress():
        assert scraped(metrics)("segmentd_http_requests_in_progress") == 1
    assert scraped(metrics)("segmentd_http_requests_in_progress") == 0


# Several processes

PROCESS: Final = """
import os, sys
from pathlib import Path
from segmentd.observability.metrics import Metrics, Refusal

metrics = Metrics(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
tally = metrics.tally("GET", "/api/v1/users/{user_id}/segments", "200")
for _ in range(int(sys.argv[1])):
    tally.add(20_000)
    metrics.answered("GET", "/api/v1/users/{user_id}/segments", 200, 0.002)
    metrics.refused(Refusal.TIMEOUT)
    metrics.pool(busy=1, idle=2, waiting=3)
metrics.flush()
sys.stdout.buffer.write(metrics.page([], "").content)
"""


def process(folder: Path, count: int) -> Scrape:
    """Another process of the same node, from its start to its end; what it shows last."""
    ended = subprocess.run(
        [sys.executable, "-c", PROCESS, str(count)],
        env=os.environ | {FOLDER_VARIABLE: str(folder)},
        capture_output=True,
        timeout=60,
        check=True,
    )
    return Scrape(ended.stdout.decode())


def test_a_process_shows_what_all_have_counted_those_that_have_ended_too(tmp_path: Path) -> None:
    process(tmp_path, 3)
    process(tmp_path, 4)

    scrape = process(tmp_path, 0)

    assert scrape(f"{REQUESTS}_count", **READ) == 14
    assert scrape(f"{REQUESTS}_sum", **READ) == pytest.approx(7 * 0.002 + 7 * 20e-6)
    assert scrape.buckets(REQUESTS, **READ)[0.000025] == 7
    assert scrape.of_each("segmentd_http_refused_total", "reason")["timeout"] == 7


def test_what_another_process_is_just_making_does_not_spoil_the_page(tmp_path: Path) -> None:
    process(tmp_path, 2)
    for name in ("counter_1.db", "histogram_1.db", "gauge_livesum_1.db", "tallies_1"):
        (tmp_path / name).touch()

    assert process(tmp_path, 0)(f"{REQUESTS}_count", **READ) == 4


def test_a_process_that_gets_the_id_of_one_that_has_ended_goes_on_where_that_one_stopped(
    tmp_path: Path,
) -> None:
    for _ in range(2):
        tallies = Tallies(2, tmp_path)
        tallies.own[0].add(1_000)
        tallies.flush()

    [counted, none] = Tallies(2, tmp_path).counted()

    assert (sum(counted.buckets), counted.nanoseconds) == (2, 2_000)
    assert sum(none.buckets) == 0


def test_a_folder_that_the_library_does_not_use_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)

    with pytest.raises(ValueError, match=FOLDER_VARIABLE):
        Metrics(tmp_path)


# The address


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def api(database: Database, metrics: Metrics, tmp_path: Path) -> AsyncIterator[Api]:
    """The whole service, measured."""
    settings = Settings(data_dir=str(tmp_path))
    async with Api(await open_door(service(database, settings, metrics=metrics), database, metrics)) as api:
        yield api


async def test_metrics_are_text_unless_something_else_is_asked_for(api: Api) -> None:
    answer = await api.get("/metrics")

    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    build = Scrape(answer.text).families["segmentd_build_info"].samples[0]
    assert build.value == 1
    assert {*build.labels} == {"version", "python"}
    kernel = Scrape(answer.text).families["segmentd_kernel_info"].samples[0]
    assert (kernel.value, kernel.labels) == (1, {"kernel": BEST.name})


async def test_metrics_are_openmetrics_where_that_is_asked_for(api: Api) -> None:
    answer = await api.get("/metrics", headers={"Accept": f"{OPENMETRICS},text/plain;version=0.0.4;q=0.5"})

    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    assert Scrape(answer.text, openmetrics=True)("segmentd_database_up") == 1


async def test_changes_are_counted_by_what_came_of_them(api: Api) -> None:
    await api.create("A")
    await api.create("B")
    await api.create("HALF", percent=50)
    await api.add(1, "A", "B")
    await api.change(1, add=["A"], remove=["B"])
    await api.change(1, add=[{"slug": "A", "ttl_seconds": 60}])
    assert (await api.post("users/1/segments", json={"add": ["A", "UNKNOWN"]})).status_code == 404

    changes = await of_each(api, "segmentd_membership_changes_total", "outcome")

    assert changes == {"added": 2, "removed": 1, "updated": 1, "unchanged": 1}


async def of_each(api: Api, name: str, label: str) -> dict[str, float]:
    return Scrape((await api.get("/metrics")).text).of_each(name, label)


async def test_a_scrape_has_every_hot_read_of_its_own_process(api: Api, metrics: Metrics) -> None:
    for count in (1, 2):
        metrics.tally(**READ).add(15_000)

        scrape = Scrape((await api.get("/metrics")).text)

        assert scrape(f"{REQUESTS}_count", **READ) == count


async def test_what_a_process_counted_until_its_end_is_added_up(database: Database) -> None:
    metrics = Metrics()
    async with sampling(database, metrics):
        metrics.tally(**READ).add(15_000)

    assert Scrape(metrics.page([], "").content.decode())(f"{REQUESTS}_count", **READ) == 1


async def test_a_service_that_measures_nothing_has_no_such_address(
    database: Database, tmp_path: Path
) -> None:
    async with Api(await open_door(service(database, Settings(data_dir=str(tmp_path))), database)) as api:
        answer = await api.get("/metrics")

    assert answer.status_code == 404
    assert answer.json()["type"] == "/problems/not-found"


async def test_the_rest_is_shown_while_the_database_is_away(
    database_url: str, metrics: Metrics, tmp_path: Path
) -> None:
    closed = Database(database_url)
    async with closed:
        authenticator = await open_to_all(closed)
    metrics.refused(Refusal.FORBIDDEN)
    settings = Settings(data_dir=str(tmp_path))
    use_cases = service(closed, settings, metrics=metrics)
    async with Api(middleware(use_cases, authenticator, metrics)) as api:
        answer = await api.get("/metrics")

    assert answer.status_code == 200
    scrape = Scrape(answer.text)
    assert scrape("segmentd_database_up") == 0
    assert scrape.of_each("segmentd_http_refused_total", "reason")["forbidden"] == 1
    assert "segmentd_terms_due" not in scrape


async def test_what_the_database_knows_is_on_the_page(api: Api) -> None:
    order = {"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T00:00:00Z"}
    assert (await api.post("reports", json=order)).status_code == 202

    scrape = Scrape((await api.get("/metrics")).text)

    assert scrape("segmentd_jobs", task="build_report", status="todo") == 1
    assert scrape("segmentd_jobs", task="build_report", status="doing") == 0
    assert scrape("segmentd_job_oldest_seconds", task="build_report") > 0
    assert scrape.of_each("segmentd_reports", "status") == {
        "pending": 1,
        "running": 0,
        "done": 0,
        "failed": 0,
    }
    assert scrape("segmentd_terms_due") == 0
    assert scrape("segmentd_segments") >= 0
    assert scrape("segmentd_audit_log_entries") >= 0
    assert scrape("segmentd_events_written_total") >= 0
