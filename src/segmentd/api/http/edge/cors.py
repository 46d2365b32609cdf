"""What pages of other origins may do (CORS): in every answer, the framework's or a refusal before it."""

from collections.abc import Iterable, Sequence
from typing import Final

Headers = Sequence[tuple[bytes, bytes]]

# What such a page may read beside the body.
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
    """Knows the origins whose pages may call; `*` is every one."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._origins = frozenset(origins)
        self._is_for_all = "*" in self._origins

    def allows(self, origin: str | None) -> bool:
        """Whether pages of this origin may call; None: of one that is not named."""
        return self._is_for_all or origin in self._origins

    def headers(self, request: Iterable[tuple[bytes, bytes]]) -> Headers:
        """What every answer to this request says about origins."""
        origin = value_of(request, b"origin") if self._origins else None
        if origin is None:
            return ()
        if not self.allows(origin.decode("latin-1")):
            return (_VARIES,)
        if self._is_for_all:
            return ((_ALLOW_ORIGIN, b"*"), _EXPOSED)
        return ((_ALLOW_ORIGIN, origin), _EXPOSED, _VARIES)

    def preflight(self, request: Headers) -> Headers | None:
        """What answers a page that may call, and asks first; None where this is no such request."""
        origin = value_of(request, b"origin")
        method = value_of(request, b"access-control-request-method")
        if origin is None or method is None or not self.allows(origin.decode("latin-1")):
            return None
        # All headers are allowed. A star would do, but for Authorization.
        allowed = value_of(request, b"access-control-request-headers") or b"*"
        return (
            (b"access-control-allow-methods", ALL_METHODS),
            (b"access-control-allow-headers", allowed),
            (b"access-control-max-age", _SECONDS_TO_REMEMBER),
        )
