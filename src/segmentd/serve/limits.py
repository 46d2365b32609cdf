"""The settings as the limits of HTTP."""

from segmentd.api.http.edge.connection import ConnectionLimits
from segmentd.api.http.edge.middleware import RequestLimits
from segmentd.config import Settings


def connection_limits(settings: Settings) -> ConnectionLimits:
    """Of a connection over HTTP."""
    return ConnectionLimits(
        max_header_bytes=settings.max_header_bytes,
        receive_seconds=settings.receive_seconds,
        send_seconds=settings.send_seconds,
        keep_alive_seconds=settings.keep_alive_seconds,
        least_bytes_per_second=settings.least_bytes_per_second,
    )


def request_limits(settings: Settings) -> RequestLimits:
    """Of the requests of an HTTP process."""
    return RequestLimits(settings.max_requests, settings.request_seconds)
