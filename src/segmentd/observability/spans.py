"""The spans of OpenTelemetry. Only `set_up_tracing` imports this module, and only if traces are asked for.

OpenTelemetry's own packages for ASGI and psycopg are not used (docs/decisions/0032). They send query strings,
which hold signatures of links, and PostgreSQL's messages, which quote values; and they miss COPY and the wait
for a connection.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from http import HTTPStatus
from importlib.metadata import EntryPoint
from threading import Thread
from typing import Final, LiteralString

import structlog
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode

from segmentd.observability.traces import RequestSpan

LONGEST_FLUSH_S: Final = 2.0
METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})

# The verb of a statement, after comments, and then its first table or the function that it calls.
_VERB: Final = re.compile(r"(?:\s|--.*\n)*(\w+)")
_TARGET: Final = re.compile(r"\b(?:FROM|INTO|UPDATE)\s+(\w+)|^SELECT\s+(\w+)\(")

_log = structlog.get_logger(__name__)


class Spans:
    """Tracing by OpenTelemetry's SDK. The SDK itself reads the OTEL_ variables of samplers and limits."""

    def __init__(self, exporters: Iterable[EntryPoint], service_version: str) -> None:
        ours = Resource.create({"service.name": "segmentd", "service.version": service_version})
        resource = ours.merge(OTELResourceDetector().detect())  # the operator's values win
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(_made(exporter)))
        self._tracer = self._provider.get_tracer("segmentd", service_version)
        self.headers = frozenset(name.lower() for name in propagate.get_global_textmap().fields)

    @contextmanager
    def request(
        self, method: str, scheme: str, version: str, headers: Mapping[str, str]
    ) -> Iterator[RequestSpan]:
        known = method if method in METHODS else None
        # No path and no query: they hold ids, which erasure would not reach, and signatures of links.
        attributes = {
            "http.request.method": known or "_OTHER",
            "network.protocol.version": version,
            "url.scheme": scheme,
        }
        caller = propagate.extract({name: headers[name] for name in headers.keys() & self.headers}, Context())
        with self._span(known or "HTTP", SpanKind.SERVER, attributes, caller) as span:
            yield _Request(span, method)

    def statement(self, query: LiteralString) -> AbstractContextManager[object]:
        return self._of_database(_summary(query), {"db.query.text": query})

    def transaction(self) -> AbstractContextManager[object]:
        return self._of_database("transaction", {})

    def job(self, name: str) -> AbstractContextManager[object]:
        return self._span(name, SpanKind.CONSUMER, {})

    def close(self) -> None:
        # The SDK would wait for 30 s, longer than the supervisor does.
        sending = Thread(target=self._provider.shutdown, name="send the last spans", daemon=True)
        sending.start()
        sending.join(LONGEST_FLUSH_S)
        if sending.is_alive():
            _log.warning("the last spans could not be sent in time", seconds=LONGEST_FLUSH_S)

    def _of_database(self, name: str, attributes: Mapping[str, str]) -> AbstractContextManager[object]:
        # Followers and the queue send statements every second that belong to no request.
        if not trace.get_current_span().is_recording():
            return nullcontext()
        return self._span(name, SpanKind.CLIENT, {"db.system.name": "postgresql", **attributes})

    @contextmanager
    def _span(
        self, name: str, kind: SpanKind, attributes: Mapping[str, str], parent: Context | None = None
    ) -> Iterator[Span]:
        with self._tracer.start_as_current_span(
            name, parent, kind, attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except BaseException as error:
                # Only the class: PostgreSQL's messages quote values, and stack traces quote the messages.
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(StatusCode.ERROR)
                raise


def _made(exporter: EntryPoint) -> SpanExporter:
    if exporter.name == "console":
        return ConsoleSpanExporter(out=sys.stderr)  # standard output is where a child says that it is ready
    made: SpanExporter = exporter.load()()
    return made


class _Request:
    """The span of a request."""

    def __init__(self, span: Span, method: str) -> None:
        self._span = span
        self._method = method

    def answered(self, route: str | None, status: int) -> None:
        if route:
            self._span.set_attribute("http.route", route)
            self._span.update_name(f"{self._method} {route}")
        self._span.set_attribute("http.response.status_code", status)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(StatusCode.ERROR)


def _summary(query: LiteralString) -> str:
    """Verb and object of a statement, such as `SELECT reports` or `SELECT change_memberships`."""
    words = [found[found.lastindex or 0] for find in (_VERB, _TARGET) if (found := find.search(query))]
    return " ".join(words)
