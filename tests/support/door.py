"""The HTTP door of a service that is open to everybody, as one on loopback without tokens is."""

import math

from litestar.types import ASGIApp

from segmentd.api.http.app import create_app
from segmentd.api.http.edge.middleware import RequestLimits, RequestMiddleware
from segmentd.api.http.edge.request_ids import RequestIds
from segmentd.api.http.hot.path import HotPath
from segmentd.auth.authenticator import AccessRules, Authenticator
from segmentd.observability.metrics import Metrics
from segmentd.replica.replica import Replica
from segmentd.service import Service
from segmentd.storage.database import Database

OPEN = AccessRules(may_be_open=True, bound_seconds=math.inf)


async def open_to_all(database: Database) -> Authenticator:
    """Lets everybody in, for there are no tokens."""
    authenticator = Authenticator(database, OPEN)
    await authenticator.look()
    return authenticator


def entrance(
    service: Service, authenticator: Authenticator, metrics: Metrics | None = None
) -> RequestMiddleware:
    """The framework's part of the door."""
    app = create_app(service, authenticator, metrics)
    return RequestMiddleware(app, RequestIds(), RequestLimits(), metrics or Metrics())


def hot_path(app: ASGIApp, replica: Replica, authenticator: Authenticator) -> HotPath:
    """The hot path in front of any application."""
    return HotPath(app, replica, authenticator, RequestIds(), Metrics())


async def open_door(
    service: Service, database: Database, metrics: Metrics | None = None
) -> RequestMiddleware:
    """The framework's part of a door that is open to everybody."""
    return entrance(service, await open_to_all(database), metrics)
