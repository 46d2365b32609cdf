"""Probes for operators, and the documentation."""

import asyncio
from html import escape
from typing import Final

from litestar import MediaType, Response, Router, get
from litestar.exceptions import NotFoundException
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.params import FromPath
from msgspec import Struct

from segmentd.api.http.assets import Asset
from segmentd.api.http.completed import CompletedConfig
from segmentd.api.http.documented import API_KEY, BEARER
from segmentd.api.http.edge.addresses import address, location
from segmentd.api.http.edge.problem_documents import SECURITY_HEADERS
from segmentd.api.http.types import AnyRequest, UseCases

API_VERSION: Final = "1"
"""The version of /api/v1; only /metrics shows the version of segmentd."""

DOCS_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

# Swagger UI 5.35.0 lies in swagger_ui/, so the page works without the internet (docs/decisions/0008).
_ASSETS: Final = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}

_DOCS_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>segmentd API</title>
  <link rel="icon" href="data:,">
  <link rel="stylesheet" href="{root}/docs/swagger-ui.css">
</head>
<body>
  <div id="swagger-ui"></div>
  <script src="{root}/docs/swagger-ui-bundle.js"></script>
  <script src="{root}/docs/start.js" data-document="{root}/openapi.json"></script>
</body>
</html>
"""
_START_SCRIPT: Final = (
    "SwaggerUIBundle({url: document.currentScript.dataset.document, "
    'dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null});\n'
)


_NOT_READY: Final = (
    "The problem of a 503 has `hot_reads`, whether plain reads of users and lookups are answered all the"
    " same, and `age`, how many seconds old those answers are. `/readyz/hot-reads` asks for these alone."
)


class _DocumentAlone(JsonRenderPlugin):
    """/openapi.json with the called address, and without Litestar's HTML for unknown addresses below it."""

    def render(self, request: AnyRequest, openapi_schema: dict[str, object]) -> bytes:
        """The document, with the address that the client called."""
        return super().render(request, {**openapi_schema, "servers": [{"url": location(request, "") or "/"}]})

    def receive_router(self, router: Router) -> None:
        router.routes[:] = [route for route in router.routes if self.has_path(route.path)]


OPENAPI: Final = CompletedConfig(
    title="segmentd",
    version=API_VERSION,
    description="Which segments is each user in, since when, and why.",
    components=Components(
        security_schemes={
            BEARER: SecurityScheme(type="http", scheme="bearer", description="An API token, or a JWT."),
            API_KEY: SecurityScheme(
                type="apiKey",
                name="X-API-Key",
                security_scheme_in="header",
                description="The same for OpenFeature.",
            ),
        }
    ),
    create_examples=False,
    operation_id_creator=lambda handler, _method, _path: handler.handler_name,
    path="/",
    render_plugins=[_DocumentAlone(path="/openapi.json")],
)


class Health(Struct, frozen=True):
    """`status` is "ok"."""

    status: str = "ok"


@get("/livez", tags=["Operations"])
async def livez() -> Health:
    """The process is alive."""
    return Health()


@get("/readyz", tags=["Operations"], description=_NOT_READY)
async def readyz(service: UseCases) -> Health:
    """The service can serve; 503 says why not."""
    await service.check_ready()
    return Health()


@get("/readyz/hot-reads", tags=["Operations"])
async def hot_reads_readyz(service: UseCases) -> Health:
    """The service answers hot reads, maybe only from its replica while the database is away."""
    await service.check_hot_reads()
    return Health()


@get("/docs", media_type=MediaType.HTML, include_in_schema=False)
async def docs(request: AnyRequest) -> Response[str]:
    """The API's documentation as a page."""
    page = _DOCS_PAGE.format(root=escape(address(request).prefix))
    return Response(page, headers={**SECURITY_HEADERS, "Content-Security-Policy": DOCS_CSP})


@get("/docs/{name:str}", include_in_schema=False)
async def docs_asset(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    """The files that the page loads."""
    if name == "start.js":
        return Response(_START_SCRIPT.encode(), media_type="text/javascript")
    if name not in _ASSETS:
        raise NotFoundException
    # The first time it is compressed, which takes longer than hot reads may wait.
    asset = await asyncio.to_thread(
        Asset.of_package, "segmentd.api.http", f"swagger_ui/{name}", _ASSETS[name]
    )
    return asset.answer(request.headers.get("Accept-Encoding", ""), request.headers.get("If-None-Match"))


operations_router = Router("/", route_handlers=[livez, readyz, hot_reads_readyz, docs, docs_asset])
