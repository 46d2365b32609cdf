"""What pages of other origins may do (CORS): in every answer, the framework's or a refusal before it."""

from collections.abc import Iterable, Sequence
from typing import Final

Headers = Sequence[tuple[bytes, bytes]]

# The headers that such a page may read.
_EXPOSED: Final = (
    b"access-control-expose-headers",
    b"Age, ETag, Location, Retry-After, X-Request-Id",
)
_VARIES: Final = (b"vary", b"Origin")
_ALLOW_ORIGIN: Final = b"access-control-allow-origin"
_SECONDS_TO_REMEMBER: Final = b"600"

ALL_METHODS: Final = b"DELETE, GET, HEAD, OPTIONS, PATCH, POST"


def value_of(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    """The first value of a header, None without."""
    return next((value for name, value in headers if name == wanted), None)


class Cors:
    """The origins whose pages may call; `*` is every origin."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._origins = frozenset(origins)
        self._is_for_all = "*" in self._origins

    def allows(self, origin: str | None) -> bool:
        """Whether pages of this origin may call; None: the request names no origin."""
        return self._is_for_all or origin in self._origins

    def headers(self, request: Iterable[tuple[bytes, bytes]]) -> Headers:
        """The headers about origins in every answer to this request."""
        origin = value_of(request, b"origin") if self._origins else None
        if origin is None:
            return ()
        if not self.allows(origin.decode("latin-1")):
            return (_VARIES,)
        if self._is_for_all:
            return ((_ALLOW_ORIGIN, b"*"), _EXPOSED)
        return ((_ALLOW_ORIGIN, origin), _EXPOSED, _VARIES)

    def preflight(self, request: Headers) -> Headers | None:
        """The headers that answer a preflight of a page that may call; None if this is no such request."""
        origin = value_of(request, b"origin")
        method = value_of(request, b"access-control-request-method")
        if origin is None or method is None or not self.allows(origin.decode("latin-1")):
            return None
        # All headers are allowed. Not by a star, because a star does not include Authorization.
        allowed = value_of(request, b"access-control-request-headers") or b"*"
        return (
            (b"access-control-allow-methods", ALL_METHODS),
            (b"access-control-allow-headers", allowed),
            (b"access-control-max-age", _SECONDS_TO_REMEMBER),
        )
