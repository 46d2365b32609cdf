"""A receiver of spans: OTLP over HTTP on loopback, decoded by OpenTelemetry's own definitions."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

# The longest that a receiver delays its answer.
PATIENCE_S = 20


class Received(NamedTuple):
    """A span as it was received."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    failed: bool
    attributes: Mapping[str, str]
    resource: Mapping[str, str]


class Collector:
    """Everything that was sent to one address."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.bodies: list[bytes] = []
        self.answering = threading.Event()
        self.answering.set()

    @property
    def spans(self) -> list[Received]:
        """All received spans, by name."""
        return sorted(span for body in self.bodies for span in _decoded(body))

    def named(self, name: str) -> Received:
        """The only span of this name."""
        [span] = [span for span in self.spans if span.name == name]
        return span

    def below(self, parent: Received) -> list[Received]:
        """The spans whose parent this is."""
        return [span for span in self.spans if (span.trace, span.parent) == (parent.trace, parent.id)]


@contextmanager
def collecting() -> Iterator[Collector]:
    """A receiver that listens while the context lives."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.answering.wait(PATIENCE_S)
            collector.bodies.append(body)
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(server.server_port)
    listening = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    listening.start()
    try:
        yield collector
    finally:
        collector.answering.set()
        server.shutdown()
        listening.join()
        server.server_close()


def _decoded(body: bytes) -> Iterator[Received]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        about = _values(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    span.name,
                    Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.status.code == Status.STATUS_CODE_ERROR,
                    _values(span.attributes),
                    about,
                )


def _values(attributes: Iterable[KeyValue]) -> dict[str, str]:
    """Numbers as text too."""
    return {
        item.key: str(getattr(item.value, item.value.WhichOneof("value") or "string_value"))
        for item in attributes
    }
