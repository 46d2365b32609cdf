"""Each request in a span that has the name of its route."""

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from segmentd.observability.traces import Tracing


def trace_requests(app: ASGIApp, tracing: Tracing) -> ASGIApp:
    """The application, with each of its requests in a span."""

    async def in_span(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with tracing.request(scope["method"], scope["scheme"], scope["http_version"], headers) as span:

            async def answer(message: Message) -> None:
                if message["type"] == "http.response.start":
                    # The framework sets the route when it has found it.
                    span.answered(scope.get("path_template"), message["status"])
                await send(message)

            await app(scope, receive, answer)

    return in_span
