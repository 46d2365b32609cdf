"""The HTTP door of a service that is open to everybody, as one on loopback without tokens is."""

import math
from contextvars import ContextVar
from functools import cache
from typing import NamedTuple

from litestar import Litestar
from litestar.types import ASGIApp, Receive, Scope, Send

from segmentd.api.http.app import create_app
from segmentd.api.http.edge.addresses import Addresses
from segmentd.api.http.edge.cors import Cors
from segmentd.api.http.edge.middleware import RequestLimits, RequestMiddleware
from segmentd.api.http.edge.request_ids import RequestIds
from segmentd.api.http.hot.calls import HotCalls
from segmentd.api.http.hot.changes import HotChanges
from segmentd.api.http.hot.path import HotPath
from segmentd.api.http.ofrep.hot import Evaluations
from segmentd.auth.authenticator import AccessRules, Authenticator
from segmentd.console.door import console_router
from segmentd.console.sessions import Sessions
from segmentd.observability.metrics import Metrics
from segmentd.replica.replica import Replica
from segmentd.service import Service
from segmentd.storage.database import Database

OPEN = AccessRules(may_be_open=True, bound_seconds=math.inf)


class _Parts(NamedTuple):
    """What one door's application is made of."""

    service: Service
    authenticator: Authenticator
    metrics: Metrics | None
    sessions: Sessions | None = None
    """Those of the console, if there is one."""


_parts: ContextVar[_Parts] = ContextVar("_parts")


class _Service(Service):
    """Each attribute is the one of the door that the present request came through."""

    def __init__(self) -> None:
        """Has nothing of its own."""

    def __getattribute__(self, name: str) -> object:
        return getattr(_parts.get().service, name)


class _Authenticator(Authenticator):
    """As _Service."""

    def __init__(self) -> None:
        """Has nothing of its own."""

    def __getattribute__(self, name: str) -> object:
        return getattr(_parts.get().authenticator, name)


class _Metrics(Metrics):
    """As _Service."""

    def __init__(self) -> None:
        """Has nothing of its own."""

    def __getattribute__(self, name: str) -> object:
        return getattr(_parts.get().metrics, name)


class _Sessions(Sessions):
    """As _Service."""

    def __init__(self) -> None:
        """Has nothing of its own."""

    def __getattribute__(self, name: str) -> object:
        return getattr(_parts.get().sessions, name)


@cache
def unread_metrics() -> Metrics:
    """For the doors whose metrics nobody reads: two hundred series take longer to make than a request."""
    return Metrics()


# The framework takes 30 ms to make an application, and hundreds of tests need one.
@cache
def _application(
    cors: Cors | None, addresses: Addresses | None, *, is_measured: bool, has_console: bool
) -> Litestar:
    return create_app(
        _Service(),
        _Authenticator(),
        _Metrics() if is_measured else None,
        cors,
        addresses,
        console=console_router(_Sessions()) if has_console else None,
    )


def _application_of(parts: _Parts, cors: Cors | None, addresses: Addresses | None) -> ASGIApp:
    application = _application(
        cors,
        addresses,
        is_measured=parts.metrics is not None,
        has_console=parts.sessions is not None,
    )

    async def with_its_parts(scope: Scope, receive: Receive, send: Send) -> None:
        _parts.set(parts)
        await application(scope, receive, send)

    return with_its_parts


async def open_to_all(database: Database) -> Authenticator:
    """Lets everybody in, for there are no tokens."""
    authenticator = Authenticator(database, OPEN)
    await authenticator.look()
    return authenticator


def framework(
    service: Service,
    authenticator: Authenticator,
    metrics: Metrics | None = None,
    cors: Cors | None = None,
    addresses: Addresses | None = None,
    sessions: Sessions | None = None,
) -> ASGIApp:
    """The framework's application, with nothing in front of it; one for each `cors` and `addresses`.

    It has the console if there are sessions.
    """
    return _application_of(_Parts(service, authenticator, metrics, sessions), cors, addresses)


def behind_middleware(app: ASGIApp, metrics: Metrics | None = None) -> RequestMiddleware:
    """An application behind the request middleware."""
    return RequestMiddleware(app, RequestIds(), RequestLimits(), metrics or unread_metrics())


def middleware(
    service: Service, authenticator: Authenticator, metrics: Metrics | None = None
) -> RequestMiddleware:
    """The door without the hot reads."""
    app = framework(service, authenticator, metrics)
    return behind_middleware(HotChanges(app, service, authenticator), metrics)


def hot_path(app: ASGIApp, replica: Replica, authenticator: Authenticator) -> HotPath:
    """The hot path in front of any application."""
    parts = (replica, authenticator, RequestIds(), unread_metrics())
    return HotPath(app, HotCalls(*parts), Evaluations(*parts))


async def open_door(
    service: Service, database: Database, metrics: Metrics | None = None
) -> RequestMiddleware:
    """The door without the hot reads, open to everybody."""
    return middleware(service, await open_to_all(database), metrics)
