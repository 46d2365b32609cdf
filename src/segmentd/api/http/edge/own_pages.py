"""Changes from pages in a browser: only this service's own pages may, and those that CORS allows.

A browser lets any page send some requests to any service, without asking the service; it names the page's
origin in `Origin` and `Sec-Fetch-Site` (docs/decisions/0039). Programs send neither and are not affected.
"""

from typing import Final

from litestar import Request
from litestar.handlers import BaseRouteHandler
from litestar.types import Scope

from segmentd.api.http.edge.addresses import Addresses
from segmentd.api.http.edge.cors import Cors
from segmentd.api.http.edge.guard import AnyConnection
from segmentd.api.http.types import AnyRequest
from segmentd.domain.access import ANONYMOUS
from segmentd.domain.addresses import is_steady
from segmentd.domain.errors import ForeignOrigin

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITES: Final = frozenset({"same-origin", "none"})


def is_of_page(request: AnyConnection | AnyRequest) -> bool:
    """Whether a page in a browser sends this request; a program names no page."""
    return "origin" in request.headers or "sec-fetch-site" in request.headers


class OwnPages:
    """A guard that refuses requests of foreign pages."""

    def __init__(self, addresses: Addresses, cors: Cors) -> None:
        self._addresses = addresses
        self._cors = cors

    async def __call__(self, connection: AnyConnection, _: BaseRouteHandler) -> None:
        """Raises ForeignOrigin."""
        if not isinstance(connection, Request) or connection.method in SAFE_METHODS:
            return
        origin = connection.headers.get("origin")
        site = connection.headers.get("sec-fetch-site")
        if not is_of_page(connection) or self._cors.allows(origin):
            return
        if (site is not None and site not in _OWN_SITES) or (
            origin is not None and not self._is_own(connection.scope, origin)
        ):
            raise ForeignOrigin

    def _is_own(self, scope: Scope, origin: str) -> bool:
        """Compares only the host, because a proxy that ends TLS may not say so.

        Without access control a page could, once loaded, point its own name to this service's address (DNS
        rebinding), so then only public_url's name counts.
        """
        host = origin.lower().partition("://")[2]
        public = self._addresses.public
        if public is not None and host == public.host.lower():
            return True
        is_open = scope["state"].get("principal") is ANONYMOUS
        return host == self._addresses.called(scope).host.lower() and (is_steady(host) or not is_open)
