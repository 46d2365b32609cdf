"""The address under which a client reaches this service, for links, `Location` and pages.

It is the setting `public_url`, or it comes from the request: from `Host` and, if a trusted proxy sent the
request, from `X-Forwarded-Proto`, `-Host` and `-Prefix`. Of several values the last one counts, which that
proxy wrote.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from litestar.datastructures import State
from litestar.types import Scope

from segmentd.api.http.edge.framing import is_host
from segmentd.api.http.types import AnyRequest
from segmentd.domain.addresses import Address, Network, is_prefix, networks

LOOPBACK: Final = "127.0.0.0/8,::1"


class Addresses:
    """Finds the address of each request."""

    def __init__(
        self, public: Address | None = None, trusted: Sequence[Network] = networks(LOOPBACK)
    ) -> None:
        self.public = public
        self._trusted = trusted

    def of(self, scope: Scope) -> Address:
        """The public address, or the one that the client called."""
        return self.public or self.called(scope)

    def called(self, scope: Scope) -> Address:
        """The address that the client called, according to the request."""
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host") or _server(scope)
        scheme, prefix = scope["scheme"], ""
        if self._is_trusted(scope):
            host = next(filter(is_host, [_last(headers, b"x-forwarded-host").encode()]), host)
            proto = _last(headers, b"x-forwarded-proto").lower()
            scheme = proto if proto in {"http", "https"} else scheme
            given = _last(headers, b"x-forwarded-prefix").rstrip("/")
            prefix = given if is_prefix(given) else ""
        return Address(scheme, host.decode("latin-1"), prefix)

    def peer(self, scope: Scope) -> str:
        """From which address the client comes: the connection's, or what a trusted proxy says it is."""
        address = (scope["client"] or ("",))[0]
        if self._is_trusted(scope):
            forwarded = _last(dict(scope["headers"]), b"x-forwarded-for")
            with suppress(ValueError):
                return str(ipaddress.ip_address(forwarded))
        return address

    def _is_trusted(self, scope: Scope) -> bool:
        try:
            peer = ipaddress.ip_address((scope["client"] or ("",))[0])
            # The prefix that an IPv6 socket gives to an IPv4 peer.
            peer = getattr(peer, "ipv4_mapped", None) or peer
        except ValueError:
            return False
        return any(peer in network for network in self._trusted)


def address(request: AnyRequest) -> Address:
    """The address under which the client of this request reaches the service."""
    return _addresses(request.app.state).of(request.scope)


def location(request: AnyRequest, path: str) -> str:
    """The value of `Location` for a path of this service: an absolute URL if `public_url` is set."""
    found = _addresses(request.app.state)
    if found.public is not None:
        return found.public.url + path
    return found.called(request.scope).prefix + path


def peer(request: AnyRequest) -> str:
    """From which address the client of this request comes."""
    return _addresses(request.app.state).peer(request.scope)


def _addresses(state: State) -> Addresses:
    found = state["addresses"]
    if not isinstance(found, Addresses):
        raise TypeError("the application is made with its addresses")
    return found


def _last(headers: Mapping[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1").rpartition(",")[2].strip()


def _server(scope: Scope) -> bytes:
    """The local address of the connection, for an HTTP/1.0 client that names no host."""
    host, port = scope["server"] or ("localhost", None)
    return f"{host}:{port}".encode() if port else host.encode()
