"""Builds the layers between the network and the use cases."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from litestar import Router

from segmentd.api.http.app import create_app
from segmentd.api.http.edge.addresses import Addresses
from segmentd.api.http.edge.cors import Cors
from segmentd.api.http.edge.in_progress import InProgress
from segmentd.api.http.edge.middleware import RequestMiddleware
from segmentd.api.http.edge.request_ids import RequestIds
from segmentd.api.http.edge.send_buffer import Room
from segmentd.api.http.hot.calls import HotCalls
from segmentd.api.http.hot.changes import HotChanges
from segmentd.api.http.hot.direct_changes import DirectChanges
from segmentd.api.http.hot.path import HotPath
from segmentd.api.http.ofrep.event_links import EventLinks
from segmentd.api.http.ofrep.hot import Evaluations
from segmentd.api.http.resources.replica import replica_router
from segmentd.auth.authenticator import Authenticator
from segmentd.auth.rate_limit import RateLimit
from segmentd.auth.told_tokens import TokenTeller
from segmentd.background import background
from segmentd.config import Settings
from segmentd.console.door import console_router
from segmentd.console.sessions import LOGINS_PER_SECOND, Sessions
from segmentd.domain.addresses import networks, public_address
from segmentd.observability.metrics import Metrics
from segmentd.replica.replica import Replica
from segmentd.replica.source import Source
from segmentd.serve.limits import request_limits
from segmentd.service import Service
from segmentd.storage.database import Database


def http_door(
    use_cases: Service,
    settings: Settings,
    authenticator: Authenticator,
    replica: Replica,
    metrics: Metrics | None,
    console: Router | None = None,
) -> tuple[HotPath, InProgress, DirectChanges]:
    """The hot path in front of the framework's application, its requests, and the short way of changes."""
    cors = cors_of(settings)
    addresses = Addresses(
        None if settings.public_url is None else public_address(settings.public_url),
        networks(settings.trusted_proxies),
    )
    links = EventLinks(use_cases.reports.keys)
    ids = RequestIds()
    measured = metrics or Metrics()
    room = Room.of(settings.max_connections, settings.max_unsent_bytes, measured)
    others = replica_router(Source(replica), TokenTeller(authenticator))
    app = create_app(use_cases, authenticator, metrics, cors, addresses, links, console, others)
    middleware = RequestMiddleware(
        HotChanges(app, use_cases, authenticator),
        ids,
        request_limits(settings),
        measured,
        room,
        cors,
    )
    unusual = [b"origin"] if settings.cors_origins else []
    calls = HotCalls(replica, authenticator, ids, metrics, unusual, room)
    evaluations = Evaluations(
        replica,
        authenticator,
        ids,
        metrics,
        room=room,
        cors=cors,
        links=links,
        prefix=addresses.public.prefix if addresses.public else "",
    )
    changes = DirectChanges(
        use_cases, authenticator, ids, middleware.in_progress, measured, settings.request_seconds
    )
    return HotPath(middleware, calls, evaluations), middleware.in_progress, changes


def cors_of(settings: Settings) -> Cors:
    """The origins whose pages may call."""
    return Cors(filter(None, map(str.strip, (settings.cors_origins or "").split(","))))


@asynccontextmanager
async def open_console(
    database: Database, settings: Settings, folder: Path, authenticator: Authenticator, rate_key: bytes
) -> AsyncIterator[Router | None]:
    """The routes of the console, None if it is off; a node's processes count attempts to log in together."""
    if not settings.console or settings.follow is not None:  # its sessions are in the database
        yield None
        return
    with closing(RateLimit.open(folder / "logins", LOGINS_PER_SECOND, rate_key)) as logins:
        async with background(logins.memory.share_when_there_is_room(), "share memory of the node"):
            yield console_router(Sessions(database, authenticator, logins))
