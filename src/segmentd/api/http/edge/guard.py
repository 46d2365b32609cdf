"""Access control for HTTP: who is calling, and whether the role is enough."""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.handlers import BaseRouteHandler
from litestar.types import Scope

from segmentd.api.http.types import AnyRequest
from segmentd.api.roles import ROLES, check
from segmentd.auth.authenticator import Authenticator
from segmentd.domain.access import Actor, Principal, read_on_behalf_of
from segmentd.domain.errors import Fault, Invalid, Unauthenticated, read

AUTHORIZATION: Final = b"authorization"
API_KEY: Final = b"x-api-key"
ON_BEHALF_OF: Final = "X-On-Behalf-Of"

TAKES_API_KEY: Final = "takes_api_key"
"""A handler's opt: a request with no `Authorization` may have its token in `X-API-Key`."""

# Handlers that Litestar brings.
_OF_THE_FRAMEWORK: Final = {"options_handler": "options", "_handler": "openapi"}

OPERATION: Final = "operation"
"""A handler's opt: its name in the table of roles, where this is not the handler's own name."""

ADMITS: Final = "admits"
"""A handler's opt: an `Admits` that finds the caller in another way than by `Authorization`."""

AnyConnection = ASGIConnection[BaseRouteHandler, object, object, State]


Admits = Callable[[AnyConnection], Awaitable[Principal]]
"""Finds who sends a request. Raises Unauthenticated, TooManyRequests, Unavailable."""


class Guard:
    """Lets a request through to its handler if the table of roles allows it."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def __call__(self, connection: AnyConnection, handler: BaseRouteHandler) -> None:
        """Raises Unauthenticated, Forbidden, TooManyRequests, Unavailable."""
        operation = operation_of(handler)
        if ROLES[operation] is None:
            return
        admits: Admits | None = handler.opt.get(ADMITS)
        if admits is not None:
            note(connection.scope, await admits(connection), operation)
        elif "principal" not in connection.scope["state"]:  # the hot path admits callers by itself
            takes_key = bool(handler.opt.get(TAKES_API_KEY))
            admit(connection.scope, self._authenticator, operation, takes_api_key=takes_key)


def admit(
    scope: Scope, authenticator: Authenticator, operation: str, *, takes_api_key: bool = False
) -> Principal:
    """Notes who sends this request, if they may call the operation now; the log line shows them.

    Raises Unauthenticated, Forbidden, TooManyRequests, Unavailable.
    """
    found = authorization(scope["headers"])
    if found is None and takes_api_key:
        found = bearer(single(scope["headers"], API_KEY, "X-API-Key"))
    return note(scope, authenticator.admit(found), operation)


def note(scope: Scope, principal: Principal, operation: str) -> Principal:
    """Notes who sends this request, if their role is enough. Raises Forbidden."""
    structlog.contextvars.bind_contextvars(actor=principal.name)
    check(principal, operation)
    scope["state"]["principal"] = principal
    return principal


def operation_of(handler: BaseRouteHandler) -> str:
    """The name of this handler in the table of roles."""
    if isinstance(named := handler.opt.get(OPERATION), str):
        return named
    return _OF_THE_FRAMEWORK.get(handler.handler_name, handler.handler_name)


def authorization(headers: object) -> bytes | None:
    """The one `Authorization` header, or None. Raises Unauthenticated if there are several."""
    return single(headers, AUTHORIZATION, "Authorization")


def single(headers: object, name: bytes, written: str) -> bytes | None:
    """The one header with this name, or None. Raises Unauthenticated if there are several."""
    if not isinstance(headers, list | tuple):
        raise TypeError("ASGI's headers are a list")
    found: list[bytes] = [value for each, value in headers if each == name]
    if len(found) > 1:
        raise Unauthenticated(f"There is more than one header {written}.")
    return found[0] if found else None


def bearer(token: bytes | None) -> bytes | None:
    """The `Authorization` that stands for a token of `X-API-Key`."""
    return None if token is None else b"Bearer " + token


def principal(request: AnyRequest) -> Principal:
    """The caller, as the guard found it."""
    found = request.scope["state"]["principal"]
    if not isinstance(found, Principal):
        raise TypeError("the guard notes who is calling")
    return found


def actor(request: AnyRequest) -> Actor:
    """Who asks for a change, and on whose behalf, if the caller says so. Raises Invalid."""
    given = request.headers.getall(ON_BEHALF_OF, [])
    if len(given) > 1:
        raise Invalid(Fault(f"/{ON_BEHALF_OF}", "must be given once"))
    name = read(read_on_behalf_of, _text(given[0]), f"/{ON_BEHALF_OF}") if given else None
    return Actor(principal(request).name, name)


def _text(header: str) -> str:
    """The text of a header in UTF-8; empty if it is no UTF-8."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return ""
