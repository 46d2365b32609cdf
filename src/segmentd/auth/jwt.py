"""Stub until the merge."""

from pathlib import Path
from typing import NamedTuple

from segmentd.domain.access import Principal


class Verified(NamedTuple):
    principal: Principal
    expires_at: float


class JwtRules(NamedTuple):
    key: str | None
    jwks_file: Path | None
    issuer: str | None
    audience: str | None
    leeway_seconds: float
    role_claim: str


class JwtVerifier:
    @classmethod
    def of(cls, rules: JwtRules) -> "JwtVerifier | None":
        return None

    def verify(self, token: str, now: float) -> Verified: ...
    def reload(self) -> bool: ...
