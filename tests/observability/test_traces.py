"""Traces: made where the standard variables ask for them, and nothing of it where they do not."""

import sys
import sysconfig
from pathlib import Path
from typing import Final

import pytest

from segmentd import __version__
from segmentd.domain.errors import StartupFailed
from segmentd.observability.traces import exporters_asked_for, set_up_tracing
from tests.support.collector import Collector
from tests.support.processes import failure, run, serving

ROOT: Final = Path(__file__).parents[2]


def work_once() -> None:
    """One span, sent."""
    tracing = set_up_tracing("1.2.3")
    assert tracing is not None
    with tracing.job("work"):
        pass
    tracing.close()


# Who asks for traces, and how


@pytest.mark.parametrize(
    ("variables", "exporters"),
    [
        ({}, []),
        ({"OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_TRACES_EXPORTER": "", "OTEL_EXPORTER_OTLP_ENDPOINT": ""}, []),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, []),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "True"}, []),
        ({"OTEL_SERVICE_NAME": "mine", "OTEL_METRICS_EXPORTER": "otlp"}, []),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ["otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "console, otlp", "OTEL_SDK_DISABLED": ""}, ["console", "otlp_proto_http"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, ["otlp_proto_http"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, ["otlp_proto_http"]),
    ],
)
def test_traces_are_made_only_where_the_standard_variables_ask_for_them(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], exporters: list[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert [exporter.name for exporter in exporters_asked_for()] == exporters


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "zipkin"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp_proto_grpc"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "smoke"}, "for smoke"),
    ],
)
def test_an_exporter_that_nothing_brings_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], missing: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(StartupFailed, match=f"their exporter {missing} is not installed"):
        set_up_tracing("1.2.3")


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "segmentd"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=ours"}, "ours"),
    ],
)
def test_the_operator_names_the_service(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    work_once()

    resource = collector.named("work").resource
    assert (resource["service.name"], resource["service.version"]) == (name, "1.2.3")


def test_the_operator_chooses_the_sampler(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    work_once()

    assert collector.bodies == []


def test_the_console_is_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    work_once()

    output, errors = capsys.readouterr()
    assert (output, '"name": "work"' in errors) == ("", True)


def test_a_collector_that_does_not_answer_holds_up_no_stop(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
    collector.answering.clear()
    work_once()

    assert collector.bodies == [], "it was waited for until it answered"


# Nothing of it where nobody asks


ONE_REQUEST: Final = """
import asyncio, sys
from segmentd.config import Settings
from segmentd.observability.logs import set_up_logging
from segmentd.serve import http_worker, node_worker
from segmentd.serve.wiring import service, open_tracing
from segmentd.storage.database import Database
from tests.support.client import Api
from tests.support.door import open_door

async def main(database_url):
    set_up_logging("warning")
    with open_tracing() as tracing:
        async with Database(database_url, tracing=tracing) as database:
            async with Api(await open_door(service(database, Settings()), database)) as api:
                print((await api.get("segments")).status_code, tracing)

asyncio.run(main(sys.argv[1]))
# Litestar itself looks for a table of names, where it is installed.
loaded = {name for name in sys.modules if name.startswith("opentelemetry.")}
print({name for name in loaded if not name.startswith("opentelemetry.semconv")})
"""


def test_nothing_of_opentelemetry_is_loaded_where_nobody_asks(database_url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ONE_REQUEST]
    env = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}

    ended = run(database_url, cwd=tmp_path, command=command, env=env)

    assert (ended.stdout, ended.stderr) == ("200 None\nset()\n", "")


def test_traces_that_are_asked_for_but_not_installed_are_an_error_of_one_line(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        if not installed.name.startswith("opentelemetry"):
            (packages / installed.name).symlink_to(installed)
    command = [sys.executable, "-S", "-m", "segmentd"]  # without the packages of this environment
    env = {"PYTHONPATH": f"{packages}:{ROOT / 'src'}:{ROOT / 'clients/python/src'}"}

    assert run("check", cwd=tmp_path, command=command, env=env).returncode == 0
    line = failure(
        run("serve", "--port", "0", cwd=tmp_path, command=command, env=env | {"OTEL_TRACES_EXPORTER": "otlp"})
    )
    assert line.startswith(
        "the OTEL_ variables ask for traces, but their exporter otlp_proto_http is not installed: "
    )
    assert "make run EXTRAS=otel" in line
    assert [path.name for path in tmp_path.iterdir()] == ["packages"]


# The processes


def test_every_process_sends_its_spans_and_the_last_ones_at_the_stop(
    empty_database_url: str, collector: Collector, tmp_path: Path
) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    with serving("--database-url", empty_database_url, cwd=tmp_path, env=env) as service:
        service.ready()
        with service.client() as client:
            assert client.get("users/1000/segments", headers={"Connection": "close"}).status_code == 200
            ordered = client.post("reports", json={"month": "2001-02"}, headers={"Prefer": "wait=60"})
            assert ordered.json()["status"] == "done"
        assert collector.bodies == []

        service.stop()

    hot = collector.named("GET /api/v1/users/{user_id}/segments")
    order = collector.named("POST /api/v1/reports")
    build = collector.named("build_report")
    assert {span.resource["service.version"] for span in (hot, order, build)} == {__version__}
    assert collector.below(order)
    assert collector.below(build)
    assert "Traceback" not in service.errors
