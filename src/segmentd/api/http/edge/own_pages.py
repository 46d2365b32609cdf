"""Changes that a page in a browser asks for: only this service's own pages may, and those that CORS allows.

A browser lets any page send some requests anywhere, with no word from the service that is called; it says
from where in `Origin` and `Sec-Fetch-Site`. Programs send neither, and are not concerned.
"""

from typing import Final

from litestar import Request
from litestar.handlers import BaseRouteHandler
from litestar.types import Scope

from segmentd.api.http.edge.addresses import Addresses
from segmentd.api.http.edge.cors import Cors
from segmentd.api.http.edge.guard import AnyConnection
from segmentd.domain.access import ANONYMOUS
from segmentd.domain.addresses import is_steady
from segmentd.domain.errors import ForeignOrigin

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITES: Final = frozenset({"same-origin", "none"})


class OwnPages:
    """A guard that refuses what a foreign page asks for."""

    def __init__(self, addresses: Addresses, cors: Cors) -> None:
        self._addresses = addresses
        self._cors = cors

    async def __call__(self, connection: AnyConnection, _: BaseRouteHandler) -> None:
        """Raises ForeignOrigin."""
        if not isinstance(connection, Request) or connection.method in SAFE_METHODS:
            return
        origin = connection.headers.get("origin")
        site = connection.headers.get("sec-fetch-site")
        if (origin is None and site is None) or self._cors.allows(origin):
            return
        if (site is not None and site not in _OWN_SITES) or (
            origin is not None and not self._is_own(connection.scope, origin)
        ):
            raise ForeignOrigin

    def _is_own(self, scope: Scope, origin: str) -> bool:
        """By the host alone: a proxy that ends TLS need not say so.

        Where everybody may do everything, a page could give its own name this service's address once it is
        loaded (DNS rebinding), so there only public_url's name counts.
        """
        host = origin.lower().partition("://")[2]
        public = self._addresses.public
        if public is not None and host == public.host.lower():
            return True
        is_open = scope["state"].get("principal") is ANONYMOUS
        return host == self._addresses.called(scope).host.lower() and (is_steady(host) or not is_open)
