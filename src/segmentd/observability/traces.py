"""Traces: the kinds of spans, and whether the standard OTEL_ variables ask for them.

OpenTelemetry is the extra `otel`. It is loaded, and has to be installed, only if traces are asked for.
"""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib.metadata import EntryPoint, entry_points
from typing import Final, LiteralString, Protocol

from segmentd.domain.errors import StartupFailed

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
# Exporters are found as OpenTelemetry's own tools find them, so an operator can install and name another one.
EXPORTERS: Final = "opentelemetry_traces_exporter"
OTLP_EXPORTERS: Final = {
    "http/protobuf": "otlp_proto_http",
    "http/json": "otlp_json_http",
    "grpc": "otlp_proto_grpc",
}


class RequestSpan(Protocol):
    """The span of one request."""

    def answered(self, route: str | None, status: int) -> None:
        """The answer begins; the span has the name of the route from now on, if one was found."""
        ...


class Tracing(Protocol):
    """The spans of this process. From a request they hold the method and the route, and no values."""

    headers: frozenset[str]
    """Lower-case names of the headers by which a request joins its caller's trace."""

    def request(
        self, method: str, scheme: str, version: str, headers: Mapping[str, str]
    ) -> AbstractContextManager[RequestSpan]:
        """A span of one request; `headers` by lower-case name, `version` of HTTP such as `1.1`."""
        ...

    def statement(self, query: LiteralString) -> AbstractContextManager[object]:
        """A span with the text of an SQL statement, if it is within another span.

        The text is a literal in the code, so it holds no parameters.
        """
        ...

    def transaction(self) -> AbstractContextManager[object]:
        """A span of one transaction, if it is within another span."""
        ...

    def job(self, name: str) -> AbstractContextManager[object]:
        """A span of a background job."""
        ...

    def close(self) -> None:
        """Sends the last spans, which takes two seconds at most."""
        ...


def set_up_tracing(service_version: str) -> Tracing | None:
    """Tracing as the OTEL_ variables ask for it; None if they do not. Raises StartupFailed."""
    exporters = exporters_asked_for()
    if not exporters:
        return None
    from segmentd.observability.spans import Spans  # noqa: PLC0415 - what loads OpenTelemetry

    return Spans(exporters, service_version)


def exporters_asked_for() -> list[EntryPoint]:
    """Where the OTEL_ variables send spans; does not load the exporter.

    Raises StartupFailed if it is missing.
    """
    return [_installed(name) for name in _names(os.environ)]


def _installed(name: str) -> EntryPoint:
    for exporter in entry_points(group=EXPORTERS, name=name):
        return exporter
    raise StartupFailed(
        f"the OTEL_ variables ask for traces, but their exporter {name} is not installed:"
        " the extra otel brings otlp_proto_http and console (make run EXTRAS=otel,"
        " or pip install --requirement requirements-otel.lock)"
    )


def _names(environment: Mapping[str, str]) -> list[str]:
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    default = "otlp" if any(environment.get(name) for name in ENDPOINTS) else "none"
    names = [name.strip() for name in (environment.get("OTEL_TRACES_EXPORTER") or default).split(",")]
    return [
        _otlp(environment) if name == "otlp" else name for name in names if name.lower() not in {"", "none"}
    ]


def _otlp(environment: Mapping[str, str]) -> str:
    protocol = next(
        (environment[name] for name in PROTOCOLS if environment.get(name)), "http/protobuf"
    ).strip()
    return OTLP_EXPORTERS.get(protocol, f"for {protocol}")
