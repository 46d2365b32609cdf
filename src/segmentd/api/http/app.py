"""The HTTP application: the routes under /api/v1 and the operations beside them."""

from collections.abc import Awaitable, Callable

from litestar import Litestar, Response, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.routes import HTTPRoute

from segmentd.api.http.documented import Documented
from segmentd.api.http.edge.addresses import Addresses
from segmentd.api.http.edge.compression import COMPRESSION
from segmentd.api.http.edge.cors import Cors
from segmentd.api.http.edge.errors import EXCEPTION_HANDLERS, LARGEST_BODY_BYTES
from segmentd.api.http.edge.guard import Guard, operation_of
from segmentd.api.http.edge.own_pages import OwnPages
from segmentd.api.http.edge.plain_values import PlainValues
from segmentd.api.http.ofrep.event_links import EventLinks
from segmentd.api.http.ofrep.resources import ofrep_router
from segmentd.api.http.resources.audit import audit_router
from segmentd.api.http.resources.changes import changes_router
from segmentd.api.http.resources.exports import exports_router
from segmentd.api.http.resources.feed import feed_router
from segmentd.api.http.resources.imports import imports_router
from segmentd.api.http.resources.members import members_router
from segmentd.api.http.resources.memberships import memberships_router
from segmentd.api.http.resources.metrics_page import metrics_router
from segmentd.api.http.resources.operations import OPENAPI, operations_router
from segmentd.api.http.resources.reports import reports_router
from segmentd.api.http.resources.segments import segments_router
from segmentd.api.http.resources.users import users_router
from segmentd.api.http.types import AnyRequest
from segmentd.api.roles import ROLES
from segmentd.auth.authenticator import Authenticator
from segmentd.observability.metrics import Metrics
from segmentd.service import Service


def create_app(
    service: Service,
    authenticator: Authenticator,
    metrics: Metrics | None = None,
    cors: Cors | None = None,
    addresses: Addresses | None = None,
    event_links: EventLinks | None = None,
    console: Router | None = None,
    replica: Router | None = None,
) -> Litestar:
    """The application that serves these use cases to callers whom the authenticator knows.

    It has /metrics if there are metrics, the console if there is one, and what other nodes ask for, if that
    is given. Raises LookupError for a handler that has no row in the table of roles.
    """
    addresses = addresses or Addresses()
    app = Litestar(
        route_handlers=[
            Router(
                "/api/v1",
                route_handlers=[
                    segments_router,
                    members_router,
                    exports_router,
                    users_router,
                    memberships_router,
                    changes_router,
                    feed_router,
                    reports_router,
                    imports_router,
                    audit_router,
                ],
            ),
            ofrep_router,
            operations_router,
            *([] if metrics is None else [metrics_router]),
            *(each for each in (console, replica) if each is not None),
        ],
        dependencies={
            "service": Provide(lambda: service, sync_to_thread=False),
            "meters": Provide(lambda: metrics, sync_to_thread=False),
        },
        guards=[Guard(authenticator), OwnPages(addresses, cors or Cors()), PlainValues()],
        state=State({"addresses": addresses, "event_links": event_links}),
        exception_handlers=EXCEPTION_HANDLERS,
        request_max_body_size=LARGEST_BODY_BYTES,
        openapi_config=OPENAPI,
        compression_config=COMPRESSION,
        plugins=[Documented()],
        logging_config=None,
    )
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                ROLES[operation_of(handler)]
                if "OPTIONS" in handler.http_methods:
                    handler.before_request = _options_of(route)
    return app


def _options_of(route: HTTPRoute) -> Callable[[AnyRequest], Awaitable[Response[None]]]:
    """Names all methods of an address; Litestar's own handler names only those registered first."""
    methods = route.methods | ({"HEAD"} if "GET" in route.methods else set())
    allow = {"Allow": ", ".join(sorted(methods))}

    async def options(_request: AnyRequest) -> Response[None]:
        return Response(None, status_code=204, headers=allow)

    return options
