"""JWTs: claims signed by an issuer that this service trusts (RFC 7519; best practice: RFC 8725)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import jwt
import msgspec
from jwt.types import Options

from segmentd.auth.jwt_keys import KeyRing
from segmentd.auth.tokens import TOKEN_BYTES
from segmentd.domain.access import Principal, Role, read_caller_name
from segmentd.domain.errors import Unauthenticated
from segmentd.domain.instants import LAST_INSTANT

_LAST_SECOND: Final = LAST_INSTANT.timestamp()

# PyJWT would check the times by its own clock, and would call a JWT with a sub that is no text malformed. So
# _expiry and _principal check these claims.
_OPTIONS: Final[Options] = {
    "require": ["exp", "sub"],
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_sub": False,
}

# One sentence for all of these, so that nobody can find out by trial which keys exist.
_UNKNOWN_KEY: Final = "The JWT is not signed by a key that this service knows."
_MALFORMED: Final = "The JWT is malformed."
_DETAILS: Final[Mapping[type[jwt.PyJWTError], str]] = {
    jwt.InvalidSignatureError: _UNKNOWN_KEY,
    jwt.InvalidAudienceError: "The JWT was made for another audience.",
    jwt.InvalidIssuerError: "The JWT was made by another issuer.",
}


class JwtRules(msgspec.Struct, frozen=True, kw_only=True):
    """What JWTs must satisfy: the settings jwt_*."""

    key: str | None = None
    jwks_file: Path | None = None
    issuer: str | None = None
    audience: str | None = None
    leeway_seconds: float
    role_claim: str


class Verified(NamedTuple):
    """The caller that a JWT proves. From `expires_at` on, in seconds since 1970, the JWT is refused."""

    principal: Principal
    expires_at: float


class JwtVerifier:
    """Verifies JWTs by one key or a JSON Web Key Set.

    A JWT's header only selects a key: the algorithm is the key's, whatever the header says.
    """

    def __init__(self, rules: JwtRules, keys: KeyRing) -> None:
        self._rules = rules
        self._keys = keys

    @classmethod
    def of(cls, rules: JwtRules) -> "JwtVerifier | None":
        """None where neither a key nor a file is set.

        Raises StartupFailed for a key or a file that is not acceptable.
        """
        keys = KeyRing.of(rules.key, rules.jwks_file)
        return cls(rules, keys) if keys is not None else None

    def reload(self) -> bool:
        """Takes the keys of the file if it changed and is valid.

        Returns whether the keys changed: then earlier verifications may no longer hold.
        """
        return self._keys.reload()

    def verify(self, token: str, now: float) -> Verified:
        """The caller that the JWT proves at `now`, in seconds since 1970. Raises Unauthenticated."""
        if len(token) > TOKEN_BYTES:
            raise Unauthenticated(f"The JWT is longer than {TOKEN_BYTES} bytes.")
        # PyJWT also accepts a padded signature, which RFC 7515 does not allow: a JWT has only one spelling.
        if not token.isascii() or "=" in token:
            raise Unauthenticated(_MALFORMED)
        try:
            claims = self._claims(token)
        except jwt.MissingRequiredClaimError as error:
            raise Unauthenticated(f"The JWT lacks the claim {error.claim}.") from None
        except jwt.PyJWTError as error:
            raise Unauthenticated(_DETAILS.get(type(error), _MALFORMED)) from None
        expires_at = _expiry(claims, now, self._rules.leeway_seconds)
        return Verified(_principal(claims, self._rules.role_claim), expires_at)

    def _claims(self, token: str) -> Mapping[str, object]:
        """The claims of the JWT, once its signature, issuer and audience are verified."""
        header = jwt.get_unverified_header(token)
        if "crit" in header:  # PyJWT accepts one extension, b64, which RFC 7797 forbids in JWTs
            raise Unauthenticated("The JWT has a crit header, and this service knows no extensions.")
        if "cty" in header:
            raise Unauthenticated("The JWT has a cty header, and this service takes no nested JWTs.")
        key = self._keys.find(header.get("alg"), header.get("kid"))
        if key is None:
            raise Unauthenticated(_UNKNOWN_KEY)
        claims: Mapping[str, object] = jwt.decode(
            token,
            key.material,
            algorithms=[key.algorithm],
            options=_OPTIONS,
            audience=self._rules.audience,
            issuer=self._rules.issuer,
        )
        return claims


def _expiry(claims: Mapping[str, object], now: float, leeway: float) -> float:
    """When the JWT expires, leeway included. Refuses one that has expired or is not valid yet."""
    for name in ("nbf", "iat"):
        if name in claims and now + leeway < _seconds(claims, name):
            raise Unauthenticated("The JWT is not valid yet.")
    expires_at = _seconds(claims, "exp") + leeway
    if now >= expires_at:
        raise Unauthenticated("The JWT has expired.")
    return expires_at


def _seconds(claims: Mapping[str, object], name: str) -> float:
    value = claims[name]
    # Python's JSON also gives true, NaN, Infinity and integers too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LAST_SECOND:
        raise Unauthenticated(f"The JWT's {name} is not a number of seconds since 1970.")
    return float(value)


def _principal(claims: Mapping[str, object], role_claim: str) -> Principal:
    try:
        name = read_caller_name(claims["sub"])
    except ValueError as error:
        raise Unauthenticated(f"The JWT's sub is {error}.") from None
    claim = claims.get(role_claim)
    named = claim if isinstance(claim, list) else [claim]
    roles = [role for role in Role if role in named]
    if not roles:
        raise Unauthenticated(
            f"The JWT names no role: its claim {role_claim} must be one of {', '.join(Role)}."
        )
    return Principal(name, roles[-1])  # each role may do what the ones before it may
