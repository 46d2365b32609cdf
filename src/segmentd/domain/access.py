"""Who may do what."""

import enum
import re
from datetime import date, datetime
from typing import Final, NamedTuple, NewType

import msgspec

from segmentd.domain.errors import Forbidden

TokenId = NewType("TokenId", int)

CallerName = NewType("CallerName", str)
"""Of a token, or the subject of a JWT: 1 to 128 visible ASCII characters, with single spaces between them."""

OnBehalfOf = NewType("OnBehalfOf", str)
"""For whom a caller asks: 1 to 256 printable characters."""


class Role(enum.StrEnum):
    """What a caller may do; each role may also do what the roles before it may."""

    READER = "reader"
    """Read everything."""
    EDITOR = "editor"
    """Change memberships, users and segments, order reports."""
    ADMIN = "admin"
    """Erase users, read the audit log, make and revoke tokens."""

    def covers(self, needed: "Role") -> bool:
        """Whether this role may do what `needed` may."""
        order = [*Role]
        return order.index(self) >= order.index(needed)


class Actor(NamedTuple):
    """Who asks for a change, as history and the audit log show it, and on whose behalf, if that is given."""

    name: str
    on_behalf_of: OnBehalfOf | None = None


class Principal(NamedTuple):
    """A caller whose identity is proved: a token's name, or the subject of a JWT."""

    name: str
    role: Role

    def require(self, needed: Role) -> None:
        """Raises Forbidden unless the role may do what `needed` may."""
        if not self.role.covers(needed):
            raise Forbidden(needed)


ANONYMOUS: Final = Principal("anonymous", Role.ADMIN)
"""Every caller while there is no access control."""

RESERVED_NAMES: Final = frozenset({ANONYMOUS.name, "segmentd"})
"""Names that history uses for callers without a token and for the service itself."""


_CALLER_NAME: Final = re.compile(r"[!-~]+( [!-~]+)*")
_MOST_OF_A_NAME: Final = 128
_MOST_ON_BEHALF_OF: Final = 256


def read_caller_name(given: object) -> CallerName:
    """The name that is given. Raises ValueError."""
    if not isinstance(given, str) or len(given) > _MOST_OF_A_NAME or not _CALLER_NAME.fullmatch(given):
        raise ValueError(f"not a name of 1 to {_MOST_OF_A_NAME} visible characters")
    if given in RESERVED_NAMES:
        raise ValueError("a name that this service keeps for itself")
    return CallerName(given)


def read_on_behalf_of(text: str) -> OnBehalfOf:
    """The name in a text. Raises ValueError."""
    if not text.isprintable() or not 1 <= len(text) <= _MOST_ON_BEHALF_OF:
        raise ValueError(f"must be 1 to {_MOST_ON_BEHALF_OF} printable characters in UTF-8")
    return OnBehalfOf(text)


class Token(msgspec.Struct, frozen=True):
    """An opaque API token as it is stored: never the secret, only its SHA-256."""

    id: TokenId
    name: str
    role: Role
    digest: bytes
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_on: date | None
    """In UTC."""

    def holds(self, now: datetime) -> bool:
        """Whether the token is valid at `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)
