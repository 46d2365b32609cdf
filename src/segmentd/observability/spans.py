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
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode

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

    def wrap(self, app: ASGIApp) -> ASGIApp:

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP:
                await app(scope, receive, send)
                return
            with self._request(scope) as span:

                async def answer(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        _note_answer(span, scope, message["status"])
                    await send(message)

                await app(scope, receive, answer)

        return traced

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

    def _request(self, scope: HTTPScope) -> AbstractContextManager[Span]:
        method = scope["method"]
        # No path and no query: they hold ids, which erasure would not reach, and signatures of links.
        attributes = {
            "http.request.method": method if method in METHODS else "_OTHER",
            "network.protocol.version": scope["http_version"],
            "url.scheme": scope["scheme"],
        }
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        caller = propagate.extract({name: headers[name] for name in headers.keys() & self.headers}, Context())
        return self._span(method if method in METHODS else "HTTP", SpanKind.SERVER, attributes, caller)

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


def _note_answer(span: Span, scope: HTTPScope, status: int) -> None:
    # The framework sets the route when it has found it.
    if route := scope.get("path_template"):
        span.set_attribute("http.route", route)
        span.update_name(f"{scope['method']} {route}")
    span.set_attribute("http.response.status_code", status)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)


def _summary(query: LiteralString) -> str:
    """Verb and object of a statement, such as `SELECT reports` or `SELECT change_memberships`."""
    words = [found[found.lastindex or 0] for find in (_VERB, _TARGET) if (found := find.search(query))]
    return " ".join(words)
