"""The HTTP application: the routes under /api/v1 and the operations beside them."""

from typing import Final

from litestar import Litestar, Router
from litestar.di import Provide

from segmentd.api.http.documented import Documented
from segmentd.api.http.errors import EXCEPTION_HANDLERS
from segmentd.api.http.memberships import memberships_router
from segmentd.api.http.metrics import metrics_router
from segmentd.api.http.operations import OPENAPI, operations_router
from segmentd.api.http.reports import reports_router
from segmentd.api.http.segments import segments_router
from segmentd.api.http.users import users_router
from segmentd.domain.access import ANONYMOUS, Actor
from segmentd.observability.metrics import Metrics
from segmentd.service import Service

LARGEST_BODY_BYTES: Final = 2**20


def create_app(service: Service, metrics: Metrics | None = None) -> Litestar:
    """The application that serves these use cases, and /metrics where something is measured."""
    return Litestar(
        route_handlers=[
            Router(
                "/api/v1", route_handlers=[segments_router, users_router, memberships_router, reports_router]
            ),
            operations_router,
            *([] if metrics is None else [metrics_router]),
        ],
        dependencies={
            "service": Provide(lambda: service, sync_to_thread=False),
            "actor": Provide(_actor, sync_to_thread=False),
            "meters": Provide(lambda: metrics, sync_to_thread=False),
        },
        exception_handlers=EXCEPTION_HANDLERS,
        request_max_body_size=LARGEST_BODY_BYTES,
        openapi_config=OPENAPI,
        plugins=[Documented()],
        logging_config=None,
    )


def _actor() -> Actor:
    return Actor(ANONYMOUS.name)
